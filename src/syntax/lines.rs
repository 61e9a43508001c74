//! A file as lines that know how they ended, so that joining them gives the same bytes back.

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The line without its end; may hold any byte but `\n`.
    pub text: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// The bytes after a line's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Newline,
    /// `\r\n`, as editors on Windows write it.
    CrLf,
    /// The last line of a file whose last byte is not a newline.
    Missing,
}

impl End {
    pub fn bytes(self) -> &'static [u8] {
        match self {
            End::Newline => b"\n",
            End::CrLf => b"\r\n",
            End::Missing => b"",
        }
    }
}

impl Line {
    /// A line of our own, ended by `\n`.
    pub fn new(text: impl Into<Vec<u8>>) -> Self {
        Self { text: text.into(), end: End::Newline }
    }
}

/// Both portsentries read at most this many bytes as one line; what follows is a line of its own to them.
pub(super) const DAEMON_LINE: usize = 1023;

/// Splits at every `\n`. `join(&split(x)) == x` for every `x`; no bytes are no lines.
pub(super) fn split(bytes: &[u8]) -> Vec<Line> {
    bytes
        .split_inclusive(|&b| b == b'\n')
        .map(|raw| {
            let (text, end) = match raw {
                [text @ .., b'\r', b'\n'] => (text, End::CrLf),
                [text @ .., b'\n'] => (text, End::Newline),
                text => (text, End::Missing),
            };
            Line { text: text.to_vec(), end }
        })
        .collect()
}

/// The bytes that the lines came from.
pub(super) fn join(lines: &[Line]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lines.iter().map(|l| l.text.len() + 2).sum());
    for line in lines {
        bytes.extend_from_slice(&line.text);
        bytes.extend_from_slice(line.end.bytes());
    }
    bytes
}

/// Blank and tab, what every reader here counts as white space inside a line.
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// `text` without blanks and tabs at both ends.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

/// `text` without leading blanks and tabs.
pub(super) fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|&&b| is_blank(b)).count()..]
}

/// `text` without trailing blanks and tabs.
pub(super) fn trim_end(text: &[u8]) -> &[u8] {
    &text[..text.len() - text.iter().rev().take_while(|&&b| is_blank(b)).count()]
}

/// `text` for a message: control bytes escaped, so that a hostile file cannot paint the terminal, and cut at 80
/// characters.
pub(super) fn shown(text: &[u8]) -> String {
    const LIMIT: usize = 80;
    let mut out = String::new();
    for (count, c) in String::from_utf8_lossy(text).chars().enumerate() {
        if count == LIMIT {
            out.push('…');
            break;
        }
        match c {
            '\t' => out.push(' '),
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                out.extend(c.escape_unicode())
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_knows_how_it_ended() {
        let ends = |bytes| split(bytes).iter().map(|l| l.end).collect::<Vec<_>>();
        assert_eq!(ends(b""), []);
        assert_eq!(ends(b"\n"), [End::Newline]);
        assert_eq!(ends(b"a\r\nb\nc"), [End::CrLf, End::Newline, End::Missing]);
        assert_eq!(ends(b"a\r"), [End::Missing]);
    }

    #[test]
    fn a_message_cannot_paint_the_terminal() {
        assert_eq!(shown(b"a\x1b[31mb\tc\xff"), "a\\u{1b}[31mb c\u{fffd}");
        assert_eq!(shown(&[b'x'; 500]).chars().count(), 81);
    }

    proptest! {
        #[test]
        fn joining_gives_the_bytes_back(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..200)) {
            prop_assert_eq!(join(&split(&bytes)), bytes);
        }
    }
}
