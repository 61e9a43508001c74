//! Redirections and here-documents, whose lines are no commands.

use super::script::{Command, Commands, State};
use super::words::{Part, Quote, Word};

pub(super) struct HereDocument {
    delimiter: Vec<u8>,
    tabs_stripped: bool,
    expanded: bool,
}

impl Commands<'_, '_> {
    pub fn redirection(&mut self, command: &mut Command) {
        self.reader.unit.operators = true;
        command.redirected = true;
        if self.reader.looking_at(b"<<<") {
            return self.reader.broken("<<< is bash's own");
        }
        let here = self.reader.looking_at(b"<<");
        let tabs_stripped = self.reader.looking_at(b"<<-");
        let duplicates = self.reader.looking_at(b"<&") || self.reader.looking_at(b">&");
        let two = [&b"<<"[..], b"<&", b"<>", b">&", b">>", b">|"].iter().any(|op| self.reader.looking_at(op));
        self.reader.at += 1 + usize::from(two) + usize::from(tabs_stripped);
        self.reader.skip_blanks();
        let none = self.reader.peek(0) == Some(b'#') || self.reader.looking_at(b"\\\n");
        let target = self.reader.word();
        if none || target.parts.is_empty() {
            return self.reader.broken("of a redirection to nothing");
        }
        if matches!(self.reader.peek(0), Some(b'<' | b'>')) {
            return self.reader.broken("of a redirection behind another without a blank");
        }
        let descriptor = |text: &str| matches!(text.as_bytes(), [b'-' | b'0'..=b'9']);
        if duplicates && !target.reserved().is_some_and(descriptor) {
            return self.reader.broken("of a redirection to no descriptor");
        }
        if here {
            let bare = |(quote, part): &(Quote, Part)| *quote == Quote::Bare && matches!(part, Part::Text(_));
            let expanded = target.parts.iter().all(bare);
            match target.literal() {
                Some(delimiter) if !delimiter.contains('\n') => {
                    self.here.push(HereDocument { delimiter: delimiter.into_bytes(), tabs_stripped, expanded });
                }
                _ => self.reader.broken("of a here-document's delimiter"),
            }
        }
        if self.state == State::Body {
            return self.reader.broken("of a function without braces");
        }
        if self.state.takes_reserved() {
            self.state = State::Prefix;
        }
    }

    pub fn read_here_documents(&mut self) {
        for document in std::mem::take(&mut self.here) {
            let start = (self.reader.at, self.reader.line);
            let mut continued = false;
            loop {
                let line_start = self.reader.at;
                if line_start >= self.reader.script.len() {
                    return self.reader.broken("of a here-document that does not end");
                }
                let end = self.line_end();
                let mut text = &self.reader.script[line_start..end];
                if document.tabs_stripped {
                    text = &text[text.iter().take_while(|&&b| b == b'\t').count()..];
                }
                self.reader.at = end;
                self.reader.step();
                let joined = std::mem::replace(&mut continued, document.expanded && ends_in_backslash(text));
                if text == document.delimiter && !joined {
                    if document.expanded {
                        self.read_expansions(start, line_start);
                    }
                    break;
                }
            }
        }
    }

    pub fn line_end(&self) -> usize {
        let rest = &self.reader.script[self.reader.at..];
        rest.iter().position(|&b| b == b'\n').map_or(self.reader.script.len(), |n| self.reader.at + n)
    }

    /// Notes what the expansions in a here-document's body set.
    fn read_expansions(&mut self, start: (usize, usize), end: usize) {
        let after = (self.reader.at, self.reader.line);
        let mut body = Word::default();
        (self.reader.at, self.reader.line) = start;
        while self.reader.at < end && self.reader.unit.broken.is_none() {
            match self.reader.peek(0) {
                Some(b'\\') => {
                    self.reader.step();
                    self.reader.step();
                }
                Some(b'$' | b'`') => self.reader.expansion(Quote::Double, &mut body),
                _ => {
                    self.reader.step();
                }
            }
        }
        if self.reader.at > end {
            self.reader.broken("of an expansion that does not end in its here-document");
        }
        if self.reader.unit.broken.is_none() {
            (self.reader.at, self.reader.line) = after;
        }
    }
}

/// Whether the newline behind `text` is escaped.
fn ends_in_backslash(text: &[u8]) -> bool {
    text.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 1
}
