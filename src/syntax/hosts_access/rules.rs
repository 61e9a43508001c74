//! How libwrap reads its two files: bytes into lines, lines into fields, fields into words. It is what fgets, strtok
//! and their like make of it, byte for byte; tests/hosts_access_vs_tcpdmatch.rs holds it against the real one.

/// The buffer that a rule has to fit into, with its newline and a NUL.
const BUFFER: usize = 2048;

/// One line as libwrap sees it, joined where a backslash hides the newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logical {
    /// The byte that it starts at.
    pub start: usize,
    /// The number of the last line that it is made of, counted from 1, as libwrap's own messages count.
    pub line: usize,
    /// Without the newline.
    pub text: Vec<u8>,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Newline,
    /// The file ends, and the line has no newline.
    Missing,
    /// The buffer is full.
    TooLong,
}

impl Logical {
    /// Neither a comment nor blank. A blank before the `#` makes a rule of a comment.
    pub fn is_rule(&self) -> bool {
        !self.text.starts_with(b"#") && !self.text.iter().all(|byte| b" \t\r".contains(byte))
    }
}

/// The lines up to and with the first that has no newline or is too long, for libwrap stops there.
pub(super) fn logical_lines(file: &[u8]) -> Vec<Logical> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 0);
    while at < file.len() {
        let (start, mut text) = (at, Vec::new());
        let end = loop {
            let room = BUFFER - 1 - text.len();
            let rest = &file[at..];
            if rest.is_empty() || room == 0 {
                break if rest.is_empty() { End::Missing } else { End::TooLong };
            }
            let newline = rest.iter().take(room).position(|&byte| byte == b'\n');
            let read = &rest[..newline.map_or(room.min(rest.len()), |index| index + 1)];
            at += read.len();
            // What stands behind a NUL is not seen, the newline too.
            let seen = read.split(|&byte| byte == 0).next().unwrap_or_default();
            let [kept @ .., b'\n'] = seen else {
                text.extend_from_slice(seen);
                continue;
            };
            line += 1;
            let Some(hidden) = kept.strip_suffix(b"\\") else {
                text.extend_from_slice(kept);
                break End::Newline;
            };
            text.extend_from_slice(hidden);
        };
        if end == End::Missing && text.is_empty() {
            break;
        }
        found.push(Logical { start, line: if end == End::Newline { line } else { line + 1 }, text, end });
        if end != End::Newline {
            break;
        }
    }
    found
}

/// Cuts at the first `delimiter` that is not within brackets.
pub(super) fn split_at(text: &str, delimiter: u8) -> Option<(&str, &str)> {
    let mut depth = 0i32;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ if depth == 0 && byte == delimiter => return Some((&text[..index], &text[index + 1..])),
            _ => {}
        }
    }
    None
}

/// `name@host`, for a daemon and for a client; the first letter is never the `@`.
pub(super) fn split_host(word: &str) -> Option<(&str, &str)> {
    let first = word.chars().next()?.len_utf8();
    let (rest, host) = split_at(&word[first..], b'@')?;
    Some((&word[..first + rest.len()], host))
}

/// `a, b EXCEPT c EXCEPT d`, which is a and b, but not what is c and not d.
pub(super) fn list_matches(list: &str, matches: &dyn Fn(&str) -> bool) -> bool {
    let mut words = list.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty());
    let mut matched = false;
    // Each EXCEPT takes back what matched so far if its own list matches; the lists nest to the right.
    let mut sides = Vec::new();
    loop {
        let word = words.next();
        match word {
            Some(word) if !word.eq_ignore_ascii_case("EXCEPT") => matched = matched || matches(word),
            _ => {
                sides.push(std::mem::take(&mut matched));
                if word.is_none() {
                    return sides.into_iter().rev().fold(false, |excepted, side| side && !excepted);
                }
            }
        }
    }
}

/// The options behind the second colon; `\:` is a colon that does not separate.
pub(super) fn options(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while rest.peek().is_some() {
        let mut field = String::new();
        while let Some(letter) = rest.next() {
            match letter {
                ':' => break,
                '\\' if rest.peek() == Some(&':') => field.extend(rest.next()),
                other => field.push(other),
            }
        }
        found.push(field);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &[u8]) -> Vec<(usize, String, End)> {
        let shown = |one: Logical| (one.line, String::from_utf8(one.text).unwrap(), one.end);
        logical_lines(file).into_iter().map(shown).collect()
    }

    #[test]
    fn a_backslash_hides_a_newline_and_a_nul_the_rest_of_its_line() {
        assert_eq!(lines(b"a \\\nb\nc\n"), [(2, "a b".into(), End::Newline), (3, "c".into(), End::Newline)]);
        assert_eq!(lines(b"a\\\r\nb\n"), [(1, "a\\\r".into(), End::Newline), (2, "b".into(), End::Newline)]);
        assert_eq!(lines(b"AL\0xx\nL: x\n"), [(1, "ALL: x".into(), End::Newline)]);
        assert_eq!(lines(b"a\nb"), [(1, "a".into(), End::Newline), (2, "b".into(), End::Missing)]);
        assert_eq!(lines(b"a\\\n"), [(2, "a".into(), End::Missing)]);
        assert_eq!(lines(b"\\\n"), []);
    }

    #[test]
    fn a_line_that_does_not_fit_is_the_last() {
        let fits = [vec![b'x'; 2046], b"\ny\n".to_vec()].concat();
        assert_eq!(lines(&fits).len(), 2);
        let too_long = [vec![b'x'; 2047], b"\ny\n".to_vec()].concat();
        assert_eq!(lines(&too_long), [(1, "x".repeat(2047), End::TooLong)]);
    }

    #[test]
    fn exceptions_nest_to_the_right() {
        let matches = |list: &str| list_matches(list, &|word| word == "a");
        assert!(matches("a") && matches("b,a\tc") && !matches("b") && !matches(""));
        assert!(!matches("a EXCEPT a") && matches("a except b") && matches("a EXCEPT"));
        assert!(matches("a EXCEPT a EXCEPT a") && !matches("b EXCEPT b"));
    }

    #[test]
    fn a_colon_behind_a_backslash_does_not_separate_options() {
        assert_eq!(options(" spawn a\\:b : allow"), [" spawn a:b ", " allow"]);
        assert_eq!(options(":x:"), ["", "x"]);
    }
}
