//! Cuts a shell script into the units that a shell reads and runs one after the other, and notes in each what could
//! set a variable. Nothing is run or expanded. The grammar is POSIX's (XCU chapter 2); what only bash knows, and what
//! is left open at the end, makes a unit broken.

use std::collections::VecDeque;

/// From the first word after a finished command to the newline that ends this one: one line as a rule, more with an
/// open quote, a compound command, a trailing `&&` or a here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Index of the first and the last line, from 0.
    pub first: usize,
    pub last: usize,
    pub commands: Vec<Command>,
    /// The first word of the outermost compound command, such as `if`.
    pub compound: Option<String>,
    /// `;`, `&`, `|`, `&&`, `||`, redirections, parentheses: more than one plain command.
    pub operators: bool,
    /// Names of functions that it defines.
    pub functions: Vec<String>,
    /// Variables that an expansion sets: `${X:=a}`, `$((X=1))`.
    pub set_by_expansion: Vec<String>,
    /// Why a shell would stop here: line index and reason.
    pub broken: Option<(usize, &'static str)>,
}

/// One simple command: its assignments, then its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub line: usize,
    pub assignments: Vec<Word>,
    pub words: Vec<Word>,
}

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
    fn reserved(&self) -> Option<&str> {
        match &self.parts[..] {
            [(Quote::Bare, Part::Text(text))] => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The name before `=` or `+=`, if the word is an assignment.
    pub fn assigned_name(&self) -> Option<&str> {
        let (Quote::Bare, Part::Text(text)) = self.parts.first()? else { return None };
        let equals = text.iter().position(|&b| b == b'=')?;
        let name = text[..equals].strip_suffix(b"+").unwrap_or(&text[..equals]);
        is_name(name).then(|| std::str::from_utf8(name).ok())?
    }
}

pub(super) fn is_name(text: &[u8]) -> bool {
    text.first().is_some_and(|b| !b.is_ascii_digit()) && text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// The units of `script`, which has no carriage returns before its newlines.
pub(super) fn units(script: &[u8]) -> Vec<Unit> {
    let mut reader = Reader { script, at: 0, line: 0, unit: Unit::default(), open: Vec::new(), here: VecDeque::new() };
    let mut units = Vec::new();
    while reader.at < script.len() {
        reader.unit = Unit { first: reader.line, ..Unit::default() };
        reader.open.clear();
        reader.here.clear();
        reader.read_unit();
        let ended_by_newline = reader.at > 0 && script[reader.at - 1] == b'\n';
        reader.unit.last = reader.line.saturating_sub(usize::from(ended_by_newline)).max(reader.unit.first);
        units.push(std::mem::take(&mut reader.unit));
    }
    units
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    If,
    Loop,
    /// Between `case` and `in`.
    CaseHead,
    /// Where a pattern is expected.
    CasePattern,
    /// In the commands behind a pattern.
    CaseBody,
    Brace,
    Paren,
}

struct HereDocument {
    delimiter: Vec<u8>,
    tabs_stripped: bool,
    expanded: bool,
}

struct Reader<'a> {
    script: &'a [u8],
    at: usize,
    line: usize,
    unit: Unit,
    open: Vec<Open>,
    here: VecDeque<HereDocument>,
}

/// Deeper nesting than anyone writes is refused instead of followed, so that the stack holds.
const DEEPEST: usize = 64;

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.script.get(self.at + ahead).copied()
    }

    fn looking_at(&self, text: &[u8]) -> bool {
        self.script[self.at..].starts_with(text)
    }

    fn step(&mut self) -> Option<u8> {
        let byte = self.peek(0)?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn broken(&mut self, why: &'static str) {
        let line = self.line;
        self.unit.broken.get_or_insert((line, why));
    }

    fn read_unit(&mut self) {
        let mut command = Command { line: self.line, ..Command::default() };
        // Whether the next word is a command's first, and whether a newline may not end the unit yet.
        let (mut first, mut pending) = (true, false);
        loop {
            let Some(byte) = self.peek(0) else {
                if pending || !self.open.is_empty() || !self.here.is_empty() {
                    self.broken("the file ends before the command does");
                }
                break;
            };
            match byte {
                b' ' | b'\t' => self.at += 1,
                b'\\' if self.peek(1) == Some(b'\n') => {
                    self.step();
                    self.step();
                }
                b'#' => {
                    while self.peek(0).is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                b'\n' => {
                    self.step();
                    self.read_here_documents();
                    self.finish(&mut command);
                    if self.open.is_empty() && !pending {
                        break;
                    }
                    first = true;
                }
                b';' | b'&' | b'|' => {
                    pending = self.operator(byte);
                    self.finish(&mut command);
                    first = true;
                }
                b'(' | b')' => {
                    self.parenthesis(byte, &mut command, first);
                    (first, pending) = (true, false);
                }
                b'<' | b'>' => self.redirection(),
                _ => {
                    pending = false;
                    let word = self.word();
                    if self.open.last() == Some(&Open::CasePattern) {
                        if word.reserved() == Some("esac") {
                            self.open.pop();
                            first = false;
                        }
                    } else if first && self.reserved(&word, &mut command, &mut first) {
                        // Handled.
                    } else if self.open.last() == Some(&Open::CaseHead) && word.reserved() == Some("in") {
                        self.set_top(Open::CasePattern);
                        self.finish(&mut command);
                    } else if first && word.assigned_name().is_some() {
                        self.stop_at_array();
                        command.assignments.push(word);
                    } else {
                        first = false;
                        command.words.push(word);
                    }
                }
            }
            if self.open.len() > DEEPEST {
                self.broken("it is nested too deeply");
            }
            if self.unit.broken.is_some() {
                self.at = self.script.len();
                break;
            }
        }
        self.finish(&mut command);
    }

    fn set_top(&mut self, open: Open) {
        if let Some(top) = self.open.last_mut() {
            *top = open;
        }
    }

    /// Files the command away and starts the next.
    fn finish(&mut self, command: &mut Command) {
        let done = std::mem::replace(command, Command { line: self.line, ..Command::default() });
        if !done.words.is_empty() || !done.assignments.is_empty() {
            self.unit.commands.push(done);
        }
    }

    /// Reads `;`, `;;`, `&`, `&&`, `|` or `||`; true if the next line still belongs to the command.
    fn operator(&mut self, byte: u8) -> bool {
        self.unit.operators = true;
        self.at += 1;
        let doubled = self.peek(0) == Some(byte);
        self.at += usize::from(doubled);
        match (byte, doubled) {
            (b';', true) if self.open.last() == Some(&Open::CaseBody) => self.set_top(Open::CasePattern),
            (b';', true) => self.broken("of a ;; outside of a case"),
            _ => {}
        }
        byte == b'|' || (byte == b'&' && doubled)
    }

    fn parenthesis(&mut self, byte: u8, command: &mut Command, first: bool) {
        self.unit.operators = true;
        self.at += 1;
        match (byte, self.open.last()) {
            (b'(', Some(Open::CasePattern)) => {}
            (b')', Some(Open::CasePattern)) => self.set_top(Open::CaseBody),
            (b')', Some(Open::Paren)) => {
                self.open.pop();
            }
            (b')', _) => self.broken("of a ) that nothing opened"),
            (_, _) if first && command.assignments.is_empty() => {
                self.unit.compound.get_or_insert_with(|| "(".to_owned());
                self.open.push(Open::Paren);
            }
            (_, _) => self.function_definition(command),
        }
        self.finish(command);
    }

    /// `name()`, with the `(` already read.
    fn function_definition(&mut self, command: &mut Command) {
        while self.peek(0).is_some_and(|b| b == b' ' || b == b'\t') {
            self.at += 1;
        }
        let name = match &command.words[..] {
            [word] if self.peek(0) == Some(b')') => word.reserved().map(str::to_owned),
            _ => None,
        };
        let Some(name) = name else { return self.broken("of a ( that no POSIX shell expects there") };
        self.at += 1;
        *command = Command { line: self.line, ..Command::default() };
        self.unit.compound.get_or_insert_with(|| format!("{name}()"));
        self.unit.functions.push(name);
    }

    /// `A=(a b)` is an array of bash; a POSIX shell stops at it.
    fn stop_at_array(&mut self) {
        if self.peek(0) == Some(b'(') {
            self.broken("an array is bash's own");
        }
    }

    fn redirection(&mut self) {
        self.unit.operators = true;
        let here = self.looking_at(b"<<") && self.peek(2) != Some(b'<');
        let tabs_stripped = here && self.peek(2) == Some(b'-');
        self.at += if here { 2 + usize::from(tabs_stripped) } else { 1 };
        while self.peek(0).is_some_and(|b| matches!(b, b'<' | b'>' | b'&' | b'|' | b' ' | b'\t')) {
            self.at += 1;
        }
        if self.peek(0).is_none_or(|b| matches!(b, b'\n' | b'(' | b')' | b';' | b'#')) {
            return self.broken("of a redirection to nothing");
        }
        let target = self.word();
        if here {
            let expanded =
                target.parts.iter().all(|(quote, part)| *quote == Quote::Bare && !matches!(part, Part::Escaped(_)));
            match target.literal() {
                Some(delimiter) => {
                    self.here.push_back(HereDocument { delimiter: delimiter.into_bytes(), tabs_stripped, expanded });
                }
                None => self.broken("of a here-document's delimiter"),
            }
        }
    }

    fn read_here_documents(&mut self) {
        while let Some(document) = self.here.pop_front() {
            let start = self.at;
            loop {
                if self.at >= self.script.len() {
                    return self.broken("of a here-document that does not end");
                }
                let (line_start, end) = (self.at, self.line_end());
                let mut text = &self.script[line_start..end];
                if document.tabs_stripped {
                    text = &text[text.iter().take_while(|&&b| b == b'\t').count()..];
                }
                self.at = end;
                self.step();
                if text == document.delimiter {
                    if document.expanded {
                        self.read_expansions_of(start, line_start);
                    }
                    break;
                }
            }
        }
    }

    fn line_end(&self) -> usize {
        self.script[self.at..].iter().position(|&b| b == b'\n').map_or(self.script.len(), |n| self.at + n)
    }

    /// Notes what the expansions in a here-document's body set.
    fn read_expansions_of(&mut self, start: usize, end: usize) {
        let after = (self.at, self.line);
        let mut body = Word::default();
        self.at = start;
        while self.at < end {
            match self.peek(0) {
                Some(b'\\') => self.at += 2,
                Some(b'$' | b'`') => self.expansion(Quote::Double, &mut body, 0),
                _ => self.at += 1,
            }
        }
        (self.at, self.line) = after;
    }

    /// Reads a reserved word. False if `word` is none, which makes it the command's name.
    fn reserved(&mut self, word: &Word, command: &mut Command, first: &mut bool) -> bool {
        if !command.assignments.is_empty() {
            return false;
        }
        let Some(text) = word.reserved() else { return false };
        let top = self.open.last().copied();
        match text {
            "if" => self.open.push(Open::If),
            "while" | "until" => self.open.push(Open::Loop),
            "for" => {
                self.open.push(Open::Loop);
                self.read_loop_variable();
                *first = false;
            }
            "case" => {
                self.open.push(Open::CaseHead);
                *first = false;
            }
            "{" => self.open.push(Open::Brace),
            "!" => {}
            "then" | "elif" | "else" if top == Some(Open::If) => {}
            "do" if top == Some(Open::Loop) => {}
            "fi" if top == Some(Open::If) => self.close(first),
            "done" if top == Some(Open::Loop) => self.close(first),
            "}" if top == Some(Open::Brace) => self.close(first),
            "esac" if top == Some(Open::CaseBody) => self.close(first),
            "then" | "elif" | "else" | "do" | "fi" | "done" | "}" | "esac" => {
                self.broken("of a reserved word out of place");
            }
            "function" | "select" | "coproc" | "[[" => self.broken("it is bash's own"),
            _ => return false,
        }
        self.unit.compound.get_or_insert_with(|| text.to_owned());
        true
    }

    fn close(&mut self, first: &mut bool) {
        self.open.pop();
        *first = false;
    }

    /// The loop variable counts as set by an expansion: it changes, and no assignment word shows it.
    fn read_loop_variable(&mut self) {
        while self.peek(0).is_some_and(|b| b == b' ' || b == b'\t') {
            self.at += 1;
        }
        if self.peek(0).is_none_or(|b| matches!(b, b'\n' | b'(' | b')' | b';' | b'&' | b'|' | b'<' | b'>')) {
            return self.broken("of a for without a name");
        }
        let word = self.word();
        match word.reserved() {
            Some(name) => self.unit.set_by_expansion.push(name.to_owned()),
            None => self.broken("of a for without a name"),
        }
    }

    /// Reads one word; the next byte belongs to it.
    fn word(&mut self) -> Word {
        let mut word = Word { start: self.at, ..Word::default() };
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => break,
                b'\'' => self.single_quoted(&mut word),
                b'"' => self.double_quoted(&mut word, 0),
                b'\\' => self.backslash(&mut word),
                b'$' | b'`' => self.expansion(Quote::Bare, &mut word, 0),
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
        self.at += 1;
        word.parts.push((Quote::Single, Part::Text(Vec::new())));
        loop {
            match self.step() {
                Some(b'\'') => return,
                Some(byte) => push_text(word, Quote::Single, byte),
                None => return self.broken("of a ' that does not end"),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word, depth: usize) {
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
                Some(b'$' | b'`') => self.expansion(Quote::Double, word, depth),
                Some(byte) => {
                    self.step();
                    push_text(word, Quote::Double, byte);
                }
                None => return self.broken("of a \" that does not end"),
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
    fn expansion(&mut self, quote: Quote, word: &mut Word, depth: usize) {
        if depth > DEEPEST {
            return self.broken("it is nested too deeply");
        }
        let part = if self.peek(0) == Some(b'`') {
            self.backticks();
            Part::Shell("a command")
        } else if self.looking_at(b"$((") {
            self.arithmetic(depth);
            Part::Shell("arithmetic")
        } else if self.looking_at(b"$(") {
            self.at += 2;
            self.skip_to_parenthesis(depth);
            Part::Shell("a command")
        } else if self.looking_at(b"${") {
            self.braced(depth)
        } else {
            self.dollar(quote)
        };
        word.parts.push((quote, part));
    }

    fn dollar(&mut self, quote: Quote) -> Part {
        self.at += 1;
        let name = self.name();
        if !name.is_empty() {
            return Part::Variable(name);
        }
        match self.peek(0) {
            Some(b'0'..=b'9' | b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => {
                self.at += 1;
                Part::Shell("a parameter of the shell")
            }
            Some(b'\'' | b'"') if quote == Quote::Bare => Part::Shell("bash's $'…'"),
            _ => Part::Shell("a $ without a name"),
        }
    }

    fn name(&mut self) -> String {
        let rest = &self.script[self.at..];
        if rest.first().is_none_or(u8::is_ascii_digit) {
            return String::new();
        }
        let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        self.at += length;
        String::from_utf8_lossy(&rest[..length]).into_owned()
    }

    fn backticks(&mut self) {
        self.at += 1;
        loop {
            match self.step() {
                Some(b'`') => return,
                Some(b'\\') => {
                    self.step();
                }
                Some(_) => {}
                None => return self.broken("of a ` that does not end"),
            }
        }
    }

    /// `${…}`: a plain name is a variable, everything else needs a shell.
    fn braced(&mut self, depth: usize) -> Part {
        self.at += 2;
        let name = self.name();
        if self.peek(0) == Some(b'}') && !name.is_empty() {
            self.at += 1;
            return Part::Variable(name);
        }
        if self.looking_at(b":=") || self.peek(0) == Some(b'=') {
            self.unit.set_by_expansion.push(name);
        } else if self.peek(0) == Some(b'!') {
            self.broken("${!…} is bash's own");
        }
        let mut inner = Word::default();
        while self.unit.broken.is_none() {
            match self.peek(0) {
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                Some(b'\'') => self.single_quoted(&mut inner),
                Some(b'"') => self.double_quoted(&mut inner, depth + 1),
                Some(b'\\') => {
                    self.step();
                    self.step();
                }
                Some(b'$' | b'`') => self.expansion(Quote::Double, &mut inner, depth + 1),
                Some(_) => {
                    self.step();
                }
                None => self.broken("of a ${ that does not end"),
            }
        }
        Part::Shell("a ${…} with more than a name")
    }

    /// `$((…))`. Bare names count as set: telling `X=1` and `X++` from `X` takes the whole expression grammar.
    fn arithmetic(&mut self, depth: usize) {
        self.at += 3;
        let mut parentheses = 0usize;
        let mut inner = Word::default();
        while self.unit.broken.is_none() {
            let name = self.name();
            if !name.is_empty() {
                self.unit.set_by_expansion.push(name);
                continue;
            }
            match self.peek(0) {
                Some(b')') if parentheses > 0 => {
                    parentheses -= 1;
                    self.at += 1;
                }
                Some(b')') if self.peek(1) == Some(b')') => {
                    self.at += 2;
                    return;
                }
                Some(b')') | None => self.broken("of a $(( that does not end"),
                Some(b'(') => {
                    parentheses += 1;
                    self.at += 1;
                }
                Some(b'$' | b'`') => self.expansion(Quote::Double, &mut inner, depth + 1),
                Some(_) => {
                    self.step();
                }
            }
        }
    }

    /// To the `)` of a `$(`. What runs in there is a subshell and sets nothing out here.
    fn skip_to_parenthesis(&mut self, depth: usize) {
        let mut inner = Word::default();
        let set_outside = self.unit.set_by_expansion.len();
        let mut parentheses = 0usize;
        let mut word_starts = true;
        while self.unit.broken.is_none() {
            let starts = std::mem::replace(&mut word_starts, false);
            match self.peek(0) {
                Some(b')') if parentheses == 0 => {
                    self.at += 1;
                    break;
                }
                Some(b'\'') => self.single_quoted(&mut inner),
                Some(b'"') => self.double_quoted(&mut inner, depth + 1),
                Some(b'$' | b'`') => self.expansion(Quote::Double, &mut inner, depth + 1),
                Some(b'\\') => {
                    self.step();
                    self.step();
                }
                Some(b'#') if starts => {
                    while self.peek(0).is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                Some(b'<') if self.peek(1) == Some(b'<') => self.broken("of a here-document inside $( )"),
                Some(byte) => {
                    parentheses += usize::from(byte == b'(');
                    parentheses -= usize::from(byte == b')');
                    word_starts = matches!(byte, b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')');
                    self.step();
                }
                None => self.broken("of a $( that does not end"),
            }
        }
        self.unit.set_by_expansion.truncate(set_outside);
    }
}

fn push_text(word: &mut Word, quote: Quote, byte: u8) {
    match word.parts.last_mut() {
        Some((last, Part::Text(text))) if *last == quote => text.push(byte),
        _ => word.parts.push((quote, Part::Text(vec![byte]))),
    }
}
