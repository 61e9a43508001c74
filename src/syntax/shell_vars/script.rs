//! Cuts a shell script into the units that a shell reads and runs one after the other, and notes in each what could
//! set a variable. Nothing is run or expanded. The grammar is POSIX's (XCU chapter 2); what only bash knows, what is
//! out of place, and what is left open at the end makes a unit broken.

use super::redirections::HereDocument;
use super::words::{DEEPEST, Reader, Word, is_name};

/// From the first word after a finished command to the newline that ends this one: one line as a rule, more with an
/// open quote, a compound command, a trailing `&&` or a here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Index of its first line, from 0.
    pub first: usize,
    pub commands: Vec<Command>,
    /// The first word of the outermost compound command, such as `if`.
    pub compound: Option<String>,
    /// `&`, `|`, `&&`, `||`, redirections, continued lines: more than plain commands one after the other.
    pub operators: bool,
    /// Names of functions that it defines.
    pub functions: Vec<String>,
    /// Variables that an expansion or a loop sets: `${X:=a}`, `$((X=1))`, `for X in a`.
    pub set_by_expansion: Vec<String>,
    /// Why a shell would stop here: line index and reason.
    pub broken: Option<(usize, &'static str)>,
}

impl Unit {
    /// Whether every command in it is run once, here and in turn, whatever the others did.
    pub fn is_plain(&self) -> bool {
        self.compound.is_none() && !self.operators && self.functions.is_empty() && self.broken.is_none()
    }
}

/// One simple command: its assignments, then its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub line: usize,
    pub assignments: Vec<Word>,
    pub words: Vec<Word>,
    pub redirected: bool,
}

/// The units of `script`, which has no carriage returns before its newlines.
pub(super) fn units(script: &[u8]) -> Vec<Unit> {
    let mut reader = Reader { script, at: 0, line: 0, unit: Unit::default(), depth: 0 };
    let mut units = Vec::new();
    while reader.at < script.len() {
        reader.unit = Unit { first: reader.line, ..Unit::default() };
        Commands { reader: &mut reader, open: Vec::new(), here: Vec::new(), state: State::Empty, nested: false }.read();
        units.push(std::mem::take(&mut reader.unit));
    }
    units
}

/// Reads on to the `)` of a `$(`. What runs in there is a subshell and sets nothing out here.
pub(super) fn read_substitution(reader: &mut Reader) {
    let outer = std::mem::take(&mut reader.unit);
    reader.unit.first = reader.line;
    Commands { reader, open: vec![Open::Paren], here: Vec::new(), state: State::Empty, nested: true }.read();
    let broken = reader.unit.broken;
    reader.unit = Unit { broken, ..outer };
}

/// A compound command that is not closed yet, by what comes next in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// `if` or `elif`, up to `then`.
    Condition,
    Then,
    Else,
    /// `while` or `until`, up to `do`.
    LoopHead,
    /// The words of a `for`.
    ForHead,
    LoopBody,
    /// Behind `case`, before its word.
    CaseWord,
    /// Behind that word, before `in`.
    CaseHead,
    CasePattern,
    /// In the commands behind a pattern, where there may be none.
    CaseBody,
    Brace,
    Paren,
}

/// What stands before the place that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, or a finished command.
    Empty,
    /// What demands a command: `then`, `&&`, `(` and their like.
    Needs,
    /// The same, behind `|`, where `!` is not allowed.
    Piped,
    /// The same, behind `name()`, where bash allows only a compound command.
    Body,
    /// `!`, which demands one in the same line.
    Negated,
    /// Assignments or redirections of a command; reserved words are no longer recognised.
    Prefix,
    /// A command's name.
    Words,
    /// The end of a compound command: no further word fits.
    Closed,
}

impl State {
    /// Whether a command has to come, here or in the next line.
    fn demands(self) -> bool {
        matches!(self, State::Needs | State::Piped | State::Body | State::Negated)
    }

    /// Whether the next word is a command's first, and so may be a reserved one.
    pub(super) fn takes_reserved(self) -> bool {
        self == State::Empty || self.demands()
    }
}

pub(super) struct Commands<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    open: Vec<Open>,
    pub(super) here: Vec<HereDocument>,
    pub(super) state: State,
    /// Ends at its closing parenthesis instead of at a newline.
    nested: bool,
}

impl Commands<'_, '_> {
    fn read(&mut self) {
        let mut command = Command { line: self.reader.line, ..Command::default() };
        loop {
            let Some(byte) = self.reader.peek(0) else {
                let unfinished = self.state.demands();
                if unfinished || !self.open.is_empty() || !self.here.is_empty() {
                    self.reader.broken_at(self.reader.unit.first, "the file ends before the command does");
                }
                break;
            };
            match byte {
                b' ' | b'\t' => self.reader.at += 1,
                b'\\' if self.reader.peek(1) == Some(b'\n') => {
                    self.reader.step();
                    self.reader.step();
                    // Such a command is read, but none of its lines is a plain assignment.
                    self.reader.unit.operators = true;
                }
                b'#' => self.reader.at = self.line_end(),
                b'\n' => {
                    self.reader.step();
                    self.read_here_documents();
                    self.finish(&mut command);
                    match self.state {
                        state if self.open.last() == Some(&Open::CasePattern) && state != State::Empty => {
                            self.reader.broken("of a pattern without its )");
                        }
                        State::Negated => self.reader.broken("of a ! without a command"),
                        State::Needs | State::Piped | State::Body => {}
                        _ if self.open.is_empty() => break,
                        _ => self.state = State::Empty,
                    }
                }
                b';' | b'&' | b'|' => {
                    self.operator(byte);
                    self.finish(&mut command);
                }
                b'(' | b')' => self.parenthesis(byte, &mut command),
                b'<' | b'>' => self.redirection(&mut command),
                _ => {
                    let word = self.reader.word();
                    self.place(word, &mut command);
                }
            }
            if self.open.len() > DEEPEST {
                self.reader.broken("it is nested too deeply");
            }
            if self.reader.unit.broken.is_some() {
                self.reader.at = self.reader.script.len();
                break;
            }
            if self.nested && self.open.is_empty() {
                if !self.here.is_empty() {
                    self.reader.broken("of a here-document that does not end");
                }
                break;
            }
        }
        self.finish(&mut command);
    }

    /// Decides what a word is by where it stands.
    fn place(&mut self, word: Word, command: &mut Command) {
        let number = word.reserved().is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
        if number && matches!(self.reader.peek(0), Some(b'<' | b'>')) {
            return; // The descriptor of a redirection.
        }
        let recognised = self.state.takes_reserved();
        match (self.open.last(), self.state) {
            (Some(Open::CaseWord), _) => return self.enter(Open::CaseHead, State::Empty),
            (Some(Open::CaseHead), _) if word.reserved() == Some("in") => {
                return self.enter(Open::CasePattern, State::Empty);
            }
            (Some(Open::CasePattern), State::Empty) if word.reserved() == Some("esac") => {
                return self.close();
            }
            (Some(Open::CasePattern), State::Empty | State::Needs) => {
                return self.state = State::Words;
            }
            (Some(Open::CaseHead | Open::CasePattern), _) => {
                return self.reader.broken("of a word out of place in a case");
            }
            (Some(Open::ForHead), State::Words) => return,
            (Some(Open::ForHead), _) if word.reserved() != Some("do") => {
                return self.reader.broken("of a word out of place in a for");
            }
            _ => {}
        }
        if recognised && self.reserved(&word) {
            return;
        }
        match self.state {
            State::Empty | State::Needs | State::Piped | State::Negated | State::Prefix if word.is_element() => {
                self.reader.broken("an array is bash's own");
            }
            State::Body => self.reader.broken("of a function without braces"),
            State::Closed => self.reader.broken("of a word behind the end of a compound command"),
            state if word.assigned_name().is_some() && (state == State::Prefix || state.takes_reserved()) => {
                if self.reader.peek(0) == Some(b'(') {
                    self.reader.broken("an array is bash's own");
                }
                self.state = State::Prefix;
                command.assignments.push(word);
            }
            _ => {
                self.state = State::Words;
                command.words.push(word);
            }
        }
    }

    /// Moves the innermost compound command on.
    fn enter(&mut self, open: Open, state: State) {
        if let Some(top) = self.open.last_mut() {
            *top = open;
        }
        self.state = state;
    }

    fn begin(&mut self, open: Open, state: State) {
        self.open.push(open);
        self.state = state;
    }

    fn close(&mut self) {
        self.open.pop();
        self.state = State::Closed;
    }

    /// Files the command away and starts the next.
    fn finish(&mut self, command: &mut Command) {
        let done = std::mem::replace(command, Command { line: self.reader.line, ..Command::default() });
        if !done.words.is_empty() || !done.assignments.is_empty() {
            self.reader.unit.commands.push(done);
        }
    }

    /// Reads `;`, `;;`, `&`, `&&`, `|` or `||`.
    fn operator(&mut self, byte: u8) {
        if self.reader.looking_at(b"&>") || self.reader.looking_at(b"|&") {
            return self.reader.broken("of &> or |&, which not every shell takes alike");
        }
        self.reader.at += 1;
        let doubled = self.reader.peek(0) == Some(byte);
        self.reader.at += usize::from(doubled);
        self.reader.unit.operators |= byte != b';';
        let nothing = self.state.takes_reserved();
        match (self.open.last(), byte, doubled) {
            (Some(Open::CasePattern), b'|', false) if self.state == State::Words => self.state = State::Needs,
            (Some(Open::CaseBody), b';', true) if !self.state.demands() => {
                self.enter(Open::CasePattern, State::Empty);
            }
            (Some(Open::CasePattern | Open::CaseHead | Open::CaseWord), ..) | (_, b';', true) => {
                self.reader.broken("of an operator out of place");
            }
            (Some(Open::ForHead), _, _) if byte != b';' => self.reader.broken("of an operator out of place in a for"),
            _ if nothing => self.reader.broken("of an operator without a command before it"),
            (_, b'|', false) => self.state = State::Piped,
            (_, b'|', true) | (_, b'&', true) => self.state = State::Needs,
            _ => self.state = State::Empty,
        }
    }

    fn parenthesis(&mut self, byte: u8, command: &mut Command) {
        self.reader.at += 1;
        match (byte, self.open.last()) {
            (b'(', Some(Open::CasePattern)) if self.state == State::Empty => self.state = State::Needs,
            (b')', Some(Open::CasePattern)) if self.state == State::Words => self.enter(Open::CaseBody, State::Empty),
            (_, Some(Open::CasePattern | Open::CaseHead | Open::CaseWord | Open::ForHead)) => {
                self.reader.broken("of a parenthesis out of place");
            }
            (b')', Some(Open::Paren)) if !self.state.demands() => self.close(),
            (b')', _) => self.reader.broken("of a ) out of place"),
            _ if self.state.takes_reserved() => {
                self.reader.unit.compound.get_or_insert_with(|| "(".to_owned());
                self.begin(Open::Paren, State::Needs);
            }
            _ => self.function_definition(command),
        }
        self.finish(command);
    }

    /// `name()`, with the `(` already read.
    fn function_definition(&mut self, command: &mut Command) {
        self.reader.skip_blanks();
        let name = match &command.words[..] {
            [word] if self.reader.peek(0) == Some(b')') && command.assignments.is_empty() && !command.redirected => {
                word.reserved()
            }
            _ => None,
        };
        let Some(name) = name.filter(|name| is_name(name.as_bytes())).map(str::to_owned) else {
            return self.reader.broken("of a ( that no POSIX shell expects there");
        };
        self.reader.at += 1;
        *command = Command { line: self.reader.line, ..Command::default() };
        self.reader.unit.compound.get_or_insert_with(|| format!("{name}()"));
        self.reader.unit.functions.push(name);
        self.state = State::Body;
    }

    /// Reads a reserved word. False if `word` is none, which makes it the command's name.
    fn reserved(&mut self, word: &Word) -> bool {
        let Some(text) = word.reserved() else {
            return false;
        };
        let complete = self.state == State::Empty;
        match (text, self.open.last().copied()) {
            ("if", _) => self.begin(Open::Condition, State::Needs),
            ("while" | "until", _) => self.begin(Open::LoopHead, State::Needs),
            ("for", _) => {
                self.begin(Open::ForHead, State::Words);
                self.read_loop_variable();
            }
            ("case", _) => self.begin(Open::CaseWord, State::Words),
            ("{", _) => self.begin(Open::Brace, State::Needs),
            ("!", _) if !matches!(self.state, State::Negated | State::Piped | State::Body) => {
                self.state = State::Negated
            }
            ("then", Some(Open::Condition)) if complete => self.enter(Open::Then, State::Needs),
            ("elif", Some(Open::Then)) if complete => self.enter(Open::Condition, State::Needs),
            ("else", Some(Open::Then)) if complete => self.enter(Open::Else, State::Needs),
            ("fi", Some(Open::Then | Open::Else)) if complete => self.close(),
            ("do", Some(Open::LoopHead | Open::ForHead)) if complete => self.enter(Open::LoopBody, State::Needs),
            ("done", Some(Open::LoopBody)) if complete => self.close(),
            ("}", Some(Open::Brace)) if complete => self.close(),
            ("esac", Some(Open::CaseBody)) if complete => self.close(),
            ("!" | "then" | "elif" | "else" | "fi" | "do" | "done" | "}" | "esac", _) => {
                self.reader.broken("of a reserved word out of place");
            }
            ("function" | "select" | "coproc" | "time" | "[[", _) => self.reader.broken("of a word that is bash's own"),
            _ => return false,
        }
        self.reader.unit.compound.get_or_insert_with(|| text.to_owned());
        true
    }

    fn read_loop_variable(&mut self) {
        self.reader.skip_blanks();
        let word = self.reader.word();
        match word.reserved().filter(|name| is_name(name.as_bytes())) {
            Some(name) => self.reader.unit.set_by_expansion.push(name.to_owned()),
            None => self.reader.broken("of a for without a name"),
        }
    }
}
