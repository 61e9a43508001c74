//! Redirections, and the here-documents that some of them announce.

use super::script::{Commands, read_nested};
use super::words::{Part, Quote, Word};

/// Announced, and to be read behind the end of its line.
pub(super) struct HereDocument {
    delimiter: Vec<u8>,
    tabs_stripped: bool,
    expanded: bool,
}

impl Commands<'_, '_> {
    pub fn redirection(&mut self) {
        self.command.redirected = true;
        self.mixes();
        let here = self.reader.looking_at(b"<<") && !self.reader.looking_at(b"<<<");
        let tabs_stripped = self.reader.looking_at(b"<<-");
        while matches!(self.reader.peek(0), Some(b'<' | b'>')) {
            self.reader.at += 1;
        }
        if self.reader.peek(0) == Some(b'(') {
            self.reader.at += 1;
            return self.reader.deeper(read_nested); // bash's <(…)
        }
        self.reader.at += usize::from(tabs_stripped || matches!(self.reader.peek(0), Some(b'&' | b'|')));
        self.reader.skip_blanks();
        let target = self.reader.word();
        if target.parts.is_empty() && !self.reader.looking_at(b"<(") && !self.reader.looking_at(b">(") {
            return self.reader.broken(self.reader.line, "it has a redirection to nothing");
        }
        if here {
            let plain = |(quote, part): &(Quote, Part)| *quote == Quote::Bare && matches!(part, Part::Text(_));
            let expanded = target.parts.iter().all(plain);
            match target.literal().filter(|delimiter| !delimiter.contains('\n')) {
                Some(delimiter) => {
                    self.here.push(HereDocument { delimiter: delimiter.into_bytes(), tabs_stripped, expanded });
                }
                None => self.reader.broken(self.reader.line, "it has a here-document with an odd delimiter"),
            }
        }
    }

    /// bash's `&>`, which ends the command for another shell: only at its end do both mean the same.
    pub fn output_redirection(&mut self) {
        self.reader.at += 1;
        self.command.linked = true;
        self.redirection();
        self.reader.skip_blanks();
        if !matches!(self.reader.peek(0), None | Some(b'\n' | b';' | b'&' | b'|' | b')' | b'#')) {
            self.reader.broken(self.reader.line, "shells do not agree on what stands behind &>");
        }
    }

    /// Reads those that the line just ended has announced.
    pub fn here_documents(&mut self) {
        for document in std::mem::take(&mut self.here) {
            let start = (self.reader.at, self.reader.line);
            let mut continued = false;
            loop {
                let line_start = self.reader.at;
                if line_start >= self.reader.script.len() {
                    return self.reader.broken(start.1, "it has a here-document that does not end");
                }
                let end = self.reader.line_end();
                let mut text = &self.reader.script[line_start..end];
                if document.tabs_stripped {
                    text = &text[text.iter().take_while(|&&b| b == b'\t').count()..];
                }
                self.reader.at = end;
                self.reader.step();
                let joined = std::mem::replace(&mut continued, document.expanded && ends_in_backslash(text));
                if text == document.delimiter && !joined {
                    if document.expanded {
                        self.expansions(start, line_start);
                    }
                    break;
                }
            }
        }
    }

    /// Notes what the expansions in a here-document's body set.
    fn expansions(&mut self, start: (usize, usize), end: usize) {
        let after = (self.reader.at, self.reader.line);
        let mut body = Word::default();
        (self.reader.at, self.reader.line) = start;
        while self.reader.at < end && self.reader.broken.is_none() {
            match self.reader.peek(0) {
                Some(b'\\') => {
                    self.reader.step();
                    self.reader.step();
                }
                Some(b'$' | b'`') => self.reader.expansion(Quote::Double, &mut body),
                _ => drop(self.reader.step()),
            }
        }
        if self.reader.at > end {
            self.reader.broken(start.1, "it has a here-document with an expansion that does not end");
        }
        (self.reader.at, self.reader.line) = after;
    }
}

/// Whether the newline behind `text` is escaped.
fn ends_in_backslash(text: &[u8]) -> bool {
    text.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 1
}
