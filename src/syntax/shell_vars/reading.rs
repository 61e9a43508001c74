//! What a shell would have assigned at the end of a script, as far as that can be known without running it, and
//! where it cannot.

use std::collections::{HashMap, HashSet};

use super::super::SyntaxError;
use super::super::lines::shown;
use super::Assignment;
use super::script::{Command, Unit, units};
use super::words::{Part, Quote, Word, is_name};

/// Commands after which nobody knows what a variable holds, or whether the shell goes on.
const FAR_REACHING: &[&str] = &[
    ".",
    "source",
    "eval",
    "exec",
    "exit",
    "return",
    "alias",
    "unalias",
    "trap",
    "builtin",
    "enable",
    "let",
    "mapfile",
    "readarray",
    "shopt",
    "getopts",
    "local",
];

/// Commands whose failing redirection ends the shell (XCU 2.8.1).
const SPECIAL: &[&str] = &["export", "readonly", "set", "unset", ":", "shift", "times", "break", "continue"];

/// Commands that this reader takes at their word; a function of that name would make it wrong.
const TRUSTED: &[&str] =
    &["export", "readonly", "set", "unset", "read", "command", "declare", "typeset", "printf", ":"];

/// Variables that a shell sets by itself, and not to what the environment says.
const SHELLS_OWN: &[&str] = &[
    "IFS",
    "OPTIND",
    "OPTARG",
    "PPID",
    "LINENO",
    "PWD",
    "OLDPWD",
    "PS1",
    "PS2",
    "PS4",
    "RANDOM",
    "SECONDS",
    "HOSTNAME",
    "HOSTTYPE",
    "MACHTYPE",
    "OSTYPE",
    "UID",
    "EUID",
    "GROUPS",
    "SHLVL",
    "SHELLOPTS",
    "BASH",
    "BASHOPTS",
    "BASHPID",
    "_",
];

/// Longer than any value that this is for; keeps `A=$A$A` from doubling until the memory is gone.
const LONGEST_VALUE: usize = 4096;

pub(super) struct Reading<'a> {
    script: &'a [u8],
    wanted: &'a [&'a str],
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// What the file has assigned so far; `None`: only a shell knows.
    known: HashMap<String, Option<String>>,
    /// What functions assign: it may change at every later line.
    volatile: HashSet<String>,
    readonly: HashMap<String, usize>,
    pub found: Vec<Assignment>,
    pub errors: Vec<SyntaxError>,
}

impl<'a> Reading<'a> {
    /// Reads `script`, which holds no NUL and has plain newlines.
    pub fn of(script: &'a [u8], wanted: &'a [&'a str], environment: &'a dyn Fn(&str) -> Option<String>) -> Reading<'a> {
        let (known, volatile, readonly) = (HashMap::new(), HashSet::new(), HashMap::new());
        let (found, errors) = (Vec::new(), Vec::new());
        let mut reading = Reading { script, wanted, environment, known, volatile, readonly, found, errors };
        for unit in units(script) {
            reading.unit(&unit);
        }
        reading
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    /// `line` is an index, from 0.
    fn error(&mut self, line: usize, message: impl std::fmt::Display) {
        self.errors.push(SyntaxError::new(line + 1, message));
    }

    fn text(&self, word: &Word) -> &'a [u8] {
        &self.script[word.start..word.end]
    }

    fn command_text(&self, command: &Command) -> String {
        let mut words = command.assignments.iter().chain(&command.words);
        let (Some(first), last) = (words.next(), words.next_back()) else {
            return String::new();
        };
        shown(&self.script[first.start..last.unwrap_or(first).end])
    }

    fn unit(&mut self, unit: &Unit) {
        if let Some((line, why)) = unit.broken {
            let rest = "what follows is not read. Mend the line, or remove it";
            return self.error(line, format!("a shell stops here, because {}: {rest}", why.trim_start_matches("of ")));
        }
        for name in unit.functions.iter().filter(|name| TRUSTED.contains(&name.as_str())) {
            self.error(unit.first, format!("makes a function of {name}, which this file is read by. Rename it"));
        }
        for command in &unit.commands {
            self.command(unit, command);
        }
        for name in &unit.set_by_expansion {
            if self.wants(name) {
                let how = "in passing, and this file is read, not run. Write the value on a line of its own";
                self.error(unit.first, format!("sets {name} {how}: {}", example(name)));
            }
            self.forget(unit, name);
        }
    }

    /// From here on only a shell knows what `name` holds.
    fn forget(&mut self, unit: &Unit, name: &str) {
        if !unit.functions.is_empty() {
            self.volatile.insert(name.to_owned());
        }
        self.known.insert(name.to_owned(), None);
    }

    fn command(&mut self, unit: &Unit, command: &Command) {
        let stays = command.words.is_empty();
        for word in &command.assignments {
            self.assignment(unit, command, word, stays);
        }
        let Some(first) = command.words.first() else {
            return;
        };
        if let Some(name) = first.appended_name() {
            return self.addition(unit, command, name);
        }
        let Some(name) = first.literal() else {
            let text = self.command_text(command);
            return self.error(command.line, format!("only a shell knows what `{text}` runs. Remove the line"));
        };
        if command.redirected && SPECIAL.contains(&name.as_str()) {
            let text = self.command_text(command);
            let why = "ends the shell if its redirection fails, and this file is read, not run";
            return self.error(command.line, format!("`{text}` {why}. Remove the redirection"));
        }
        match (name.as_str(), command.words.get(1).and_then(Word::literal)) {
            ("command", Some(option)) if matches!(option.as_str(), "-v" | "-V") => {}
            ("command", _) => {
                let words = command.words[1..].to_vec();
                self.command(unit, &Command { line: command.line, words, ..Command::default() });
            }
            ("export" | "readonly", _) => self.declaration(unit, command, &name),
            (own, Some(next)) if self.wants(own) && next.starts_with('=') => {
                let message = format!("has blanks around =, which makes {own} a command. Write {}", example(own));
                self.error(command.line, message);
            }
            _ => self.other(unit, command, &name),
        }
    }

    /// `A+=x`, which bash takes for an assignment and a POSIX shell for a command.
    fn addition(&mut self, unit: &Unit, command: &Command, name: &str) {
        self.forget(unit, name);
        let set = |word: &Word| word.appended_name().or_else(|| word.assigned_name()).map(str::to_owned);
        let names: Vec<Option<String>> = command.words.iter().map(set).collect();
        // A word that is no assignment is the command that bash would run.
        let runs = names.iter().any(Option::is_none);
        let wanted = names.into_iter().flatten().find(|name| self.wants(name));
        if runs || wanted.is_some() {
            let (text, name) = (self.command_text(command), wanted.unwrap_or_else(|| name.to_owned()));
            let message = format!("`{text}` adds to a value, which only bash does. Write {}", example(&name));
            self.error(command.line, message);
        }
    }

    /// `export A=1 B`, `readonly A`.
    fn declaration(&mut self, unit: &Unit, command: &Command, name: &str) {
        for word in &command.words[1..] {
            if word.assigned_name().is_some() {
                self.assignment(unit, command, word, true);
            }
            match word.assigned_name().map(str::to_owned).or_else(|| word.literal()) {
                Some(variable) if is_name(variable.as_bytes()) => {
                    if name == "readonly" {
                        self.readonly.insert(variable, command.line);
                    }
                }
                Some(option) if option == "-p" => {}
                _ => {
                    let text = self.command_text(command);
                    self.error(command.line, format!("`{text}` is no plain {name}. Write {name} NAME=\"value\""));
                }
            }
        }
    }

    /// A command that is no assignment: harmless unless it reaches variables by another way.
    fn other(&mut self, unit: &Unit, command: &Command, name: &str) {
        let arguments = &command.words[1..];
        let reaches = match name {
            "set" => !arguments.iter().all(|word| word.literal().is_some_and(|text| is_harmless_option(&text))),
            "unset" | "read" => self.reaches(unit, arguments, if name == "unset" { &["-v", "-f"] } else { &["-r"] }),
            "declare" | "typeset" => self.reaches(unit, arguments, &["-x", "-r", "-i", "-g"]),
            "printf" | "wait" => arguments.iter().any(|word| {
                word.literal().is_none_or(|text| text.starts_with("-v") || text.starts_with("-p")) && name != "printf"
                    || word.literal().is_some_and(|text| text.starts_with("-v"))
            }),
            // Within a function it is at home; what it names counts as forgotten like the rest of a body.
            "local" if !unit.functions.is_empty() => self.reaches(unit, arguments, &[]),
            _ => FAR_REACHING.contains(&name),
        };
        if reaches {
            let text = self.command_text(command);
            let why = "could change a value that this file gives, and it is read, not run";
            self.error(command.line, format!("`{text}` {why}. Write the values themselves, and remove the line"));
        }
    }

    /// Whether a command that changes the variables it names could change a wanted one; forgets the others.
    fn reaches(&mut self, unit: &Unit, arguments: &[Word], options: &[&str]) -> bool {
        let mut reaches = false;
        for word in arguments {
            let name = word.assigned_name().map(str::to_owned).or_else(|| word.literal());
            match name.as_deref() {
                Some(option) if options.contains(&option) => {}
                Some(name) if is_name(name.as_bytes()) && !self.wants(name) && !self.readonly.contains_key(name) => {
                    self.forget(unit, name);
                }
                _ => reaches = true,
            }
        }
        reaches
    }

    fn assignment(&mut self, unit: &Unit, command: &Command, word: &Word, stays: bool) {
        let Some(name) = word.assigned_name().map(str::to_owned) else {
            return;
        };
        if let Some(line) = self.readonly.get(&name) {
            let message =
                format!("a shell stops here, because line {} makes {name} read-only. Remove one of them", line + 1);
            self.error(command.line, message);
        }
        let text = shown(self.text(word));
        if self.wants(&name) && !stays {
            let runs = self.command_text(command);
            let message = format!("`{runs}` sets {name} for one command only. Write {}", quoted_example(&name, &text));
            return self.error(command.line, message);
        }
        if self.wants(&name) && !unit.is_plain() {
            let place = unit.compound.as_ref().map_or("among other commands".to_owned(), |word| {
                format!("inside the `{word}` of line {}", unit.first + 1)
            });
            let remedy = format!("Write it on a line of its own: {}", example(&name));
            return self
                .error(command.line, format!("{name} is set {place}, and this file is read, not run. {remedy}"));
        }
        if !stays || !unit.is_plain() {
            return self.forget(unit, &name);
        }
        let value = self.value(command, word, &name);
        match &value {
            Ok(value) if self.wants(&name) => self.take(command.line, &name, value),
            Err(why) if self.wants(&name) => {
                self.error(command.line, format!("{text} {why}. Write the value itself: {}", example(&name)));
            }
            _ => {}
        }
        self.known.insert(name, value.ok());
    }

    fn take(&mut self, line: usize, name: &str, value: &str) {
        let Some(earlier) = self.found.iter().find(|one| one.key == name) else {
            return self.found.push(Assignment { key: name.to_owned(), value: value.to_owned(), line: line + 1 });
        };
        if earlier.value != value {
            let (new, old) = (shown(value.as_bytes()), shown(earlier.value.as_bytes()));
            let message = format!(
                "{name} is doubled: \"{new}\" here, and line {} says \"{old}\". Remove one of them",
                earlier.line
            );
            self.error(line, message);
        }
    }

    /// The value of an assignment word, as a shell would take it; or why only a shell knows.
    fn value(&self, command: &Command, word: &Word, name: &str) -> Result<String, String> {
        let mut bytes = Vec::new();
        for (index, (quote, part)) in word.parts.iter().enumerate() {
            // `export B=7 A=$B` expands all its words before it sets the first.
            if let Part::Variable(other) = part
                && command.words.iter().any(|w| w.start != word.start && w.assigned_name() == Some(other))
            {
                return Err(format!("takes ${other}, which the same command sets"));
            }
            // The name and its = are the beginning of the first part.
            let start = if index == 0 { name.len() + 1 } else { 0 };
            self.expand(command, *quote, part, start, &mut bytes)?;
            if bytes.len() > LONGEST_VALUE {
                return Err(format!("is longer than {LONGEST_VALUE} bytes"));
            }
        }
        let value = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        if value.contains(char::is_control) {
            return Err("holds a line break or another control character".to_owned());
        }
        let plain = !word.parts.iter().any(|(_, part)| matches!(part, Part::Variable(_)));
        let raw = String::from_utf8_lossy(self.text(word));
        let given = if plain { raw.into_owned() } else { for_dotenvy(name, &value) };
        match dotenvy::from_read_iter(given.as_bytes()).next() {
            Some(Ok((key, read))) if key == name && read == value => Ok(value),
            _ => Err("can be read in more than one way".to_owned()),
        }
    }

    /// Adds what `part` stands for to `value`.
    fn expand(
        &self,
        command: &Command,
        quote: Quote,
        part: &Part,
        start: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), String> {
        match part {
            Part::Text(text) => {
                let text = &text[start..];
                if quote == Quote::Bare {
                    bare(text, value.last().copied())?;
                }
                value.extend_from_slice(text);
            }
            Part::Escaped(byte) if quote == Quote::Bare && byte.is_ascii_alphanumeric() => {
                return Err("has a backslash that not every reader takes alike".to_owned());
            }
            Part::Escaped(byte) => value.push(*byte),
            Part::Variable(other) => {
                let resolved = self.variable(other)?;
                let split = |c: char| c.is_whitespace() || "*?[".contains(c);
                if quote == Quote::Bare && !command.words.is_empty() && resolved.contains(split) {
                    return Err(format!("needs double quotes: ${other} holds a blank, or one of *?["));
                }
                value.extend_from_slice(resolved.as_bytes());
            }
            Part::Shell(what) => return Err(format!("needs a shell ({what}), and this file is read, not run")),
        }
        Ok(())
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        if self.volatile.contains(name) {
            return Err(format!("takes ${name}, which a function sets"));
        }
        match self.known.get(name) {
            Some(Some(value)) => Ok(value.clone()),
            Some(None) => Err(format!("takes ${name}, which only a shell knows")),
            None if SHELLS_OWN.contains(&name) => Err(format!("takes ${name}, which each shell sets by itself")),
            None => Ok((self.environment)(name).unwrap_or_default()),
        }
    }
}

/// Characters that stand for more than themselves without quotes, to one shell or another.
fn bare(text: &[u8], before: Option<u8>) -> Result<(), String> {
    let starts = std::iter::once(before.unwrap_or(b':')).chain(text.iter().copied());
    if starts.zip(text).any(|(before, &b)| b == b'~' && before == b':') {
        return Err("needs a shell (~), and this file is read, not run".to_owned());
    }
    match text.iter().find(|b| b"*?[]{}!^".contains(b)) {
        Some(&found) => Err(format!("has {} outside of quotes", char::from(found))),
        None => Ok(()),
    }
}

fn is_harmless_option(text: &str) -> bool {
    let letters = text.strip_prefix(['-', '+']);
    letters.is_some_and(|l| !l.is_empty() && l.chars().all(|c| "axv".contains(c)))
}

/// The assignment in the one form that dotenvy reads as it stands.
fn for_dotenvy(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
    format!("{name}=\"{escaped}\"")
}

/// A line that shows the form; the value fits what the name ends in, as the article's series names them.
fn example(name: &str) -> String {
    let value = match name.rsplit_once('_').map_or(name, |(_, kind)| kind) {
        "IF" => "enp0s8",
        "NM" => "24",
        "GW" => "192.168.1.1",
        "IP" => "192.168.1.5",
        "MODE" => "atcp",
        _ => "value",
    };
    format!("export {name}=\"{value}\"")
}

/// `text` is `NAME=` or `NAME=word`, followed by a blank that was not meant to end it.
fn quoted_example(name: &str, text: &str) -> String {
    if text.len() == name.len() + 1 { format!("{}, without a blank after =", example(name)) } else { example(name) }
}
