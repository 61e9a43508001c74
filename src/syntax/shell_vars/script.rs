//! Cuts a shell script into its simple commands and notes of each where it stands, and what else could set a
//! variable. Nothing is run or expanded.
//!
//! Whether a shell would take the whole is not asked: of a script that no shell reads to its end nobody has values.
//! What this reader cannot follow ends the reading.

use std::collections::HashSet;

use super::redirections::HereDocument;
use super::words::{Part, Quote, Reader, Word};

/// What was found in a script.
#[derive(Default)]
pub(super) struct Script {
    pub commands: Vec<Command>,
    /// Functions that it defines: line index, from 0, and name.
    pub functions: Vec<(usize, String)>,
    /// Variables that expansions and loops set: `${X:=a}`, `$((X=1))`, `for X in a`.
    pub set: Vec<(usize, String)>,
    /// Where and why it cannot be followed.
    pub broken: Option<(usize, &'static str)>,
    /// The lists that hold more than assignments. If anything in a list fails, bash gives up the rest of it, and goes
    /// on in the next line.
    mixed: HashSet<usize>,
}

impl Script {
    /// Whether the command's list holds nothing but assignments, each run once and in its turn.
    pub fn is_plain(&self, command: &Command) -> bool {
        !self.mixed.contains(&command.list)
    }
}

/// One simple command: its assignments, then its words.
#[derive(Clone, Debug, Default)]
pub(super) struct Command {
    pub line: usize,
    /// Counts the lists of commands, each up to a newline outside of all compound commands.
    pub list: usize,
    pub assignments: Vec<Word>,
    pub words: Vec<Word>,
    pub redirected: bool,
    /// Joined to another one by `&&`, `|` or the like, or sent to the background.
    pub linked: bool,
    /// The compound command around all others: its line and first word.
    pub inside: Option<(usize, String)>,
    pub in_function: bool,
    /// A piece of bash's `[[ … ]]`, which is no command to bash.
    pub test: bool,
}

impl Command {
    /// The words that are assignments which stay: all of a command without a name, and those of `export` and
    /// `readonly`. `None` for another command.
    pub fn assigning(&self) -> Option<&[Word]> {
        match self.words.split_first() {
            None => Some(&self.assignments),
            Some((name, words)) if self.assignments.is_empty() => {
                matches!(name.bare(), Some("export" | "readonly")).then_some(words)
            }
            Some(_) => None,
        }
    }

    /// Whether it is run once and in its turn, if all before it in its list have gone well.
    pub fn is_in_turn(&self) -> bool {
        self.inside.is_none() && !self.linked && !self.in_function && !self.redirected
    }

    fn is_mixed(&self) -> bool {
        let Some(words) = self.assigning() else { return true };
        !self.is_in_turn() || words.iter().any(Word::may_fail)
    }
}

/// Reads `script`, which has no carriage returns before its newlines.
pub(super) fn read(script: &[u8]) -> Script {
    let mut reader = Reader { script, at: 0, line: 0, set: Vec::new(), broken: None, depth: 0 };
    let mut found = Commands::new(&mut reader, false).read();
    (found.set, found.broken) = (reader.set, reader.broken);
    found
}

/// Reads on to the `)` of a `$(` or `<(`, and behind it. What runs in there sets nothing out here.
pub(super) fn read_nested(reader: &mut Reader) {
    let set = reader.set.len();
    Commands::new(reader, true).read();
    reader.set.truncate(set);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    If,
    Loop,
    /// Behind `case`, before its word.
    CaseWord,
    /// Behind that word, before `in`.
    CaseHead,
    CasePattern,
    /// In the commands behind a pattern.
    CaseBody,
    Brace,
    Paren,
}

/// A compound command that is not closed yet.
struct Open {
    kind: Kind,
    line: usize,
    word: String,
    function: bool,
}

pub(super) struct Commands<'r, 'a> {
    pub reader: &'r mut Reader<'a>,
    /// Ends at a closing parenthesis instead of at the end of the file.
    nested: bool,
    list: usize,
    opened: usize,
    open: Vec<Open>,
    pub here: Vec<HereDocument>,
    pub command: Command,
    /// Whether a command's first word, or a pattern's, is to come.
    first: bool,
    /// `&&`, `|` or the like stands before the next command.
    linked: bool,
    /// `name()` stands before it.
    function: bool,
    /// `[[` stands before this place in the same line.
    test: bool,
    found: Script,
}

impl<'r, 'a> Commands<'r, 'a> {
    fn new(reader: &'r mut Reader<'a>, nested: bool) -> Self {
        let (opened, command) = (reader.line, Command { line: reader.line, ..Command::default() });
        let (open, here, found) = (Vec::new(), Vec::new(), Script::default());
        Self {
            reader,
            nested,
            list: 0,
            opened,
            open,
            here,
            command,
            first: true,
            linked: false,
            function: false,
            test: false,
            found,
        }
    }

    fn read(mut self) -> Script {
        while self.reader.broken.is_none() {
            let Some(byte) = self.reader.peek(0) else {
                self.ends();
                break;
            };
            match byte {
                b' ' | b'\t' => self.reader.at += 1,
                b'\\' if self.reader.peek(1) == Some(b'\n') => {
                    self.reader.step();
                    self.reader.step();
                }
                b'#' => self.reader.at = self.reader.line_end(),
                b'\n' => {
                    self.reader.step();
                    self.here_documents();
                    self.test = false;
                    self.finish();
                    self.list += usize::from(self.open.is_empty() && !self.linked && !self.function);
                }
                b';' | b'&' | b'|' => self.operator(byte),
                b')' if self.nested && self.open.is_empty() => {
                    self.reader.at += 1;
                    if !self.here.is_empty() {
                        self.reader.broken(self.opened, "it has a here-document that does not end");
                    }
                    break;
                }
                b'(' | b')' => self.parenthesis(byte),
                b'<' | b'>' => self.redirection(),
                _ => {
                    let word = self.reader.word();
                    self.place(word);
                }
            }
        }
        if self.reader.broken.is_none() {
            self.finish();
        }
        self.found
    }

    fn ends(&mut self) {
        match self.open.first() {
            Some(open) => self.reader.broken(open.line, "it begins what the file does not end"),
            None if self.nested => self.reader.broken(self.opened, "it has a ( that does not end"),
            None if !self.here.is_empty() => {
                self.reader.broken(self.reader.line, "it has a here-document that does not end");
            }
            None => {}
        }
    }

    fn kind(&self) -> Option<Kind> {
        self.open.last().map(|open| open.kind)
    }

    /// Decides what a word is by where it stands.
    fn place(&mut self, word: Word) {
        let number = word.bare().is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
        if number && matches!(self.reader.peek(0), Some(b'<' | b'>')) {
            return; // the descriptor of a redirection
        }
        let command_is_empty = self.command.assignments.is_empty() && !self.command.redirected;
        match self.kind() {
            Some(Kind::CaseWord) => return self.turn(Kind::CaseHead),
            Some(Kind::CaseHead) if word.bare() == Some("in") => return self.turn(Kind::CasePattern),
            Some(Kind::CaseHead) => return self.reader.broken(self.reader.line, "it has a case without its in"),
            Some(Kind::CasePattern) if self.first && word.bare() == Some("esac") => {
                return self.close(Kind::CasePattern);
            }
            Some(Kind::CasePattern) => return self.first = false,
            _ if self.first && command_is_empty && self.reserved(&word) => return,
            _ => {}
        }
        let assigns = word.assigned_name().is_some() || word.extended_name().is_some();
        if self.first && word.opens_subscript() {
            self.reader.broken(self.reader.line, "it has a [ that bash looks for the ] of");
        }
        let array = self.reader.peek(0) == Some(b'(') && assigns && word.parts.len() == 1;
        let mut word = word;
        if array {
            self.reader.array();
            word.parts.push((Quote::Bare, Part::Shell("bash's array")));
            word.end = self.reader.at;
        }
        if self.first && word.assigned_name().is_some() {
            self.command.assignments.push(word);
        } else {
            self.test = (self.test || self.first && word.bare() == Some("[[")) && word.bare() != Some("]]");
            self.command.test |= self.test;
            self.command.words.push(word);
            self.first = false;
        }
    }

    /// Moves the innermost compound command on.
    fn turn(&mut self, kind: Kind) {
        if let Some(top) = self.open.last_mut() {
            top.kind = kind;
        }
        self.first = true;
    }

    fn begin(&mut self, kind: Kind, word: &str) {
        let function = std::mem::take(&mut self.function);
        self.linked = false;
        self.mixes();
        self.open.push(Open { kind, line: self.reader.line, word: word.to_owned(), function });
        if self.open.len() > 64 {
            self.reader.broken(self.reader.line, "it is nested too deeply");
        }
        self.first = true;
    }

    fn close(&mut self, kind: Kind) {
        match self.kind() {
            Some(top) if top == kind => drop(self.open.pop()),
            _ => self.reader.broken(self.reader.line, "it ends what it did not begin"),
        }
    }

    /// Files the command away and starts the next.
    fn finish(&mut self) {
        let next = Command { line: self.reader.line, ..Command::default() };
        let mut done = std::mem::replace(&mut self.command, next);
        self.first = true;
        if done.words.is_empty() && done.assignments.is_empty() {
            return;
        }
        done.linked |= std::mem::take(&mut self.linked);
        done.inside = self.open.first().map(|open| (open.line, open.word.clone()));
        done.in_function = std::mem::take(&mut self.function) || self.open.iter().any(|open| open.function);
        done.list = self.list;
        if done.is_mixed() {
            self.mixes();
        }
        self.found.commands.push(done);
    }

    /// The list holds more than assignments.
    pub fn mixes(&mut self) {
        self.found.mixed.insert(self.list);
    }

    fn operator(&mut self, byte: u8) {
        if self.reader.looking_at(b"&>") {
            return self.output_redirection();
        }
        self.reader.at += 1;
        let doubled = self.reader.peek(0) == Some(byte);
        self.reader.at += usize::from(doubled);
        self.command.linked |= byte != b';';
        self.finish();
        match (byte, self.kind()) {
            (b'|', Some(Kind::CasePattern)) => self.first = false,
            (b';', Some(Kind::CaseBody)) if doubled || self.reader.peek(0) == Some(b'&') => {
                while self.reader.peek(0) == Some(b'&') {
                    self.reader.at += 1; // bash's ;& and ;;&
                }
                self.turn(Kind::CasePattern);
            }
            (b';', _) if doubled => self.reader.broken(self.reader.line, "it has a ;; outside of a case"),
            (b'|', _) => {
                self.reader.at += usize::from(!doubled && self.reader.peek(0) == Some(b'&')); // bash's |&
                self.linked = true;
            }
            _ => self.linked = byte == b'&' && doubled,
        }
    }

    fn parenthesis(&mut self, byte: u8) {
        let command = &self.command;
        let names_one = command.assignments.is_empty() && !command.redirected && command.words.len() == 1;
        match (byte, self.kind()) {
            (b'(', Some(Kind::CasePattern)) => self.first = false,
            (b')', Some(Kind::CasePattern)) => self.turn(Kind::CaseBody),
            _ if self.test => {} // it has parentheses of its own
            (b')', _) => {
                self.finish();
                self.close(Kind::Paren);
            }
            _ if self.first && command.assignments.is_empty() => {
                if self.reader.arithmetic() {
                    (self.linked, self.function) = (false, false);
                    return self.mixes();
                }
                self.begin(Kind::Paren, "(");
            }
            _ if names_one => return self.function_definition(),
            _ => self.reader.broken(self.reader.line, "it has a ( where no shell expects one"),
        }
        self.reader.at += 1;
    }

    /// `name()`, at its `(`.
    fn function_definition(&mut self) {
        self.reader.at += 1;
        self.reader.skip_blanks();
        let name = self.command.words[0].literal();
        match name.filter(|_| self.reader.step() == Some(b')')) {
            Some(name) => {
                self.found.functions.push((self.reader.line, name));
                self.mixes();
                (self.function, self.first) = (true, true);
                self.command = Command { line: self.reader.line, ..Command::default() };
            }
            None => self.reader.broken(self.reader.line, "it has a ( where no shell expects one"),
        }
    }

    /// Reads a reserved word. False if `word` is none, which makes it the command's name.
    fn reserved(&mut self, word: &Word) -> bool {
        let Some(text) = word.bare() else { return false };
        match text {
            "if" => self.begin(Kind::If, text),
            "while" | "until" => self.begin(Kind::Loop, text),
            "for" | "select" => {
                self.begin(Kind::Loop, text);
                self.reader.skip_blanks();
                if !self.reader.arithmetic() {
                    let name = self.reader.word().literal().unwrap_or_default();
                    self.reader.set.push((self.reader.line, name));
                    self.reader.skip_blanks();
                    self.first = !self.reader.looking_at(b"in");
                }
            }
            "case" => self.begin(Kind::CaseWord, text),
            "{" => self.begin(Kind::Brace, text),
            "fi" => self.close(Kind::If),
            "done" => self.close(Kind::Loop),
            "}" => self.close(Kind::Brace),
            "esac" => self.close(Kind::CaseBody),
            "then" | "elif" | "else" | "do" => {}
            "!" | "time" | "coproc" => self.linked = true,
            "function" => {
                self.reader.skip_blanks();
                let name = self.reader.word().literal().unwrap_or_default();
                self.found.functions.push((self.reader.line, name));
                self.reader.skip_blanks();
                self.reader.at += if self.reader.looking_at(b"()") { 2 } else { 0 };
                self.function = true;
            }
            _ => return false,
        }
        true
    }
}
