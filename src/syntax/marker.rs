//! The block that holds our own entries in a file that others write, too: found, replaced and taken out again so
//! that the file is byte for byte what it was.
//!
//! Every reader of these files takes a line that begins with `#` for a comment (measured: libwrap, Debian's
//! portsentry-build-ignore-file, portsentry 1.2 and 2.0.7).

use std::ops::Range;

use super::lines::{End, Line};

const BEGIN: &[u8] = b"# harden-portsentry: begin (to change these, edit policy.toml and apply again)";
/// The same, where the line above had no newline before ours came: it loses it again when ours go.
const BEGIN_UNENDED: &[u8] =
    b"# harden-portsentry: begin (to change these, edit policy.toml and apply again; no newline above)";
const END: &[u8] = b"# harden-portsentry: end";

/// The lines between the marks of every block, marks left out.
pub(super) fn body(lines: &[Line]) -> Vec<&Line> {
    blocks(lines).into_iter().flat_map(|block| &lines[block.start + 1..block.end - 1]).collect()
}

/// Where the first block stands.
pub(super) fn start(lines: &[Line]) -> Option<usize> {
    blocks(lines).first().map(|block| block.start)
}

/// Puts one block with `body` where the first one stands, or at `place` if there is none; further blocks go. An
/// empty `body` takes every block out.
pub(super) fn replace(lines: &mut Vec<Line>, body: &[Vec<u8>], place: impl FnOnce(&[Line]) -> usize) {
    let found = blocks(lines);
    if let [only] = found.as_slice()
        && lines[only.start + 1..only.end - 1].iter().map(|line| &line.text).eq(body)
        && !body.is_empty()
    {
        return;
    }
    let first = found.first().map(|block| block.start);
    let mut begin = BEGIN;
    for block in found.into_iter().rev() {
        let unended = lines[block.start].text == BEGIN_UNENDED;
        lines.drain(block.clone());
        if unended && block.start > 0 {
            if block.start == lines.len() {
                let above = &mut lines[block.start - 1];
                if above.end == End::CrLf {
                    above.text.push(b'\r'); // it was a letter of its own before our newline came behind it
                }
                above.end = End::Missing;
            }
            begin = if body.is_empty() { BEGIN } else { BEGIN_UNENDED };
        }
    }
    if body.is_empty() {
        return;
    }
    let at = first.unwrap_or_else(|| place(lines)).min(lines.len());
    if at > 0 && lines[at - 1].end == End::Missing {
        lines[at - 1].end = End::Newline;
        begin = BEGIN_UNENDED;
    }
    let ours =
        [Line::new(begin)].into_iter().chain(body.iter().map(|text| Line::new(text.clone()))).chain([Line::new(END)]);
    lines.splice(at..at, ours);
}

/// From each begin mark to the end mark below it; a mark that lost its partner is nobody's block.
fn blocks(lines: &[Line]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (index, line) in lines.iter().enumerate() {
        if line.text == BEGIN || line.text == BEGIN_UNENDED {
            start = Some(index);
        } else if line.text == END
            && let Some(begin) = start.take()
        {
            found.push(begin..index + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lines::{join, split};
    use super::*;

    fn put(text: &[u8], body: &[&str]) -> Vec<u8> {
        let mut lines = split(text);
        let body: Vec<Vec<u8>> = body.iter().map(|line| line.as_bytes().to_vec()).collect();
        replace(&mut lines, &body, <[Line]>::len);
        join(&lines)
    }

    #[test]
    fn taking_out_what_was_put_in_gives_the_same_bytes() {
        for text in ["", "a\n", "a", "a\r\nb", "\n\n", "# x\\\n"] {
            let with = put(text.as_bytes(), &["one", "two"]);
            let again = put(&with, &["one", "two"]);
            assert_eq!(again, with);
            let other = put(&with, &["three"]);
            assert_eq!(put(&other, &[]), text.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_somebody_added_below_stays_whole() {
        let mut with = put(b"a", &["one"]);
        with.extend(b"b\n");
        assert_eq!(put(&with, &[]), b"a\nb\n");
    }

    #[test]
    fn a_block_that_was_copied_becomes_one() {
        let with = put(b"a\n", &["one"]);
        let twice = [with.clone(), with[2..].to_vec()].concat();
        assert_eq!(put(&twice, &["two"]), put(b"a\n", &["two"]));
    }

    proptest! {
        #[test]
        fn any_file_comes_back(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(put(&put(&text, &["x"]), &[]), text);
        }
    }
}
