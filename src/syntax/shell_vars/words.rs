//! Words of a shell script: quotes, backslashes and expansions, followed but never carried out.

use super::script::{self, Unit};

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
    pub fn reserved(&self) -> Option<&str> {
        match &self.parts[..] {
            [(Quote::Bare, Part::Text(text))] => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The name before `=`, if the word is an assignment.
    pub fn assigned_name(&self) -> Option<&str> {
        self.name_before(b"=")
    }

    /// The name before `+=`, by which bash adds to a variable. To a POSIX shell such a word is a command.
    pub fn appended_name(&self) -> Option<&str> {
        self.name_before(b"+=")
    }

    /// `NAME[`, with which bash begins an element of an array, however far away its `]` is.
    pub fn is_element(&self) -> bool {
        let Some((Quote::Bare, Part::Text(text))) = self.parts.first() else { return false };
        text.iter().position(|&b| b == b'[').is_some_and(|at| is_name(&text[..at]))
    }

    fn name_before(&self, operator: &[u8]) -> Option<&str> {
        let (Quote::Bare, Part::Text(text)) = self.parts.first()? else {
            return None;
        };
        let equals = text.iter().position(|&b| b == b'=')?;
        let name = text[..=equals].strip_suffix(operator)?;
        is_name(name).then(|| std::str::from_utf8(name).ok())?
    }
}

pub(super) fn is_name(text: &[u8]) -> bool {
    text.first().is_some_and(|b| !b.is_ascii_digit()) && text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// A place in the script, and the unit that is being read.
pub(super) struct Reader<'a> {
    pub script: &'a [u8],
    pub at: usize,
    pub line: usize,
    pub unit: Unit,
    /// How many expansions are open around this place.
    pub depth: usize,
}

/// Deeper nesting than anyone writes is refused instead of followed, so that the stack holds.
pub(super) const DEEPEST: usize = 64;

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

    pub fn broken(&mut self, why: &'static str) {
        self.broken_at(self.line, why);
    }

    pub fn broken_at(&mut self, line: usize, why: &'static str) {
        self.unit.broken.get_or_insert((line, why));
    }

    /// Reads one word; the next byte belongs to it.
    pub fn word(&mut self) -> Word {
        let mut word = Word { start: self.at, ..Word::default() };
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => break,
                b'\'' => self.single_quoted(&mut word),
                b'"' => self.double_quoted(&mut word),
                b'\\' => self.backslash(&mut word),
                b'$' | b'`' => self.expansion(Quote::Bare, &mut word),
                _ => {
                    push_text(&mut word, Quote::Bare, byte);
                    self.at += 1;
                }
            }
            if self.unit.broken.is_some() {
                break;
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
                None => return self.broken_at(opened, "of a ' that does not end"),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) {
        let opened = self.line;
        self.at += 1;
        word.parts.push((Quote::Double, Part::Text(Vec::new())));
        while self.unit.broken.is_none() {
            match self.peek(0) {
                Some(b'"') => {
                    self.at += 1;
                    return;
                }
                Some(b'\\') => match self.peek(1) {
                    Some(b'\n') => {
                        self.step();
                        self.step();
                        word.parts.push((Quote::Double, Part::Shell("a line continued with \\")));
                    }
                    Some(byte @ (b'$' | b'`' | b'"' | b'\\')) => {
                        self.at += 2;
                        word.parts.push((Quote::Double, Part::Escaped(byte)));
                    }
                    _ => {
                        self.at += 1;
                        word.parts.push((Quote::Double, Part::Shell("a \\ before a plain character")));
                    }
                },
                Some(b'$' | b'`') => self.expansion(Quote::Double, word),
                Some(byte) => {
                    self.step();
                    push_text(word, Quote::Double, byte);
                }
                None => return self.broken_at(opened, "of a \" that does not end"),
            }
        }
    }

    fn backslash(&mut self, word: &mut Word) {
        match self.peek(1) {
            Some(b'\n') => {
                self.step();
                self.step();
                word.parts.push((Quote::Bare, Part::Shell("a line continued with \\")));
            }
            Some(byte) => {
                self.at += 2;
                word.parts.push((Quote::Bare, Part::Escaped(byte)));
            }
            None => self.broken("of a \\ at the end of the file"),
        }
    }

    /// Reads what starts with `$` or a backtick.
    pub fn expansion(&mut self, quote: Quote, word: &mut Word) {
        if self.depth >= DEEPEST {
            return self.broken("it is nested too deeply");
        }
        self.depth += 1;
        let part = if self.peek(0) == Some(b'`') {
            self.backticks(quote);
            Part::Shell("a command")
        } else if self.looking_at(b"$((") {
            self.arithmetic();
            Part::Shell("arithmetic")
        } else if self.looking_at(b"$(") {
            self.at += 2;
            script::read_substitution(self);
            Part::Shell("a command")
        } else if self.looking_at(b"${") {
            self.braced(quote)
        } else {
            self.dollar(quote)
        };
        self.depth -= 1;
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
                self.broken("of $[, which is bash's own");
                Part::Shell("arithmetic")
            }
            Some(b'0'..=b'9' | b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => {
                self.at += 1;
                Part::Shell("a parameter of the shell")
            }
            Some(b'\'' | b'"') if quote == Quote::Bare => Part::Shell("bash's $'…'"),
            _ => Part::Shell("a $ without a name"),
        }
    }

    pub fn name(&mut self) -> String {
        let rest = &self.script[self.at..];
        if rest.first().is_none_or(u8::is_ascii_digit) {
            return String::new();
        }
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        self.at += length;
        String::from_utf8_lossy(&rest[..length]).into_owned()
    }

    /// What stands between backticks, one backslash less, is a script of its own.
    fn backticks(&mut self, quote: Quote) {
        let opened = self.line;
        let mut inner = Vec::new();
        self.at += 1;
        loop {
            match self.step() {
                Some(b'`') => break,
                Some(b'\\') => match self.step() {
                    Some(b'"') if quote == Quote::Double => inner.push(b'"'),
                    Some(byte @ (b'$' | b'`' | b'\\')) => inner.push(byte),
                    Some(byte) => inner.extend([b'\\', byte]),
                    None => {}
                },
                Some(byte) => inner.push(byte),
                None => return self.broken_at(opened, "of a ` that does not end"),
            }
        }
        if script::units(&inner).iter().any(|unit| unit.broken.is_some()) {
            self.broken_at(opened, "of what stands between ` and `");
        }
    }

    /// `${…}`: a plain name is a variable, everything else needs a shell.
    fn braced(&mut self, quote: Quote) -> Part {
        self.at += 2;
        let name = self.name();
        if self.peek(0) == Some(b'}') && !name.is_empty() {
            self.at += 1;
            return Part::Variable(name);
        }
        let operator = BRACED.iter().find(|operator| self.looking_at(operator));
        if name.is_empty() && operator.is_some_and(|o| *o == b"#") {
            return self.length();
        }
        match operator {
            _ if self.looking_at(b":?") || self.looking_at(b"?") => self.broken("of a ${…?}, which may end the shell"),
            _ if name.is_empty() => self.broken("of a ${…} that not every shell reads"),
            None => self.broken("of a ${…} that not every shell reads"),
            Some(operator) => {
                if operator.ends_with(b"=") {
                    self.unit.set_by_expansion.push(name);
                }
                self.at += operator.len();
            }
        }
        let mut inner = Word::default();
        while self.unit.broken.is_none() {
            match self.peek(0) {
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                // Shells do not agree on quotes in here once they stand between quotes themselves.
                Some(b'\'' | b'"') if quote == Quote::Double => self.broken("of quotes within ${…} within quotes"),
                Some(b'\'') => self.single_quoted(&mut inner),
                Some(b'"') => self.double_quoted(&mut inner),
                Some(b'\\') => {
                    self.step();
                    self.step();
                }
                Some(b'$' | b'`') => self.expansion(quote, &mut inner),
                Some(_) => {
                    self.step();
                }
                None => self.broken("of a ${ that does not end"),
            }
        }
        Part::Shell("a ${…} with more than a name")
    }

    /// `${#NAME}`, with `${` already read.
    fn length(&mut self) -> Part {
        self.at += 1;
        if self.name().is_empty() || self.step() != Some(b'}') {
            self.broken("of a ${#…} that not every shell reads");
        }
        Part::Shell("a length")
    }
}

/// What may stand between the name and the word of a `${…}`, a longer one before its beginning.
const BRACED: &[&[u8]] = &[b":-", b":=", b":+", b"-", b"=", b"+", b"%%", b"%", b"##", b"#"];

fn push_text(word: &mut Word, quote: Quote, byte: u8) {
    match word.parts.last_mut() {
        Some((last, Part::Text(text))) if *last == quote => text.push(byte),
        _ => word.parts.push((quote, Part::Text(vec![byte]))),
    }
}
