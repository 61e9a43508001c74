//! `/etc/portsentry/portsentry.conf` of both generations.
//!
//! The format, measured on 2026-11-24 with the daemons themselves (1.2-14+b1 in a bookworm box by the ports that it
//! then opened and the commands that it ran; 2.0.7-1 in a forky box by `portsentry -d`, which prints the result):
//!
//! | line | 1.2 | 2.0.7 |
//! |---|---|---|
//! | `K="a"`, `K = "a"`, `K=<tab>"a"` | a | a |
//! | `K<tab>="a"` | not seen | a |
//! | `K="a"` then `K="b"` | **a** | **b** |
//! | ` K="a"`, `k="a"` | not seen | does not start |
//! | `K=a`, `K='a'` | key skipped, later good lines of it too | does not start |
//! | `K "a"`, `K=x "a"`, `K="a` | a | does not start |
//! | `K=""` | empty | does not start |
//! | `K="a" # c`, `K="a"x`, `K="a"<CR>` | a | a |
//! | `K="a "b" c"`, `K="a \"b"` | ends at the second quote; no escape | same |
//! | a tab or a byte above 126 in a value | value ends there | kept |
//! | `X="1"`, a key it does not know | not seen | does not start |
//! | ` # c`, a line of blanks, a BOM, `foo` | not seen | does not start |
//! | more than 1023 bytes, comments too | the rest is a line of its own | same |
//!
//! And 1.2 finds a key anywhere in a line: of `BLOCK_TCP="0" # TCP_PORTS` it takes TCP_PORTS to be 0, because the
//! line contains the name and its tenth byte, where the name would end, is `=`. [`PortsentryConf::get`] answers what
//! the daemon takes, [`PortsentryConf::problems`] what it trips over.

mod daemons;

use std::borrow::Cow;
use std::ops::Range;

use super::lines::{self, DAEMON_LINE, Line, trim, trim_start};
use super::{Dialect, SyntaxError, ValueError};
use daemons::{printable, unreadable};

/// Keys that both generations read.
pub const SHARED_KEYS: &[&str] = &[
    "TCP_PORTS",
    "UDP_PORTS",
    "IGNORE_FILE",
    "HISTORY_FILE",
    "BLOCKED_FILE",
    "RESOLVE_HOST",
    "BLOCK_TCP",
    "BLOCK_UDP",
    "KILL_ROUTE",
    "KILL_HOSTS_DENY",
    "KILL_RUN_CMD",
    "KILL_RUN_CMD_FIRST",
    "SCAN_TRIGGER",
    "PORT_BANNER",
];

/// Keys that only 1.2 reads; 2.0 does not start with them (trap 12).
pub const V1_KEYS: &[&str] =
    &["ADVANCED_PORTS_TCP", "ADVANCED_PORTS_UDP", "ADVANCED_EXCLUDE_TCP", "ADVANCED_EXCLUDE_UDP"];

/// A parsed portsentry.conf. Lines that nobody edits keep their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsentryConf {
    lines: Vec<Line>,
}

/// Where key and value stand in an active line.
struct Assignment {
    key: Range<usize>,
    /// From the key's end to the opening quote.
    separator: Range<usize>,
    /// Between the quotes.
    value: Range<usize>,
    closed: bool,
    /// `=` with blanks or tabs around it and nothing else.
    clean: bool,
}

impl Assignment {
    /// `None` for comments, blank lines, and what no daemon reads.
    fn of(text: &[u8]) -> Option<Self> {
        let key = 0..text.iter().take_while(|&&b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_').count();
        let quote = text.iter().position(|&b| b == b'"')?;
        if !text.first()?.is_ascii_uppercase() || quote < key.end {
            return None;
        }
        let separator = key.end..quote;
        let clean = trim(&text[separator.clone()]) == b"=";
        let read_by_v1 = matches!(text[separator.clone()].first(), Some(b' ' | b'=')) && known_key(&text[key.clone()]);
        if !clean && !read_by_v1 {
            return None;
        }
        let end = text[quote + 1..].iter().position(|&b| b == b'"');
        let value = quote + 1..end.map_or(text.len(), |n| quote + 1 + n);
        Some(Self { key, separator, value, closed: end.is_some(), clean })
    }

    fn key<'a>(&self, text: &'a [u8]) -> &'a str {
        std::str::from_utf8(&text[self.key.clone()]).unwrap_or_default()
    }

    /// Nothing about the line that either generation would misread.
    fn read_by_both(&self, text: &[u8]) -> bool {
        self.clean && self.closed && text[self.separator.start] != b'\t'
    }
}

fn known_key(key: &[u8]) -> bool {
    SHARED_KEYS.iter().chain(V1_KEYS).any(|k| k.as_bytes() == key)
}

impl PortsentryConf {
    /// Reads a configuration of either generation.
    ///
    /// # Errors
    /// The first line that neither daemon could read as it is meant: not blank, not a comment, not `KEY="value"`.
    /// What one of the two reads is accepted here and reported by [`Self::problems`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SyntaxError> {
        let lines = lines::split(bytes);
        for (index, line) in lines.iter().enumerate() {
            let content = trim_start(&line.text);
            let readable = content.is_empty() || content[0] == b'#' || Assignment::of(&line.text).is_some();
            if !readable {
                return Err(SyntaxError::new(index + 1, unreadable(&line.text)));
            }
        }
        Ok(Self { lines })
    }

    /// The file as it should be written. Without edits, the bytes that were parsed.
    pub fn to_bytes(&self) -> Vec<u8> {
        lines::join(&self.lines)
    }

    /// The value that this generation's daemon takes for `key`, or `None` if it takes none: the first occurrence in
    /// 1.2, the last in 2.0. Bytes that are no UTF-8 come out as U+FFFD.
    pub fn get(&self, key: &str, dialect: Dialect) -> Option<Cow<'_, str>> {
        let value = match dialect {
            Dialect::V1 => self.v1_takes(key)?.value?,
            Dialect::V2 => self.assignments(key).last().map(|(i, a)| &self.lines[i].text[a.value])?,
        };
        Some(String::from_utf8_lossy(value))
    }

    /// Every active occurrence of `key`: line (from 1) and value.
    pub fn all(&self, key: &str) -> Vec<(usize, Cow<'_, str>)> {
        self.assignments(key).map(|(i, a)| (i + 1, String::from_utf8_lossy(&self.lines[i].text[a.value]))).collect()
    }

    /// Every active line: line number (from 1) and key.
    pub fn keys(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().filter_map(|(i, l)| Some((i + 1, Assignment::of(&l.text)?.key(&l.text))))
    }

    /// Makes `key="value"` the one active line of `key`.
    ///
    /// An active line is edited in place and keeps its spacing and what follows the value; further active ones are
    /// commented out. Without an active line a new one is put after the last commented-out `#KEY="…"`, or else at the
    /// end. Setting what is set changes nothing.
    ///
    /// # Errors
    /// A value that a daemon would not read back as written: empty, with a double quote (there is no escape for it),
    /// with anything but printable ASCII (1.2 ends the value there), or too long.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        writable(key, value)?;
        let active: Vec<usize> = self.assignments(key).map(|(i, _)| i).collect();
        let Some(&first) = active.first() else {
            self.insert(key, value);
            return Ok(());
        };
        // The one that already says so makes the smaller change.
        let kept = active.iter().copied().find(|&i| self.says(i, value)).unwrap_or(first);
        let edited = self.edited(kept, value);
        if edited.len() >= DAEMON_LINE {
            return Err(ValueError::new(key, too_long(edited.len())));
        }
        self.lines[kept].text = edited;
        for i in active.into_iter().filter(|&i| i != kept) {
            self.lines[i].text.insert(0, b'#');
        }
        Ok(())
    }

    /// Comments out every active occurrence of `key` with a `#` in front.
    pub fn comment_out(&mut self, key: &str) {
        let active: Vec<usize> = self.assignments(key).map(|(i, _)| i).collect();
        for i in active {
            self.lines[i].text.insert(0, b'#');
        }
    }

    fn assignments(&self, key: &str) -> impl Iterator<Item = (usize, Assignment)> {
        self.lines.iter().enumerate().filter_map(move |(i, line)| {
            let found = Assignment::of(&line.text)?;
            (found.key(&line.text) == key).then_some((i, found))
        })
    }

    /// Whether line `index` already says `value`, in a form that both generations read.
    fn says(&self, index: usize, value: &str) -> bool {
        let text = &self.lines[index].text;
        Assignment::of(text).is_some_and(|a| a.read_by_both(text) && text[a.value] == *value.as_bytes())
    }

    fn edited(&self, index: usize, value: &str) -> Vec<u8> {
        let text = &self.lines[index].text;
        let Some(found) = Assignment::of(text) else {
            return text.clone();
        };
        let separator = if found.read_by_both(text) { &text[found.separator.clone()] } else { b"=" };
        let rest = if found.closed { &text[found.value.end..] } else { b"\"" };
        [&text[found.key], separator, b"\"", value.as_bytes(), rest].concat()
    }

    fn insert(&mut self, key: &str, value: &str) {
        let template = self.lines.iter().rposition(|l| commented_out(&l.text, key));
        let at = template.map_or(self.lines.len(), |i| i + 1);
        let mut new = Line::new(format!("{key}=\"{value}\""));
        if let Some(before) = at.checked_sub(1).map(|i| &mut self.lines[i]) {
            match before.end {
                lines::End::Missing => before.end = lines::End::Newline,
                end => new.end = end,
            }
        }
        self.lines.insert(at, new);
    }
}

/// Whether `text` is `#KEY="…"`, with blanks where people put them.
fn commented_out(text: &[u8], key: &str) -> bool {
    let body = &text[text.iter().take_while(|&&b| b == b'#' || lines::is_blank(b)).count()..];
    let after = body.strip_prefix(key.as_bytes()).map(trim_start).and_then(|t| t.strip_prefix(b"=")).map(trim_start);
    text.starts_with(b"#") && after.is_some_and(|t| t.starts_with(b"\""))
}

fn writable(key: &str, value: &str) -> Result<(), ValueError> {
    let refuse = |message: String| Err(ValueError::new(key, message));
    if Assignment::of(format!("{key}=\"v\"").as_bytes()).is_none_or(|a| a.key.end != key.len()) {
        return refuse("is not a key: use capitals, digits and _".to_owned());
    }
    if value.is_empty() {
        return refuse(
            "the value is empty, with which portsentry 2.0 does not start. Comment the key out instead".to_owned(),
        );
    }
    if value.contains('"') {
        return refuse(
            "the value has a double quote, at which portsentry ends it. Use single quotes inside a command".to_owned(),
        );
    }
    if let Some(c) = value.chars().find(|c| !c.is_ascii() || !printable(*c as u8)) {
        return refuse(format!("the value has {c:?}, at which portsentry 1.2 ends it. Use printable ASCII"));
    }
    let length = key.len() + value.len() + 3;
    if length >= DAEMON_LINE { refuse(too_long(length)) } else { Ok(()) }
}

fn too_long(length: usize) -> String {
    format!(
        "the line would have {length} bytes, and portsentry reads {} at most. Put the command into a script",
        DAEMON_LINE - 1
    )
}

#[cfg(test)]
mod tests;
