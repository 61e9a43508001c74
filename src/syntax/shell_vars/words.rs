//! Words of a shell script: quotes, backslashes and expansions, followed but never carried out.

use super::script;

/// One word of the script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// Bytes `start..end` of the script.
    pub start: usize,
    pub end: usize,
    pub parts: Vec<(Quote, Part)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quote {
    Bare,
    Single,
    Double,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes that stand for themselves.
    Text(Vec<u8>),
    /// A byte behind a backslash that takes its meaning away.
    Escaped(u8),
    /// `$X` or `${X}`.
    Variable(String),
    /// What only a shell can work out, by its name.
    Shell(&'static str),
}

impl Word {
    /// The word after quote removal, if nothing in it is expanded.
    pub fn literal(&self) -> Option<String> {
        let mut bytes = Vec::new();
        for (_, part) in &self.parts {
            match part {
                Part::Text(text) => bytes.extend_from_slice(text),
                Part::Escaped(byte) => bytes.push(*byte),
                Part::Variable(_) | Part::Shell(_) => return None,
            }
        }
        String::from_utf8(bytes).ok()
    }

    /// The word if it is written without any quote or backslash: only so is it a reserved word.
    pub fn bare(&self) -> Option<&str> {
        match &self.parts[..] {
            [(Quote::Bare, Part::Text(text))] => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// Whether a shell may fail to expand it, and then give up what stands around it.
    pub fn may_fail(&self) -> bool {
        self.parts.iter().any(|(_, part)| matches!(part, Part::Shell(what) if *what != COMMAND))
    }

    /// The name before `=`, if the word is an assignment.
    pub fn assigned_name(&self) -> Option<&str> {
        self.name_before("=")
    }

    /// The name before `+=` or `[`, by which bash adds to a variable; to a POSIX shell such a word is a command.
    pub fn extended_name(&self) -> Option<&str> {
        self.name_before("+=").or_else(|| self.name_before("["))
    }

    /// `NAME[` without its `]`, which bash goes on to look for, however far away it is.
    pub fn opens_subscript(&self) -> bool {
        let closed = |(quote, part): &(Quote, Part)| {
            *quote == Quote::Bare && matches!(part, Part::Text(text) if text.contains(&b']'))
        };
        self.name_before("[").is_some() && !self.parts.iter().any(closed)
    }

    fn name_before(&self, operator: &str) -> Option<&str> {
        let Some((Quote::Bare, Part::Text(text))) = self.parts.first() else { return None };
        let name = &text[..text.iter().take_while(|&&b| is_letter(b)).count()];
        let fits = is_name(name) && text[name.len()..].starts_with(operator.as_bytes());
        fits.then(|| std::str::from_utf8(name).ok())?
    }
}

/// What fails within it fails there.
const COMMAND: &str = "a command";

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub(super) fn is_name(text: &[u8]) -> bool {
    text.first().is_some_and(|b| !b.is_ascii_digit()) && text.iter().all(|b| is_letter(*b))
}

/// Every name that `text` holds, with its place.
pub(super) fn names(text: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let pieces = text.split(|&b| !is_letter(b)).scan(0, |next, piece| {
        let start = std::mem::replace(next, *next + piece.len() + 1);
        Some((start, piece))
    });
    pieces.filter(|(_, name)| is_name(name)).filter_map(|(start, name)| Some((start, std::str::from_utf8(name).ok()?)))
}

/// A place in the script, and what was found on the way to it.
pub(super) struct Reader<'a> {
    pub script: &'a [u8],
    pub at: usize,
    pub line: usize,
    /// What expansions and loops set: line and name.
    pub set: Vec<(usize, String)>,
    /// Where and why the script cannot be followed.
    pub broken: Option<(usize, &'static str)>,
    /// How many expansions and commands are open around this place.
    pub depth: usize,
}

/// Deeper nesting than anyone writes is refused instead of followed, so that the stack holds.
const DEEPEST: usize = 64;

impl Reader<'_> {
    pub fn peek(&self, ahead: usize) -> Option<u8> {
        self.script.get(self.at + ahead).copied()
    }

    pub fn looking_at(&self, text: &[u8]) -> bool {
        self.script[self.at..].starts_with(text)
    }

    pub fn step(&mut self) -> Option<u8> {
        let byte = self.peek(0)?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    pub fn skip_blanks(&mut self) {
        while self.peek(0).is_some_and(|b| b == b' ' || b == b'\t') {
            self.at += 1;
        }
    }

    pub fn broken(&mut self, line: usize, why: &'static str) {
        self.broken.get_or_insert((line, why));
    }

    /// Follows something nested.
    pub fn deeper(&mut self, follow: impl FnOnce(&mut Self)) {
        self.depth += 1;
        if self.depth > DEEPEST {
            self.broken(self.line, "it is nested too deeply");
        } else {
            follow(self);
        }
        self.depth -= 1;
    }

    /// Reads one word; the next byte belongs to it.
    pub fn word(&mut self) -> Word {
        let mut word = Word { start: self.at, ..Word::default() };
        while let (Some(byte), None) = (self.peek(0), self.broken) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => break,
                b'\'' => self.single_quoted(&mut word),
                b'"' => self.double_quoted(&mut word),
                b'\\' => self.backslash(Quote::Bare, &mut word),
                b'$' | b'`' => self.expansion(Quote::Bare, &mut word),
                _ => {
                    push_text(&mut word, Quote::Bare, byte);
                    self.at += 1;
                }
            }
        }
        word.end = self.at;
        word
    }

    fn single_quoted(&mut self, word: &mut Word) {
        let opened = self.line;
        self.at += 1;
        word.parts.push((Quote::Single, Part::Text(Vec::new())));
        loop {
            match self.step() {
                Some(b'\'') => return,
                Some(byte) => push_text(word, Quote::Single, byte),
                None => return self.broken(opened, "it has a ' that does not end"),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) {
        let opened = self.line;
        self.at += 1;
        word.parts.push((Quote::Double, Part::Text(Vec::new())));
        while self.broken.is_none() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'"'), _) => {
                    self.at += 1;
                    return;
                }
                (Some(b'\\'), Some(b'$' | b'`' | b'"' | b'\\' | b'\n')) => self.backslash(Quote::Double, word),
                (Some(b'\\'), _) => {
                    self.at += 1;
                    word.parts.push((Quote::Double, Part::Shell("a \\ before a plain character")));
                }
                (Some(b'$' | b'`'), _) => self.expansion(Quote::Double, word),
                (Some(byte), _) => {
                    self.step();
                    push_text(word, Quote::Double, byte);
                }
                (None, _) => return self.broken(opened, "it has a \" that does not end"),
            }
        }
    }

    fn backslash(&mut self, quote: Quote, word: &mut Word) {
        self.at += 1;
        let part = match self.step() {
            Some(b'\n') => Part::Shell("a line continued with \\"),
            Some(byte) => Part::Escaped(byte),
            None => return self.broken(self.line, "the file ends in a \\"),
        };
        word.parts.push((quote, part));
    }

    /// Reads what starts with `$` or a backtick.
    pub fn expansion(&mut self, quote: Quote, word: &mut Word) {
        let mut part = Part::Shell(COMMAND);
        self.deeper(|reader| match (reader.peek(0), reader.peek(1)) {
            (Some(b'`'), _) => reader.backticks(),
            (_, Some(b'(')) => {
                reader.at += 1;
                match reader.arithmetic() {
                    true => part = Part::Shell("arithmetic"),
                    false => {
                        reader.at += 1;
                        script::read_nested(reader);
                    }
                }
            }
            (_, Some(b'{')) => part = reader.braced(quote),
            _ => part = reader.dollar(quote),
        });
        word.parts.push((quote, part));
    }

    fn dollar(&mut self, quote: Quote) -> Part {
        self.at += 1;
        let name = self.name();
        if !name.is_empty() {
            return Part::Variable(name);
        }
        match self.peek(0) {
            Some(b'[') => {
                self.broken(self.line, "it has a $[, which is arithmetic to bash alone");
                Part::Shell("arithmetic")
            }
            Some(b'0'..=b'9' | b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => {
                self.at += 1;
                Part::Shell("a parameter of the shell")
            }
            Some(b'\'') if quote == Quote::Bare => {
                // bash knows escapes in there, other shells do not: they must not disagree where it ends.
                let text = self.script[self.at + 1..].split(|&b| b == b'\'').next().unwrap_or_default();
                if text.ends_with(b"\\") {
                    self.broken(self.line, "shells do not agree where its $'…' ends");
                }
                Part::Shell("bash's $'…'")
            }
            _ => Part::Shell("a $ without a name"),
        }
    }

    fn name(&mut self) -> String {
        let rest = &self.script[self.at..];
        let length = rest.iter().take_while(|b| is_letter(**b)).count();
        if !is_name(&rest[..length]) {
            return String::new();
        }
        self.at += length;
        String::from_utf8_lossy(&rest[..length]).into_owned()
    }

    /// What runs between backticks runs in a shell of its own, and sets nothing out here.
    fn backticks(&mut self) {
        let opened = self.line;
        self.at += 1;
        loop {
            match self.step() {
                Some(b'`') => return,
                Some(b'\\') => drop(self.step()),
                Some(_) => {}
                None => return self.broken(opened, "it has a ` that does not end"),
            }
        }
    }

    /// `${…}`: a plain name is a variable, everything else needs a shell.
    fn braced(&mut self, quote: Quote) -> Part {
        let opened = self.line;
        self.at += 2;
        let name = self.name();
        if self.peek(0) == Some(b'}') && !name.is_empty() {
            self.at += 1;
            return Part::Variable(name);
        }
        if self.looking_at(b"=") || self.looking_at(b":=") {
            self.set.push((opened, name));
        }
        let mut inner = Word::default();
        while self.broken.is_none() {
            match self.peek(0) {
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                Some(b'\'' | b'"') if quote == Quote::Double => {
                    self.broken(self.line, "shells do not agree on quotes within ${…} within quotes");
                }
                Some(b'\'') => self.single_quoted(&mut inner),
                Some(b'"') => self.double_quoted(&mut inner),
                Some(b'\\') => self.backslash(quote, &mut inner),
                Some(b'$' | b'`') => self.expansion(quote, &mut inner),
                Some(_) => drop(self.step()),
                None => self.broken(opened, "it has a ${ that does not end"),
            }
        }
        Part::Shell("a ${…} with more than a name")
    }

    /// Reads the `((…))` of arithmetic, with the first parenthesis to come; false, and nothing read, if it is none.
    pub fn arithmetic(&mut self) -> bool {
        let rest = &self.script[self.at..];
        let mut depth = 0usize;
        let mut at = if rest.starts_with(b"((") { 0 } else { rest.len() };
        while let Some(&byte) = rest.get(at) {
            at += 1;
            match byte {
                b'(' => depth += 1,
                b')' if depth == 2 && rest.get(at) == Some(&b')') => {
                    let text = &rest[..at];
                    self.set.extend(set_by_arithmetic(text).map(|name| (self.line, name.to_owned())));
                    self.line += text.iter().filter(|&&b| b == b'\n').count();
                    self.at += at + 1;
                    return true;
                }
                b')' if depth == 1 => return false,
                b')' => depth -= 1,
                b'\'' | b'"' | b'`' | b'\\' => {
                    let quoted = rest[at..].split(|&b| b == byte).next().unwrap_or_default();
                    if byte == b'\\' || quoted.contains(&b'(') || quoted.contains(&b')') {
                        self.broken(self.line, "it has quotes or a backslash between (( and ))");
                        return true;
                    }
                    at += quoted.len() + 1;
                }
                _ => {}
            }
        }
        false
    }

    /// Reads the words of bash's array on to its `)`.
    pub fn array(&mut self) {
        let opened = self.line;
        self.at += 1;
        while self.broken.is_none() {
            match self.peek(0) {
                Some(b')') => {
                    self.at += 1;
                    return;
                }
                Some(b' ' | b'\t' | b'\n') => drop(self.step()),
                Some(b'#') => self.at = self.line_end(),
                Some(b';' | b'&' | b'|' | b'<' | b'>' | b'(') => self.broken(self.line, "it has an odd array"),
                Some(_) => drop(self.word()),
                None => self.broken(opened, "it has a ( that does not end"),
            }
        }
    }

    pub fn line_end(&self) -> usize {
        let rest = &self.script[self.at..];
        rest.iter().position(|&b| b == b'\n').map_or(self.script.len(), |n| self.at + n)
    }
}

/// The names in `text` that stand beside `=`, `+=`, `++` or the like.
fn set_by_arithmetic(text: &[u8]) -> impl Iterator<Item = &str> {
    const ASSIGNING: [&str; 15] =
        ["++", "--", "=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", ":=", "["];
    let set = names(text).filter(|&(start, name)| {
        let blank = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'');
        let before = &text[..start];
        let before = &before[..before.len() - before.iter().rev().take_while(|b| blank(b)).count()];
        let after = &text[start + name.len()..];
        let after = &after[after.iter().take_while(|b| blank(b)).count()..];
        let assigned =
            !after.starts_with(b"==") && ASSIGNING.iter().any(|operator| after.starts_with(operator.as_bytes()));
        assigned || before.ends_with(b"++") || before.ends_with(b"--")
    });
    set.map(|(_, name)| name)
}

fn push_text(word: &mut Word, quote: Quote, byte: u8) {
    match word.parts.last_mut() {
        Some((last, Part::Text(text))) if *last == quote => text.push(byte),
        _ => word.parts.push((quote, Part::Text(vec![byte]))),
    }
}
