//! What the variables hold once a shell has read a script to its end, as far as that can be known without running it,
//! and where it cannot.

use std::collections::{HashMap, HashSet};

use super::super::SyntaxError;
use super::super::lines::shown;
use super::Assignment;
use super::script::{Command, Script};
use super::words::{Part, Quote, Word, names};

/// Commands that set the variables that they are given the names of, in one shell or another.
const NAMING: &str = "read unset getopts let mapfile readarray declare typeset local wait printf";

/// Commands that this reader takes at their word; a function or an alias of that name would make it wrong.
const TRUSTED: &str = "export readonly set alias trap enable command builtin return . source eval \
    if then elif else fi for while until do done case esac in { } ! select function time coproc [[";

/// Variables that a shell sets by itself, and not to what the environment says.
const SHELLS_OWN: &str = "IFS OPTIND OPTARG PPID LINENO PWD OLDPWD PS1 PS2 PS4 RANDOM SRANDOM SECONDS EPOCHSECONDS \
    EPOCHREALTIME HOSTNAME HOSTTYPE MACHTYPE OSTYPE UID EUID GROUPS DIRSTACK FUNCNAME SHLVL SHELLOPTS BASH BASHOPTS \
    BASHPID COLUMNS LINES REPLY MAPFILE COPROC _";

/// No value of these files is longer, and `B=$B$B` would double it with each line.
const LONGEST_VALUE: usize = 4096;

pub(super) struct Reading<'a> {
    text: &'a [u8],
    script: &'a Script,
    wanted: &'a [&'a str],
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// What plain lines have assigned so far; `None`: only a shell knows.
    known: HashMap<String, Option<String>>,
    /// What something else in the file may set: it may change at any line.
    uncertain: HashSet<String>,
    /// Where a name was made read-only, or got another attribute.
    readonly: HashMap<String, usize>,
    /// The list in which a shell has given up.
    failed: Option<usize>,
    aliases: HashSet<String>,
    pub found: Vec<Assignment>,
    pub errors: Vec<SyntaxError>,
}

impl<'a> Reading<'a> {
    /// Reads `text`, which holds no NUL and has plain newlines.
    pub fn of(
        text: &'a [u8],
        script: &'a Script,
        wanted: &'a [&'a str],
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Reading<'a> {
        let mut reading = Reading {
            text,
            script,
            wanted,
            environment,
            known: HashMap::new(),
            uncertain: uncertain(script),
            readonly: HashMap::new(),
            failed: None,
            aliases: HashSet::new(),
            found: Vec::new(),
            errors: Vec::new(),
        };
        for command in &script.commands {
            reading.command(command, &command.words);
        }
        for (line, name) in script.set.iter().filter(|(_, name)| wanted.contains(&name.as_str())) {
            let how = "in passing, and this file is read, not run. Write the value on a line of its own";
            reading.error(*line, format!("sets {name} {how}: {}", example(name)));
        }
        for (line, name) in script.functions.iter().filter(|(_, name)| is_one_of(name, TRUSTED)) {
            reading.error(*line, format!("makes a function of {name}, by which this file is read. Rename it"));
        }
        if let Some((line, why)) = script.broken {
            reading.error(line, format!("cannot be followed, because {why}. Mend the line, or remove it"));
        }
        reading.errors.sort_by_key(|error| error.line);
        reading
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    /// Whether a text that a shell may run later names a wanted variable, or what could reach one unnamed.
    fn is_harmless(&self, text: &str) -> bool {
        let reaches = |name: &str| self.wants(name) || is_one_of(name, NAMING) || is_one_of(name, "eval source");
        let dot = text.split_ascii_whitespace().any(|word| word == ".");
        !dot && !names(text.as_bytes()).any(|(_, name)| reaches(name))
    }

    /// `line` is an index, from 0.
    fn error(&mut self, line: usize, message: impl std::fmt::Display) {
        self.errors.push(SyntaxError::new(line + 1, message));
    }

    fn command_text(&self, command: &Command) -> String {
        let mut words = command.assignments.iter().chain(&command.words);
        let (Some(first), last) = (words.next(), words.next_back()) else { return String::new() };
        shown(&self.text[first.start..last.unwrap_or(first).end])
    }

    /// A command with its words, those of `command` and its like taken off.
    fn command(&mut self, command: &Command, words: &[Word]) {
        if words.len() == command.words.len() {
            for word in &command.assignments {
                self.assignment(command, word, words.is_empty());
            }
        }
        let Some(first) = words.first() else { return };
        let arguments = &words[1..];
        if first.extended_name().is_some() {
            self.extension(command, first);
            return self.command(command, arguments); // which is what bash runs
        }
        let Some(name) = first.literal() else {
            if command.test {
                return;
            }
            return self.error(command.line, format!("{} Remove the line", self.only_a_shell_knows(command)));
        };
        let option = arguments.first().and_then(Word::literal).unwrap_or_default();
        let reaches = match name.as_str() {
            "command" | "builtin" if option == "-v" || option == "-V" => false,
            "command" | "builtin" => {
                let options =
                    arguments.iter().take_while(|word| word.literal().is_some_and(|text| text.starts_with('-')));
                return self.command(command, &arguments[options.count()..]);
            }
            "export" | "readonly" => return self.declaration(command, arguments, &name),
            // Others set nothing without -v or -p.
            "printf" | "wait" if !option.starts_with("-v") && !option.starts_with("-p") => false,
            "declare" | "typeset" | "local" => {
                let names = arguments.iter().filter_map(Word::literal);
                self.readonly.extend(names.map(|text| (before_equals(&text).to_owned(), command.line)));
                arguments.iter().any(|word| refers(word) || self.names_wanted(word, false))
            }
            _ if is_one_of(&name, NAMING) => arguments.iter().any(|word| self.names_wanted(word, true)),
            "set" => {
                let mut options = arguments.iter().map(Word::literal).take_while(|text| text.as_deref() != Some("--"));
                !options.all(|text| text.is_some_and(|text| is_harmless_option(&text)))
            }
            "." | "source" | "eval" => true,
            "return" => !command.in_function,
            "enable" => option.starts_with('-'),
            "alias" => !self.take_aliases(arguments),
            "trap" => !self.is_harmless_trap(arguments),
            _ if self.aliases.contains(&name) => true,
            _ => return self.other(command, first, arguments),
        };
        if reaches {
            let text = self.command_text(command);
            let why = "could change a value that this file gives, and it is read, not run";
            self.error(command.line, format!("`{text}` {why}. Write the values themselves, and remove the line"));
        }
    }

    fn only_a_shell_knows(&self, command: &Command) -> String {
        format!("only a shell knows what `{}` runs.", self.command_text(command))
    }

    /// Whether an argument may be a wanted variable's name, or hold it as `printf -vNAME` does.
    fn names_wanted(&self, word: &Word, in_options: bool) -> bool {
        let Some(text) = word.literal() else { return true };
        match text.strip_prefix('-') {
            Some(option) => in_options && self.wanted.iter().any(|name| option.ends_with(name)),
            None => names(text.as_bytes()).any(|(_, name)| self.wants(name)),
        }
    }

    /// Aliases are safe as long as nothing is called by them.
    fn take_aliases(&mut self, arguments: &[Word]) -> bool {
        arguments.iter().all(|word| {
            let Some(text) = word.literal() else { return false };
            let name = text.split('=').next().unwrap_or_default().to_owned();
            let safe = !is_one_of(&name, TRUSTED) && !is_one_of(&name, NAMING);
            self.aliases.insert(name);
            safe
        })
    }

    fn is_harmless_trap(&self, arguments: &[Word]) -> bool {
        let literals: Option<Vec<String>> = arguments.iter().map(Word::literal).collect();
        literals.is_some_and(|texts| texts.iter().all(|text| self.is_harmless(text)))
    }

    /// `A+=x` and `A[0]=x`, which are assignments to bash and commands to a POSIX shell.
    fn extension(&mut self, command: &Command, word: &Word) {
        let behind = command.words.iter().filter_map(Word::assigned_name);
        if let Some(name) = word.extended_name().into_iter().chain(behind).find(|name| self.wants(name)) {
            let text = self.command_text(command);
            let message = format!("`{text}` adds to a value, which only bash does. Write {}", example(name));
            self.error(command.line, message);
        }
    }

    /// A command that sets nothing, if it was meant as one.
    fn other(&mut self, command: &Command, first: &Word, arguments: &[Word]) {
        if let Some(name) = first.bare().filter(|name| self.wants(name))
            && arguments.first().is_some_and(begins_with_equals)
        {
            let message = format!("has blanks around =, which makes {name} a command. Write {}", example(name));
            self.error(command.line, message);
        }
    }

    /// `export A=1 B`, `readonly A`.
    fn declaration(&mut self, command: &Command, words: &[Word], name: &str) {
        for (index, word) in words.iter().enumerate() {
            if let Some(own) = word.bare().filter(|own| self.wants(own))
                && words.get(index + 1).is_some_and(begins_with_equals)
            {
                self.error(command.line, format!("has blanks around =. Write {}", example(own)));
            }
            let literal = word.literal();
            let odd = literal.as_deref().is_none_or(|text| text.contains('=') && self.wants(before_equals(text)));
            if word.assigned_name().is_some() {
                self.assignment(command, word, true);
            } else if odd {
                let text = self.command_text(command);
                self.error(command.line, format!("`{text}` is no plain {name}. Write {name} NAME=\"value\""));
            }
            if name == "readonly" {
                let declared = word.assigned_name().map(str::to_owned).or(literal).unwrap_or_default();
                self.readonly.insert(before_equals(&declared).to_owned(), command.line);
            }
        }
    }

    fn assignment(&mut self, command: &Command, word: &Word, stays: bool) {
        let Some(name) = word.assigned_name().map(str::to_owned) else { return };
        let text = shown(&self.text[word.start..word.end]);
        if let Some(line) = self.readonly.get(&name) {
            self.known.insert(name.clone(), None);
            self.failed = Some(command.list);
            if self.wants(&name) {
                let message = format!(
                    "line {} makes {name} read-only or the like, so that {text} fails. Remove one of them",
                    line + 1
                );
                self.error(command.line, message);
            }
            return;
        }
        if self.wants(&name) && !stays {
            let runs = self.command_text(command);
            let hint = if text.len() == name.len() + 1 { ", without a blank after =" } else { "" };
            let message = format!("`{runs}` sets {name} for one command only. Write {}{hint}", example(&name));
            return self.error(command.line, message);
        }
        let value = self.value(command, word, &name);
        let plain = self.script.is_plain(command) && self.failed != Some(command.list);
        if self.wants(&name) {
            match &value {
                Err(why) if command.is_in_turn() => {
                    self.error(command.line, format!("{text} {why}. Write the value itself: {}", example(&name)));
                }
                Ok(value) if plain => self.take(command.line, &name, value),
                _ => {
                    let place = match &command.inside {
                        Some((line, word)) => format!("inside the `{word}` of line {}", line + 1),
                        None => "among other commands".to_owned(),
                    };
                    let remedy = format!("Write it on a line of its own: {}", example(&name));
                    let message = format!("{name} is set {place}, and this file is read, not run. {remedy}");
                    self.error(command.line, message);
                }
            }
        }
        self.known.insert(name, value.ok().filter(|_| plain));
    }

    fn take(&mut self, line: usize, name: &str, value: &str) {
        let Some(earlier) = self.found.iter().find(|one| one.key == name) else {
            return self.found.push(Assignment { key: name.to_owned(), value: value.to_owned(), line: line + 1 });
        };
        if earlier.value != value {
            let (new, old) = (shown(value.as_bytes()), shown(earlier.value.as_bytes()));
            let first = earlier.line;
            let message =
                format!("{name} is doubled: \"{new}\" here, and line {first} says \"{old}\". Remove one of them");
            self.error(line, message);
        }
    }

    /// The value of an assignment word, as a shell would take it; or why only a shell knows.
    fn value(&self, command: &Command, word: &Word, name: &str) -> Result<String, String> {
        let mut value = Vec::new();
        let mut plain = true;
        for (index, (quote, part)) in word.parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let text = if index == 0 { &text[name.len() + 1..] } else { &text[..] };
                    if *quote == Quote::Bare {
                        bare(text, value.last().copied())?;
                    }
                    value.extend_from_slice(text);
                }
                Part::Escaped(byte) if *quote == Quote::Bare && byte.is_ascii_alphanumeric() => {
                    return Err("has a backslash that not every reader takes alike".to_owned());
                }
                Part::Escaped(byte) => value.push(*byte),
                Part::Variable(other) => {
                    plain = false;
                    // `export B=7 A=$B` expands all its words before it sets the first.
                    if command.words.iter().any(|one| one.assigned_name() == Some(other)) {
                        return Err(format!("takes ${other}, which the same command sets"));
                    }
                    let resolved = self.variable(other)?;
                    let split = |c: char| c.is_whitespace() || "*?[".contains(c);
                    let own_ifs = self.known.contains_key("IFS") || self.uncertain.contains("IFS");
                    if *quote == Quote::Bare && !command.words.is_empty() && (own_ifs || resolved.contains(split)) {
                        return Err(format!("needs double quotes around ${other}"));
                    }
                    value.extend_from_slice(resolved.as_bytes());
                }
                Part::Shell(what) => return Err(format!("needs a shell ({what}), and this file is read, not run")),
            }
            if value.len() > LONGEST_VALUE {
                return Err(format!("is longer than {LONGEST_VALUE} bytes"));
            }
        }
        let value = String::from_utf8(value).map_err(|_| "is not UTF-8".to_owned())?;
        if value.contains(char::is_control) {
            return Err("holds a line break or another control character".to_owned());
        }
        let raw = String::from_utf8_lossy(&self.text[word.start..word.end]);
        let given = if plain { raw.into_owned() } else { for_dotenvy(name, &value) };
        match dotenvy::from_read_iter(given.as_bytes()).next() {
            Some(Ok((key, read))) if key == name && read == value => Ok(value),
            _ => Err("can be read in more than one way".to_owned()),
        }
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        match self.known.get(name) {
            _ if self.uncertain.contains(name) => Err(format!("takes ${name}, which only a shell knows")),
            Some(Some(value)) => Ok(value.clone()),
            Some(None) => Err(format!("takes ${name}, which only a shell knows")),
            None if is_one_of(name, SHELLS_OWN) => Err(format!("takes ${name}, which each shell sets by itself")),
            None => Ok((self.environment)(name).unwrap_or_default()),
        }
    }
}

/// Every name that something other than a plain assignment may set.
fn uncertain(script: &Script) -> HashSet<String> {
    let mut found: HashSet<String> = script.set.iter().map(|(_, name)| name.clone()).collect();
    for command in &script.commands {
        let plain = script.is_plain(command);
        for word in command.assignments.iter().chain(&command.words) {
            let name = if plain { word.extended_name() } else { word.assigned_name().or(word.extended_name()) };
            found.extend(name.map(str::to_owned));
        }
        // Names in quotes, and those that a command gets as its arguments.
        let first =
            command.words.iter().take(2).filter_map(Word::literal).find(|name| !is_one_of(name, "command builtin"));
        let names_all = first.is_some_and(|name| is_one_of(&name, NAMING));
        let quoted = command.words.iter().filter(|word| word.assigned_name().is_none()).filter_map(Word::literal);
        let quoted = quoted.filter(|text| names_all || text.contains('='));
        found.extend(quoted.map(|text| before_equals(&text).to_owned()));
    }
    found
}

fn is_one_of(name: &str, list: &str) -> bool {
    list.split_ascii_whitespace().any(|one| one == name)
}

/// The name that `NAME=x`, `NAME+=x` and `NAME[0]=x` set.
fn before_equals(text: &str) -> &str {
    text.split(['=', '+', '[']).next().unwrap_or_default()
}

fn begins_with_equals(word: &Word) -> bool {
    word.literal().is_some_and(|text| text.starts_with('='))
}

/// `declare -n A=B` makes A another name of B.
fn refers(word: &Word) -> bool {
    word.literal().is_some_and(|text| text.starts_with('-') && text.contains('n'))
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

/// All but -n, with which a shell reads on and runs nothing, and -k.
fn is_harmless_option(text: &str) -> bool {
    let letters = text.strip_prefix(['-', '+']).unwrap_or_default();
    !letters.contains(['n', 'k']) && text != "noexec" && text != "keyword"
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
