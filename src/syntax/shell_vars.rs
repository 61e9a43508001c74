//! Assignments of a shell file: /root/config.env and /etc/default/portsentry. Read, never executed; edited by key.
//!
//! A scanner of our own says line by line what a shell would take as a value, and refuses, with line and remedy,
//! what only a shell could work out. The values that pass are read by dotenvy as well and have to come out the same:
//! alone it gets 13 of 72 tried forms silently wrong and knows no lines.

mod script;

use std::collections::HashMap;

use script::{Part, Quote, Unit, Word, units};

use super::lines::{Line, join, shown, split};
use super::{SyntaxError, ValueError};

/// The file, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellVars {
    lines: Vec<Line>,
}

/// A variable that was asked for, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub key: String,
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// Commands that could change any variable, or end the file early.
const FAR_REACHING: [&str; 9] = [".", "source", "eval", "read", "unset", "exec", "exit", "return", "getopts"];
/// Commands that take assignments as words.
const DECLARING: [&str; 5] = ["export", "readonly", "declare", "typeset", "local"];

impl ShellVars {
    /// Any bytes are a file.
    pub fn parse(bytes: &[u8]) -> ShellVars {
        ShellVars { lines: split(bytes) }
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// The values of `wanted` where the file assigns them. `environment` answers for a `$NAME` that the file has not
    /// assigned before.
    ///
    /// # Errors
    /// Every line that a wanted value depends on and that needs a shell, is doubled, or cannot be read. Lines that
    /// cannot change a wanted value may hold anything.
    pub fn read(
        &self,
        wanted: &[&str],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Assignment>, Vec<SyntaxError>> {
        let script = self.script();
        let mut reading = Reading {
            script: &script,
            wanted,
            environment,
            known: HashMap::new(),
            found: Vec::new(),
            errors: Vec::new(),
        };
        if script.starts_with("\u{feff}".as_bytes()) {
            reading.errors.push(SyntaxError::new(1, "begins with a byte-order mark, which hides its first word from a shell. Save the file as UTF-8 without BOM"));
        }
        if let Some(at) = script.iter().position(|&byte| byte == 0) {
            let line = script[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
            return Err(vec![SyntaxError::new(line, "holds a NUL byte, so this is no text file")]);
        }
        for unit in units(&script) {
            reading.unit(&unit);
        }
        if reading.errors.is_empty() { Ok(reading.found) } else { Err(reading.errors) }
    }

    /// Gives `key` this value: in its place, with the quotes that are there; a new one on a line of its own at the
    /// end.
    ///
    /// # Errors
    /// The value cannot stand between quotes.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        self.put(key, value, "")
    }

    /// The same; a new line begins with `export`.
    ///
    /// # Errors
    /// As [`ShellVars::set`].
    pub fn set_exported(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        self.put(key, value, "export ")
    }

    fn put(&mut self, key: &str, value: &str, prefix: &str) -> Result<(), ValueError> {
        if value.contains(|letter: char| letter.is_control() || "\"'$`\\".contains(letter)) {
            return Err(ValueError::new(key, "the value holds a quote, a backslash, a $ or a control character"));
        }
        let script = self.script();
        let assigned: Vec<Word> = units(&script)
            .iter()
            .filter(|unit| is_plain(unit))
            .flat_map(assignments)
            .filter(|word| word.assigned_name() == Some(key))
            .collect();
        let Some(word) = assigned.last() else {
            if let Some(last) = self.lines.last_mut().filter(|last| last.end == super::lines::End::Missing) {
                last.end = super::lines::End::Newline;
            }
            self.lines.push(Line::new(format!("{prefix}{key}=\"{value}\"")));
            return Ok(());
        };
        let quote = match word.parts.iter().find(|(quote, part)| *quote != Quote::Bare || !is_key(part, key)) {
            Some((Quote::Single, _)) => "'",
            Some((Quote::Double, _)) => "\"",
            _ if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
                && word.parts.len() == 1 =>
            {
                ""
            }
            _ => "\"",
        };
        let new = format!("{key}={quote}{value}{quote}");
        if script[word.start..word.end] == *new.as_bytes() {
            return Ok(());
        }
        let start = script[..word.start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line = script[..word.start].iter().filter(|&&byte| byte == b'\n').count();
        if script[word.start..word.end].contains(&b'\n') {
            return Err(ValueError::new(
                key,
                format!("its value spans several lines from line {} on; write it on one", line + 1),
            ));
        }
        self.lines[line].text.splice(word.start - start..word.end - start, new.into_bytes());
        Ok(())
    }

    /// The lines with plain newlines; offsets within a line are the same as in the file.
    fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        for line in &self.lines {
            script.extend_from_slice(&line.text);
            if line.end != super::lines::End::Missing {
                script.push(b'\n');
            }
        }
        script
    }
}

fn is_key(part: &Part, key: &str) -> bool {
    matches!(part, Part::Text(text) if text.strip_suffix(b"=") == Some(key.as_bytes()))
}

/// A unit of nothing but assignments, or of one declaring command.
fn is_plain(unit: &Unit) -> bool {
    unit.compound.is_none() && unit.broken.is_none() && unit.functions.is_empty()
}

/// The assignments that stay: those of a command without words, and the words of `export` and its like.
fn assignments(unit: &Unit) -> Vec<Word> {
    let mut found = Vec::new();
    for command in &unit.commands {
        match command.words.first().and_then(Word::literal) {
            None if command.words.is_empty() => found.extend(command.assignments.iter().cloned()),
            Some(name) if DECLARING.contains(&name.as_str()) => {
                found.extend(command.words[1..].iter().filter(|word| word.assigned_name().is_some()).cloned())
            }
            _ => {}
        }
    }
    found
}

struct Reading<'a> {
    script: &'a [u8],
    wanted: &'a [&'a str],
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// What the file has assigned so far; `None`: only a shell knows.
    known: HashMap<String, Option<String>>,
    found: Vec<Assignment>,
    errors: Vec<SyntaxError>,
}

impl Reading<'_> {
    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    fn error(&mut self, line: usize, message: String) {
        self.errors.push(SyntaxError::new(line + 1, message));
    }

    fn text(&self, word: &Word) -> String {
        shown(&self.script[word.start..word.end])
    }

    fn unit(&mut self, unit: &Unit) {
        if let Some((line, why)) = unit.broken {
            self.error(line, format!("a shell would stop here: {why}. Mend it; what comes after it is not read"));
            return;
        }
        for name in unit.set_by_expansion.iter().filter(|name| self.wants(name)).cloned().collect::<Vec<_>>() {
            self.error(
                unit.first,
                format!(
                    "sets {name} inside an expansion, and this file is read, not run. Write the value itself: {}",
                    example(&name)
                ),
            );
        }
        for command in &unit.commands {
            let first = command.words.first().and_then(Word::literal).unwrap_or_default();
            if FAR_REACHING.contains(&first.as_str()) && self.reaches(&first, command) {
                let text = command.words.iter().map(|word| self.text(word)).collect::<Vec<_>>().join(" ");
                self.error(command.line, format!("`{text}` could change the LAN_* variables, and this file is read, not run. Write their values here and remove it"));
            }
            self.command(unit, command, &first);
        }
    }

    fn reaches(&self, name: &str, command: &script::Command) -> bool {
        match name {
            "unset" | "read" => {
                command.words[1..].iter().any(|word| word.literal().is_none_or(|text| self.wants(&text)))
            }
            _ => true,
        }
    }

    fn command(&mut self, unit: &Unit, command: &script::Command, first: &str) {
        let declaring = DECLARING.contains(&first);
        let words: Vec<&Word> =
            if declaring { command.words[1..].iter().collect() } else { command.assignments.iter().collect() };
        for word in words {
            let Some(name) = word.assigned_name().map(str::to_owned) else { continue };
            let stays = declaring || command.words.is_empty();
            let conditional = unit.compound.is_some()
                || !unit.functions.is_empty()
                || unit.operators && unit.commands.len() > 1 && !self.only_semicolons(unit);
            if self.wants(&name) && (conditional || !stays) {
                let what = unit.compound.as_deref().map_or("other commands".to_owned(), |word| format!("`{word}`"));
                self.error(command.line, format!("{name} stands within {what}, and this file is read, not run. Write it on a line of its own: {}", example(&name)));
                continue;
            }
            if !stays {
                continue;
            }
            match self.value(word, &name) {
                Ok(value) => {
                    if self.wants(&name) && !conditional {
                        self.take(command.line, &name, &value);
                    }
                    self.known.insert(name, Some(value));
                }
                Err(why) => {
                    if self.wants(&name) {
                        self.error(
                            command.line,
                            format!("{} {why}. Write the value itself: {}", self.text(word), example(&name)),
                        );
                    }
                    self.known.insert(name, None);
                }
            }
        }
    }

    /// `A=1; B=2` is two plain assignments; `A=1 && B=2` and `A=1 | x` are not.
    fn only_semicolons(&self, unit: &Unit) -> bool {
        let Some((first, last)) = unit.commands.first().zip(unit.commands.last()) else { return true };
        let edge = |command: &script::Command, end: bool| {
            let mut words = command.assignments.iter().chain(&command.words);
            let word = if end { words.next_back() } else { words.next() };
            word.map_or(0, |word| if end { word.end } else { word.start })
        };
        let (from, to) = (edge(first, false), edge(last, true));
        let mut rest: Vec<u8> = self.script[from..to].to_vec();
        for word in unit.commands.iter().flat_map(|command| command.assignments.iter().chain(&command.words)) {
            rest[word.start - from..word.end - from].fill(b' ');
        }
        !rest.iter().any(|byte| b"&|<>()".contains(byte))
    }

    fn take(&mut self, line: usize, name: &str, value: &str) {
        if let Some(earlier) = self.found.iter().find(|one| one.key == name) {
            if earlier.value != value {
                let message = format!(
                    "{name} is \"{}\", and line {} says \"{}\"; remove one of them",
                    shown(value.as_bytes()),
                    earlier.line,
                    shown(earlier.value.as_bytes())
                );
                self.error(line, message);
            }
            return;
        }
        self.found.push(Assignment { key: name.to_owned(), value: value.to_owned(), line: line + 1 });
    }

    /// The value of an assignment word, as a shell would take it.
    fn value(&self, word: &Word, name: &str) -> Result<String, String> {
        let mut bytes = Vec::new();
        let mut plain = true;
        for (index, (quote, part)) in word.parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    let text = if index == 0 {
                        text.get(name.len() + 1..)
                            .filter(|_| text.get(name.len()) == Some(&b'='))
                            .ok_or("adds to a value")?
                    } else {
                        text
                    };
                    if index == 0 && text.starts_with(b"~") && *quote == Quote::Bare {
                        return Err("needs a shell (~), and this file is read, not run".to_owned());
                    }
                    bytes.extend_from_slice(text);
                }
                Part::Escaped(byte) => bytes.push(*byte),
                Part::Variable(other) => {
                    plain = false;
                    let value = match self.known.get(other) {
                        Some(Some(value)) => value.clone(),
                        Some(None) => return Err(format!("takes ${other}, which only a shell knows")),
                        None => (self.environment)(other).unwrap_or_default(),
                    };
                    bytes.extend_from_slice(value.as_bytes());
                }
                Part::Shell(what) => return Err(format!("needs a shell ({what}), and this file is read, not run")),
            }
        }
        let value = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        if value.contains('\0') {
            return Err("holds a NUL byte".to_owned());
        }
        let line = if plain {
            String::from_utf8_lossy(&self.script[word.start..word.end]).into_owned()
        } else {
            format!("{name}='{value}'")
        };
        match dotenvy::from_read_iter(line.as_bytes()).next() {
            Some(Ok((key, read))) if key == name && read == value => Ok(value),
            _ => Err("can be read in more than one way".to_owned()),
        }
    }
}

fn example(name: &str) -> String {
    let value = match name {
        "LAN_IF" => "enp0s8",
        "LAN_NM" => "24",
        _ => "192.168.1.5",
    };
    format!("export {name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Assignment>, Vec<SyntaxError>> {
        ShellVars::parse(text.as_bytes()).read(&["A", "C"], &|name| (name == "HOME").then(|| "/root".to_owned()))
    }

    fn value(text: &str) -> Option<String> {
        read(text).unwrap().into_iter().find(|one| one.key == "A").map(|one| one.value)
    }

    /// What a real shell makes of it.
    fn by_shell(text: &str) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.replace("\r\n", "\n").as_bytes()).unwrap();
        let script = format!(". {}; printf %s \"$A\"", file.path().display());
        let output =
            std::process::Command::new("sh").args(["-c", &script]).env_clear().env("HOME", "/root").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_is_accepted_is_what_a_shell_takes() {
        for text in [
            "A=1",
            "export A=\"enp0s8\"",
            "export A=\"enp0s8\" # Internal private",
            "A=x # c",
            "A=x#c",
            "A=\"x\"#c",
            "A='x y'",
            "A='$HOME'",
            "B=2\nA=\"$B\"",
            "B=2\nA=$B",
            "B=2\nA=\"${B}\"",
            "B=2\nA=\"${B}0\"",
            "A=$HOME",
            "A=\"$NOPE\"",
            "A=a\"b\"'c'",
            "A=\"\\$x\"",
            "A=",
            "A=\"\"",
            "A=1\nexport A",
            "export A=1 B=2",
            "A=1; B=2",
            "A=1;",
            "readonly A=1",
            "echo hi >/dev/null\nA=1",
            "set -a\nA=1",
            "A=1\nA=1",
            "   export A=1",
            "A=1\t# c",
            "A=1\r\nB=2\r\n",
            "A=\"a # b\"",
            "A=a=b",
            "A=é",
            "# c\n\nA=1",
            "# A=0\nA=1 # was A=0",
            "A=1\nWAN_IP=$(echo x)",
            "if true; then\nB=1\nfi\nA=2",
            "A=24\nX=`echo 1`\n",
        ] {
            assert_eq!(value(text).unwrap_or_default(), by_shell(text), "{text:?}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused_with_its_line() {
        for text in [
            "\nA=\"${NOPE:-x}\"",
            "\nA=${NOPE-x}",
            "\nA=\"$(hostname -I)\"",
            "\nA=$(hostname)",
            "\nA=`hostname`",
            "\nA=\"`hostname`\"",
            "\nA=(a b)",
            "\nA=~/x",
            "\nA=$((1+2))",
            "\nA=$'a\\nb'",
            "\nif true; then A=1; fi",
            "\nsource /etc/x",
            "\n. /etc/x",
            "\nA=1 && A=2",
            "\nunset A",
            "\nA=\"x",
            "\nA='x",
            "\nA+=2",
            "\nA=\"a\\nb\"",
            "\nA=x some-command",
            "\neval A=1",
            "\nA=${B%%/*}",
        ] {
            let errors = read(text).unwrap_err();
            assert!(errors[0].line >= 2, "{text:?}: {errors:?}");
        }
    }

    #[test]
    fn a_doubled_value_names_both_lines() {
        let error = read("A=1\n\nA=2\n").unwrap_err().remove(0);
        assert_eq!(error.line, 3);
        assert!(error.message.contains("line 1 says \"1\""), "{error}");
    }

    #[test]
    fn the_message_shows_what_to_write() {
        let file = ShellVars::parse(b"export LAN_NM=\"$(ipcalc -p 192.168.1.5/24)\"\n");
        let error = file.read(&["LAN_NM"], &|_| None).unwrap_err().remove(0).to_string();
        assert!(error.starts_with("line 1: LAN_NM=\"$(ipcalc -p 192.168.1.5/24)\" needs a shell"), "{error}");
        assert!(error.ends_with("export LAN_NM=\"24\""), "{error}");
    }

    #[test]
    fn a_value_is_set_in_place_with_its_quotes_and_comment() {
        for (before, after) in [
            ("# x\nTCP_MODE=\"tcp\" # c\n", "# x\nTCP_MODE=\"atcp\" # c\n"),
            ("TCP_MODE=tcp\n", "TCP_MODE=atcp\n"),
            ("export TCP_MODE='tcp'\r\nX=1\r\n", "export TCP_MODE='atcp'\r\nX=1\r\n"),
            ("TCP_MODE=\"atcp\"", "TCP_MODE=\"atcp\""),
            ("X=1", "X=1\nTCP_MODE=\"atcp\"\n"),
            ("#TCP_MODE=\"x\"\n", "#TCP_MODE=\"x\"\nTCP_MODE=\"atcp\"\n"),
            ("TCP_MODE=\n", "TCP_MODE=atcp\n"),
        ] {
            let mut file = ShellVars::parse(before.as_bytes());
            file.set("TCP_MODE", "atcp").unwrap();
            assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), after);
        }
        assert!(ShellVars::parse(b"").set("X", "a\nb").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = ShellVars::parse(&bytes);
            let _ = file.read(&["A"], &|_| None);
            prop_assert_eq!(file.to_bytes(), bytes);
        }

        #[test]
        fn shell_like_text_does_not_panic(text in "[A-C=$(){}'\"`;&|<>\\\\ \n#a-z]{0,60}") {
            let mut file = ShellVars::parse(text.as_bytes());
            let _ = file.read(&["A"], &|_| None);
            let _ = file.set("A", "1");
        }
    }
}
