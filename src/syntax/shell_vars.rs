//! Assignments of a shell file: /root/config.env and /etc/default/portsentry. Read, never executed; edited by key.
//!
//! A shell would run the file (the series' scripts and the sysv script source it). This reader accepts a value only
//! where it is sure what a shell, dash or bash, that reads the file to its end has made of it; every line that could
//! change a wanted value in a way that only a shell can follow is an error with its line and a remedy; every other
//! line may hold what it likes, what only bash knows too.
//!
//! The values come from dotenvy, which on its own gets 13 of 72 tried forms silently wrong and knows no lines. It is
//! given one assignment at a time, only what the scanner has judged, with `$X` already resolved (dotenvy would take
//! the process environment before the file's own line), and the two have to agree.

mod reading;
mod redirections;
mod script;
mod words;

use reading::Reading;
use script::Command;
use words::{Part, Quote, Word, is_name};

use super::lines::{End, Line, join, split};
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
    /// Counted from 1; of several that agree, the first.
    pub line: usize,
}

impl ShellVars {
    /// Any bytes are a file; what is wrong with them is said when values are asked for.
    pub fn parse(bytes: &[u8]) -> ShellVars {
        ShellVars { lines: split(bytes) }
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// The values of `wanted` where the file assigns them, in the file's order. `environment` answers for a `$NAME`
    /// that the file has not assigned before; what it does not know is empty, as in a shell. Lines may end in CRLF.
    ///
    /// # Errors
    /// Every line at which a wanted value could become what only a shell knows, or is doubled with another value; the
    /// first line that cannot be followed, such as an open quote; a byte order mark; a NUL.
    pub fn read(
        &self,
        wanted: &[&str],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Assignment>, Vec<SyntaxError>> {
        let script = self.script();
        if script.starts_with("\u{feff}".as_bytes()) {
            let message = "begins with a byte order mark, which hides its first word from a shell. Save it without";
            return Err(vec![SyntaxError::new(1, message)]);
        }
        if let Some(at) = script.iter().position(|&byte| byte == 0) {
            let line = script[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
            return Err(vec![SyntaxError::new(line, "holds a NUL byte, so this is no text file. Write it anew")]);
        }
        let commands = script::read(&script);
        let reading = Reading::of(&script, &commands, wanted, environment);
        if reading.errors.is_empty() { Ok(reading.found) } else { Err(reading.errors) }
    }

    /// The value of one variable, with nothing known of the environment.
    ///
    /// # Errors
    /// As [`ShellVars::read`].
    pub fn get(&self, key: &str) -> Result<Option<String>, Vec<SyntaxError>> {
        let found = self.read(&[key], &|_| None)?;
        Ok(found.into_iter().next().map(|one| one.value))
    }

    /// Gives `key` this value: wherever it is assigned, with the quotes, the `export` and the comment that are there;
    /// else on a line of its own at the end.
    ///
    /// # Errors
    /// The value cannot stand between quotes as it is; or the file assigns `key` where only a shell can follow, so
    /// that writing it would not be the last word.
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
        if !is_name(key.as_bytes()) {
            return Err(ValueError::new(key, "is no name of a variable: use letters, digits and _"));
        }
        if value.contains(|letter: char| letter.is_control() || "\"'$`\\".contains(letter)) {
            let message = "the value holds a quote, a backslash, a $ or a control character. Leave it out";
            return Err(ValueError::new(key, message));
        }
        let mut edited = self.clone();
        let script = self.script();
        let found = script::read(&script);
        let plain = found.commands.iter().filter(|command| found.is_plain(command));
        let words = plain.filter_map(Command::assigning).flatten();
        let assigned: Vec<&Word> = words.filter(|word| word.assigned_name() == Some(key)).collect();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(script.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
            .collect();
        for word in assigned.iter().rev() {
            let line = starts.partition_point(|&start| start <= word.start) - 1;
            if script[word.start..word.end].contains(&b'\n') {
                let message = format!("its value spans several lines from line {} on. Write it on one", line + 1);
                return Err(ValueError::new(key, message));
            }
            let quote = quote_of(word, key, value);
            let new = format!("{key}={quote}{value}{quote}").into_bytes();
            edited.lines[line].text.splice(word.start - starts[line]..word.end - starts[line], new);
        }
        if assigned.is_empty() {
            edited.append(format!("{prefix}{key}=\"{value}\""));
        }
        match edited.read(&[key], &|_| None) {
            Ok(found) if found.first().is_some_and(|one| one.value == value) => *self = edited,
            Ok(_) => {
                return Err(ValueError::new(key, "is assigned in a way that cannot be edited. Remove that line"));
            }
            Err(errors) => return Err(ValueError::new(key, &errors[0])),
        }
        Ok(())
    }

    fn append(&mut self, text: String) {
        let mut line = Line::new(text);
        if let Some(last) = self.lines.last_mut() {
            match last.end {
                End::Missing => last.end = End::Newline,
                end => line.end = end,
            }
        }
        self.lines.push(line);
    }

    /// The lines with plain newlines; offsets within a line are the same as in the file.
    fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        for line in &self.lines {
            script.extend_from_slice(&line.text);
            if line.end != End::Missing {
                script.push(b'\n');
            }
        }
        script
    }
}

/// The quotes that the value has, or that the new one needs.
fn quote_of(word: &Word, key: &str, value: &str) -> &'static str {
    let is_key = |part: &Part| matches!(part, Part::Text(text) if text.strip_suffix(b"=") == Some(key.as_bytes()));
    match word.parts.iter().find(|(quote, part)| *quote != Quote::Bare || !is_key(part)) {
        Some((Quote::Single, _)) => "'",
        Some((Quote::Double, _)) => "\"",
        _ if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte)) => "",
        _ => "\"",
    }
}

#[cfg(test)]
mod tests;
