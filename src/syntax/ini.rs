//! fail2ban's configuration files: jail.conf, jail.local, jail.d/* (jail.conf(5)).
//!
//! They are read by Python's configparser with `;` as the sign of a comment behind a value. This reader does as
//! fail2ban 1.0.2 (Python 3.11) and 1.1.1 (3.14) did with the same bytes on 2026-11-24:
//!
//! - a key is `key = value` or `key: value` in any case of letters; a line indented deeper than its key continues it;
//! - ` ;` ends a value, ` #` does not; a line that begins with `#` or `;` is a comment, within a value too;
//! - a key or section that stands twice, a line that is neither, and a key before the first section each keep fail2ban
//!   from reading its configuration at all;
//! - a file that is not UTF-8 is passed over in silence.
//!
//! One file at a time: which files, in which order, and `[DEFAULT]` behind each section, is the caller's business.
//! `%(x)s` is returned as it stands.

use std::collections::HashMap;

use super::lines::{End, Line, join, shown, split};
use super::{SyntaxError, ValueError};

/// One file, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ini {
    lines: Vec<Line>,
    sections: Vec<Section>,
    entries: Vec<Entry>,
    errors: Vec<SyntaxError>,
}

/// What each error leads to.
const NOT_READ: &str = "and fail2ban does not read its configuration then";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    name: String,
    line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    section: String,
    key: String,
    /// The lines of its value, as configparser keeps them.
    value: Vec<String>,
    /// Indices of its first line and of the last one that holds something of the value.
    first: usize,
    last: usize,
}

impl Entry {
    fn value(&self) -> String {
        self.value.join("\n").trim_end_matches(is_space).to_owned()
    }
}

impl Ini {
    /// Any bytes are a file; [`Ini::errors`] says what fail2ban has against them.
    pub fn parse(bytes: &[u8]) -> Ini {
        let mut ini = Ini { lines: split(bytes), sections: Vec::new(), entries: Vec::new(), errors: Vec::new() };
        match std::str::from_utf8(bytes) {
            Ok(_) => ini.read(),
            Err(error) => {
                let line = bytes[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
                let message = "is not UTF-8, and fail2ban passes over the whole file. Write it in UTF-8";
                ini.errors.push(SyntaxError::new(line, message));
            }
        }
        ini
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// The value of `key` in `[section]`, its lines joined by newlines; not looked up in `[DEFAULT]`. Of several, the
    /// last.
    pub fn get(&self, section: &str, key: &str) -> Option<String> {
        self.entry(section, key).map(Entry::value)
    }

    /// The sections in their order, each once.
    pub fn sections(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for section in &self.sections {
            if !names.contains(&section.name.as_str()) {
                names.push(&section.name);
            }
        }
        names
    }

    /// The keys of `[section]` in their order, in small letters.
    pub fn keys(&self, section: &str) -> Vec<&str> {
        self.entries.iter().filter(|entry| entry.section == section).map(|entry| entry.key.as_str()).collect()
    }

    /// Why fail2ban does not read the file, each with its line.
    pub fn errors(&self) -> &[SyntaxError] {
        &self.errors
    }

    /// Gives `key` in `[section]` this value: in its place, spacing kept; else behind the section's last key; else in a
    /// section of its own at the end.
    ///
    /// # Errors
    /// The file has errors of its own; or the value, the key or the section would not be read back as written.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> Result<(), ValueError> {
        let refuse = |message: String| Err(ValueError::new(key, message));
        if let Some(error) = self.errors.first() {
            return refuse(format!("the file cannot be edited before it is mended: {error}"));
        }
        let mut edited = self.clone();
        match self.entry(section, key) {
            Some(entry) if entry.value() == value => return Ok(()),
            Some(entry) => edited.replace(entry, value),
            None => edited.insert(section, key, value),
        }
        let edited = Ini::parse(&edited.to_bytes());
        let same = |other: &&Entry| other.section != section || other.key != key.to_lowercase();
        let others = |ini: &Ini| ini.entries.iter().filter(same).map(Entry::value).collect::<Vec<_>>();
        let read_back = edited.get(section, key);
        if !edited.errors.is_empty() || read_back.as_deref() != Some(value) || others(self) != others(&edited) {
            return refuse(format!(
                "\"{}\" in [{}] would not be read back",
                shown(value.as_bytes()),
                shown(section.as_bytes())
            ));
        }
        *self = edited;
        Ok(())
    }

    fn entry(&self, section: &str, key: &str) -> Option<&Entry> {
        let key = key.to_lowercase();
        self.entries.iter().rev().find(|entry| entry.section == section && entry.key == key)
    }

    fn replace(&mut self, entry: &Entry, value: &str) {
        let text = String::from_utf8_lossy(&self.lines[entry.first].text).into_owned();
        let before = text.find(['=', ':']).map_or(text.len(), |at| at + 1);
        let (head, rest) = text.split_at(before);
        let blanks = &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()];
        let blanks = if rest.trim().is_empty() { " " } else { blanks };
        let comment = comment_start(&text).filter(|&at| at >= before + blanks.len()).map_or("", |at| &text[at..]);
        let gap = if comment.is_empty() { "" } else { " " };
        self.lines[entry.first].text = format!("{head}{blanks}{value}{gap}{comment}").into_bytes();
        // Comments between the lines of a value go with it: nothing is left that they could be about.
        let end = self.lines[entry.last].end;
        self.lines.drain(entry.first + 1..=entry.last);
        self.lines[entry.first].end = end;
    }

    fn insert(&mut self, section: &str, key: &str, value: &str) {
        let last_key = self.entries.iter().filter(|entry| entry.section == section).map(|entry| entry.last).max();
        let header = self.sections.iter().find(|found| found.name == section).map(|found| found.line);
        let at = last_key.or(header).map_or(self.lines.len(), |line| line + 1);
        let mut new = Vec::new();
        if header.is_none() {
            if self.lines.last().is_some_and(|line| !line.text.is_empty()) {
                new.push(Line::new(""));
            }
            new.push(Line::new(format!("[{section}]")));
        }
        new.push(Line::new(format!("{key} = {value}")));
        if let Some(before) = at.checked_sub(1).map(|index| &mut self.lines[index]) {
            match before.end {
                End::Missing => before.end = End::Newline,
                end => new.iter_mut().for_each(|line| line.end = end),
            }
        }
        self.lines.splice(at..at, new);
    }

    fn error(&mut self, index: usize, message: String) {
        self.errors.push(SyntaxError::new(index + 1, message));
    }

    fn read(&mut self) {
        let lines: Vec<(usize, String)> = self.lines.iter().enumerate().flat_map(|(i, line)| pieces(i, line)).collect();
        // The indentation of the line that began the current key, and whether a key is there to be continued.
        let (mut indentation, mut open) = (0, false);
        // Where each section and key stands; a section has an empty key.
        let mut seen = HashMap::new();
        for (index, line) in lines {
            let comment = comment_start(&line);
            let value = line[..comment.unwrap_or(line.len())].trim_matches(is_space);
            if value.is_empty() {
                if let Some(entry) = self.entries.last_mut().filter(|_| open && comment.is_none()) {
                    entry.value.push(String::new());
                }
                continue;
            }
            let indented = line.chars().take_while(|&c| is_space(c)).count();
            if let Some(entry) = self.entries.last_mut().filter(|_| open && indented > indentation) {
                entry.value.push(value.to_owned());
                entry.last = index;
                continue;
            }
            indentation = indented;
            if let Some(name) = header(value) {
                open = false;
                self.begin(index, name, &mut seen);
            } else if self.sections.is_empty() {
                let text = shown(value.as_bytes());
                self.error(index, format!("\"{text}\" stands before any [section], {NOT_READ}. Remove it"));
                return;
            } else {
                open |= self.add(index, value, &mut seen);
            }
        }
    }

    fn begin(&mut self, line: usize, name: &str, seen: &mut HashMap<(String, String), usize>) {
        let first = seen.insert((name.to_owned(), String::new()), line);
        if let Some(first) = first.filter(|_| name != "DEFAULT").map(|first| first + 1) {
            let name = shown(name.as_bytes());
            self.error(line, format!("[{name}] stands in line {first} already, {NOT_READ}. Put both together"));
        }
        self.sections.push(Section { name: name.to_owned(), line });
    }

    /// Reads `key = value`; false if it is none.
    fn add(&mut self, line: usize, text: &str, seen: &mut HashMap<(String, String), usize>) -> bool {
        let section = self.sections.last().map(|section| section.name.clone()).unwrap_or_default();
        let pair = text.split_once(['=', ':']).map(|(key, value)| (key.trim_matches(is_space).to_lowercase(), value));
        let Some((key, value)) = pair.filter(|(key, _)| !key.is_empty()) else {
            let text = shown(text.as_bytes());
            self.error(line, format!("\"{text}\" is neither a comment nor key = value, {NOT_READ}. Put # before it"));
            return false;
        };
        if let Some(first) = seen.insert((section.clone(), key.clone()), line).map(|first| first + 1) {
            let key = shown(key.as_bytes());
            self.error(line, format!("{key} stands in line {first} already, {NOT_READ}. Remove one of them"));
        }
        let value = vec![value.trim_matches(is_space).to_owned()];
        self.entries.push(Entry { section, key, value, first: line, last: line });
        true
    }
}

/// A line as Python reads it: a lone carriage return ends one, too.
fn pieces(index: usize, line: &Line) -> Vec<(usize, String)> {
    let text = String::from_utf8_lossy(&line.text);
    text.split('\r').map(|piece| (index, piece.to_owned())).collect()
}

/// What Python's str.strip() takes away.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Where the comment of a line begins: at its first letter if that is `#` or `;`, else at a `;` behind a blank.
fn comment_start(line: &str) -> Option<usize> {
    if line.trim_start_matches(is_space).starts_with(['#', ';']) {
        return Some(0);
    }
    line.match_indices(';').map(|(at, _)| at).find(|&at| line[..at].ends_with(is_space))
}

/// The name of `[name]`, up to the last bracket; what follows does not count.
fn header(value: &str) -> Option<&str> {
    let inner = value.strip_prefix('[')?;
    let name = &inner[..inner.rfind(']')?];
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(text: &[u8]) -> Vec<(String, String, String)> {
        let ini = Ini::parse(text);
        let all = ini.entries.iter().map(|e| (e.section.clone(), e.key.clone()));
        all.map(|(section, key)| (section.clone(), key.clone(), ini.get(&section, &key).unwrap())).collect()
    }

    /// What fail2ban's own reader made of the same bytes; `Err`: the line that it gave up at.
    #[test]
    fn values_are_those_that_fail2ban_reads() {
        type Read = Result<&'static [(&'static str, &'static str, &'static str)], usize>;
        let cases: &[(&[u8], Read)] = &[
            (b"[a]\nx=1\n", Ok(&[("a", "x", "1")])),
            (b"[a]\nx=1\nx=2\n", Err(3)),
            (b"[a]\nx=1\n[b]\n[a]\ny=2\n", Err(4)),
            (b"x=1\n", Err(1)),
            (b"[a]\ngarbage\nx=1\n", Err(2)),
            (b"[a]\n=1\n", Err(2)),
            (b"[a]\n: 1\n", Err(2)),
            (b"[]\nx=1\n", Err(1)),
            (b"[a", Err(1)),
            (b"\xef\xbb\xbf[a]\nx=1\n", Err(1)),
            (b"[a]\nx=\xff\n", Err(2)),
            (b"[a]\nx=1 ; c\n", Ok(&[("a", "x", "1")])),
            (b"[a]\nx=1;c\n", Ok(&[("a", "x", "1;c")])),
            (b"[a]\nx=1 # c\n", Ok(&[("a", "x", "1 # c")])),
            (b"[a]\nx=1 ;; d\n  f ;g\n", Ok(&[("a", "x", "1\nf")])),
            (b"[a]\nx = ; c\n y\n", Ok(&[("a", "x", "\ny")])),
            (b"[a]\nx=1\n ;c\n y\n", Ok(&[("a", "x", "1\ny")])),
            (b"[a]\nx=1\n  2\n # c\n  3\n\n  4\n", Ok(&[("a", "x", "1\n2\n3\n\n4")])),
            (b"[a]\n x=1\n  y=2\n z=3\n", Ok(&[("a", "x", "1\ny=2"), ("a", "z", "3")])),
            (b"[a]\nx=1\n  [b]\n y=2\n", Ok(&[("a", "x", "1\n[b]\ny=2")])),
            (b"[a]\nX Y : 1\n", Ok(&[("a", "x y", "1")])),
            (b"[a]b\nx=1\n", Ok(&[("a", "x", "1")])),
            (b"[a]]\nx=1\n", Ok(&[("a]", "x", "1")])),
            (b" [a]\nx=1\n", Ok(&[("a", "x", "1")])),
            (b"[ a ]\nx=1\n", Ok(&[(" a ", "x", "1")])),
            (b"[a]\r\nx=1\r\n  2\r\n", Ok(&[("a", "x", "1\n2")])),
            (b"[a]\nx=1\r2=3\n", Ok(&[("a", "x", "1"), ("a", "2", "3")])),
            (b"[a]\nx=1\n\n2=3\n", Ok(&[("a", "x", "1"), ("a", "2", "3")])),
            (b"[a]\nx:a=b\n", Ok(&[("a", "x", "a=b")])),
            (b"[a]\nx=%(y)s %%\n", Ok(&[("a", "x", "%(y)s %%")])),
            (b"[a]\nx=1\n\t2\n", Ok(&[("a", "x", "1\n2")])),
            (b"[DEFAULT]\nx=1\n[DEFAULT]\ny=1\n", Ok(&[("DEFAULT", "x", "1"), ("DEFAULT", "y", "1")])),
            (b"", Ok(&[])),
        ];
        for (text, read) in cases {
            let ini = Ini::parse(text);
            let shown = String::from_utf8_lossy(text);
            match read {
                Ok(wanted) => {
                    let wanted: Vec<_> =
                        wanted.iter().map(|(s, k, v)| (s.to_string(), k.to_string(), v.to_string())).collect();
                    assert_eq!(entries(text), wanted, "{shown:?}");
                    assert!(ini.errors().is_empty(), "{shown:?}: {:?}", ini.errors());
                }
                Err(line) => assert_eq!(ini.errors()[0].line, *line, "{shown:?}"),
            }
        }
    }

    #[test]
    fn a_doubled_key_names_both_lines() {
        let ini = Ini::parse(b"[sshd]\nenabled = true\n\nEnabled = false\n");
        assert_eq!(
            ini.errors()[0].to_string(),
            "line 4: enabled stands in line 2 already, and fail2ban does not read its configuration then. Remove one of them"
        );
    }

    #[test]
    fn set_edits_in_place_or_adds_where_it_belongs() {
        for (before, after) in [
            ("[sshd]\nbackend = auto\nport = ssh\n", "[sshd]\nbackend = systemd\nport = ssh\n"),
            ("[sshd]\nBackend:auto ; c\n", "[sshd]\nBackend:systemd ; c\n"),
            ("[sshd]\nbackend=a\n # c\n   b\nport = ssh", "[sshd]\nbackend=systemd\nport = ssh"),
            ("[sshd]\nbackend =\n", "[sshd]\nbackend = systemd\n"),
            ("[sshd]\nbackend = ; c\n", "[sshd]\nbackend = systemd ; c\n"),
            (
                "[sshd]\nport = ssh\n  2222\n\n# next\n[x]\ny=1\n",
                "[sshd]\nport = ssh\n  2222\nbackend = systemd\n\n# next\n[x]\ny=1\n",
            ),
            ("[sshd]\n", "[sshd]\nbackend = systemd\n"),
            ("[x]\ny=1", "[x]\ny=1\n\n[sshd]\nbackend = systemd\n"),
            ("[sshd]\r\nport=1\r\n", "[sshd]\r\nport=1\r\nbackend = systemd\r\n"),
            ("", "[sshd]\nbackend = systemd\n"),
        ] {
            let mut ini = Ini::parse(before.as_bytes());
            ini.set("sshd", "backend", "systemd").unwrap();
            assert_eq!(String::from_utf8(ini.to_bytes()).unwrap(), after);
            ini.set("sshd", "backend", "systemd").unwrap();
            assert_eq!(String::from_utf8(ini.to_bytes()).unwrap(), after);
        }
    }

    #[test]
    fn set_refuses_what_would_not_be_read_back() {
        for (text, section, key, value) in [
            ("", "a", "x", "1\ny = 2"),
            ("", "a", "x", "1 ; c"),
            ("", "a", "x", " 1"),
            ("", "a", "x", ""),
            ("", "a", "#x", "1"),
            ("", "a", "x=y", "1"),
            ("", "a]\n[b", "x", "1"),
            ("[a]\nx=1\nx=2\n", "a", "y", "1"),
            ("x=1\n", "a", "y", "1"),
        ] {
            let mut ini = Ini::parse(text.as_bytes());
            if value.is_empty() {
                ini.set(section, key, value).unwrap();
                assert_eq!(ini.get(section, key).unwrap(), "");
                continue;
            }
            assert!(ini.set(section, key, value).is_err(), "{text:?} {section:?} {key:?} {value:?}");
            assert_eq!(ini.to_bytes(), text.as_bytes());
        }
    }

    fn ini_like() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"[a]",
            b"[b]",
            b"[",
            b"]",
            b"x",
            b"y",
            b"=",
            b": ",
            b" = 1",
            b" ",
            b"  ",
            b"\t",
            b";",
            b" ;",
            b"#",
            b"\n",
            b"\n",
            b"\n",
            b"\r\n",
            b"\r",
            b"\xff",
            b"\xc2\x85",
            b"z=2",
        ];
        let piece = proptest::sample::select(PIECES).prop_map(<[u8]>::to_vec);
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Ini::parse(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn set_changes_one_value_and_no_other(bytes in ini_like(), value in "[a-z;# ]{1,6}") {
            let mut ini = Ini::parse(&bytes);
            let mut before = entries(&bytes);
            if ini.set("a", "x", &value).is_ok() {
                prop_assert_eq!(ini.get("a", "x").unwrap(), value);
                let mut after = entries(&ini.to_bytes());
                before.retain(|(section, key, _)| section != "a" || key != "x");
                after.retain(|(section, key, _)| section != "a" || key != "x");
                prop_assert_eq!(after, before);
            } else {
                prop_assert_eq!(ini.to_bytes(), bytes);
            }
        }
    }
}
