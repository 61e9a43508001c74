//! What the two daemons take from a portsentry.conf, and what they trip over; see the table of the parent module.

use std::collections::BTreeMap;

use super::super::lines::{self, DAEMON_LINE, shown, trim, trim_start};
use super::super::{Dialect, SyntaxError};
use super::{Assignment, PortsentryConf, SHARED_KEYS, V1_KEYS};

impl PortsentryConf {
    /// What this generation's daemon does not read as a person reads it, in the order of lines. With 2.0 each of
    /// these but a doubled key keeps the daemon from starting.
    pub fn problems(&self, dialect: Dialect) -> Vec<SyntaxError> {
        let mut found = self.doubled_keys(dialect);
        for (index, line) in self.lines.iter().enumerate() {
            let message = match dialect {
                Dialect::V1 => v1_problem(&line.text),
                Dialect::V2 => v2_problem(&line.text),
            };
            found.extend(message.map(|m| SyntaxError::new(index + 1, m)));
        }
        if dialect == Dialect::V1 {
            found.extend(self.v1_mistaken_keys());
        }
        found.sort_by_key(|e| e.line);
        found
    }

    /// Keys with several active lines that do not agree, and which line the daemon follows.
    fn doubled_keys(&self, dialect: Dialect) -> Vec<SyntaxError> {
        let mut seen: BTreeMap<&str, Vec<(usize, &[u8])>> = BTreeMap::new();
        for (i, line) in self.lines.iter().enumerate() {
            if let Some(a) = Assignment::of(&line.text) {
                seen.entry(a.key(&line.text)).or_default().push((i + 1, &line.text[a.value]));
            }
        }
        let differing = seen.into_iter().filter(|(_, at)| at.iter().any(|(_, value)| *value != at[0].1));
        differing
            .map(|(key, at)| {
                let (first, last) = (at[0].0, at[at.len() - 1].0);
                let (taken, wins) = match dialect {
                    Dialect::V1 => (first, "1.2 takes the first"),
                    Dialect::V2 => (last, "2.0 takes the last"),
                };
                let other = if taken == first { last } else { first };
                SyntaxError::new(
                    other,
                    format!(
                        "{key} is doubled: portsentry {wins}, line {taken}. Put # before the line that you do not mean"
                    ),
                )
            })
            .collect()
    }

    /// Lines of which 1.2 takes a key that is not theirs.
    fn v1_mistaken_keys(&self) -> Vec<SyntaxError> {
        SHARED_KEYS
            .iter()
            .chain(V1_KEYS)
            .filter_map(|key| {
                let taken = self.v1_takes(key)?;
                let own = taken.whole_line && Assignment::of(&self.lines[taken.index].text).is_some_and(|a| a.key(&self.lines[taken.index].text) == *key);
                let message = format!("portsentry 1.2 takes this line for {key}, because it contains that name. Reword the line, or move it below {key}");
                (!own).then(|| SyntaxError::new(taken.index + 1, message))
            })
            .collect()
    }

    /// Looks `key` up the way 1.2 does: the first line that does not start with `#`, contains the name anywhere, and
    /// has a blank or `=` at the column where the name would end if it stood first.
    pub(super) fn v1_takes(&self, key: &str) -> Option<V1Take<'_>> {
        for (index, line) in self.lines.iter().enumerate() {
            for (n, piece) in as_read(&line.text).enumerate() {
                let named = piece.windows(key.len().max(1)).any(|w| w == key.as_bytes());
                if piece.starts_with(b"#") || !named || !matches!(piece.get(key.len()), Some(b' ' | b'=')) {
                    continue;
                }
                let value = piece.iter().position(|&b| b == b'"').map(|quote| {
                    let value = &piece[quote + 1..];
                    let end = value.iter().position(|&b| b == b'"' || !printable(b));
                    &value[..end.unwrap_or(value.len())]
                });
                return Some(V1Take { index, whole_line: n == 0, value });
            }
        }
        None
    }
}

/// What 1.2 found for a key.
pub(super) struct V1Take<'a> {
    index: usize,
    /// False for the rest of a line longer than its buffer.
    whole_line: bool,
    /// `None` without a quote: 1.2 then goes without the key.
    pub value: Option<&'a [u8]>,
}

/// A line in the pieces that the daemons read it in, each up to its first NUL.
fn as_read(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.chunks(DAEMON_LINE).map(|piece| piece.split(|&b| b == 0).next().unwrap_or_default())
}

pub(super) fn printable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

/// Why neither daemon reads `text`, and what to write.
pub(super) fn unreadable(text: &[u8]) -> String {
    let line = shown(text);
    if let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
        return format!(
            "starts with a byte order mark, which hides the line from portsentry. Save the file without it: {}",
            shown(rest)
        );
    }
    let content = trim(text);
    let name = content.iter().take_while(|&&b| b.is_ascii_alphanumeric() || b == b'_').count();
    let key = String::from_utf8_lossy(&content[..name]).to_ascii_uppercase();
    let after = trim_start(&content[name..]);
    let (Some(value), false) = (after.strip_prefix(b"=").map(trim), key.is_empty()) else {
        return format!("\"{line}\" is neither a comment nor KEY=\"value\". Put # before it, or write KEY=\"value\"");
    };
    let unquoted = match value {
        [quote @ (b'"' | b'\''), inner @ ..] => inner.split(|b| b == quote).next().unwrap_or_default(),
        bare => lines::trim_end(bare.split(|&b| b == b'#').next().unwrap_or_default()),
    };
    let what = if text.first().is_some_and(|&b| lines::is_blank(b)) {
        "has a blank before its key, which hides it from portsentry 1.2 and keeps 2.0 from starting"
    } else if value.first() != Some(&b'"') {
        "has no double quotes around its value"
    } else {
        "has a key that is not in capitals"
    };
    format!("\"{line}\" {what}. Write {key}=\"{}\"", shown(unquoted))
}

fn v1_problem(text: &[u8]) -> Option<String> {
    if let Some(message) = long_line(text) {
        return Some(message);
    }
    let found = Assignment::of(text)?;
    let key = found.key(text);
    if text[found.separator.start] == b'\t' {
        return Some(format!(
            "{key} is followed by a tab, which hides the line from portsentry 1.2. Write {key}=\"{}\"",
            shown(&text[found.value])
        ));
    }
    let cut = text[found.value].iter().find(|&&b| !printable(b))?;
    Some(format!("the value of {key} has the byte 0x{cut:02x}, at which portsentry 1.2 ends it. Use printable ASCII"))
}

fn v2_problem(text: &[u8]) -> Option<String> {
    let refuses = "portsentry 2.0 does not start with it";
    if let Some(message) = long_line(text) {
        return Some(message);
    }
    if text.is_empty() || text.starts_with(b"#") {
        return None;
    }
    let Some(found) = Assignment::of(text) else {
        return Some(if trim(text).is_empty() {
            format!("has nothing but blanks: {refuses}. Empty the line")
        } else {
            format!("has a blank before its #: {refuses}. Remove the blank")
        });
    };
    let (key, value) = (found.key(text), &text[found.value.clone()]);
    if !SHARED_KEYS.contains(&key) {
        Some(format!("{key} is not a key of portsentry 2.0: it does not start with it. Put # before the line"))
    } else if !found.clean || !found.closed || value.contains(&0) {
        Some(format!("is not KEY=\"value\": {refuses}. Write {key}=\"{}\"", shown(value)))
    } else if value.is_empty() {
        Some(format!("{key} has no value: {refuses}. Put # before the line"))
    } else {
        None
    }
}

fn long_line(text: &[u8]) -> Option<String> {
    let message = || {
        format!(
            "has {} bytes, and portsentry reads the rest after {} as a line of its own. Shorten it",
            text.len(),
            DAEMON_LINE
        )
    };
    (text.len() > DAEMON_LINE).then(message)
}
