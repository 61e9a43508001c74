//! One question to fail2ban's server: whom does a jail ban? Its client is a Python program that takes 100 ms of CPU to start;
//! the server answers on its socket in one.
//!
//! Both speak pickle there (fail2ban's asyncserver.py): a list of words, then a tuple of a status and a value. Of the answer
//! this reads no more than the words in it, by the few opcodes that such a value takes (Python's pickletools.py).

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Behind each message.
const END: &[u8] = b"<F2B_END_COMMAND>";
/// The server stands still while an action hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// 100,000 addresses take 5 MB.
const LIMIT: u64 = 64 << 20;

/// Whom `jail` bans; `None` where there is no such jail.
///
/// # Errors
/// The server does not answer, or something that cannot be read.
pub fn banned(socket: &str, jail: &str) -> Result<Option<Vec<IpAddr>>> {
    let doing = || format!("fail2ban does not answer at {socket}: systemctl status fail2ban");
    let mut stream = UnixStream::connect(socket).with_context(doing)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(doing)?;
    stream.set_write_timeout(Some(PATIENCE)).with_context(doing)?;
    stream.write_all(&question(&["get", jail, "banip"])).with_context(doing)?;
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    while !answer.ends_with(END) {
        let length = stream.read(&mut part).with_context(doing)?;
        answer.extend_from_slice(&part[..length]);
        if length == 0 || answer.len() as u64 > LIMIT {
            bail!("{}: it ended before its end", doing());
        }
    }
    let (status, words) = read(&answer[..answer.len() - END.len()]).context("fail2ban's answer cannot be read")?;
    Ok((status == 0)
        .then(|| words.iter().flat_map(|text| text.split_whitespace()).filter_map(|word| word.parse().ok()).collect()))
}

/// A list of words in the oldest of pickle's forms, which every Python reads.
fn question(words: &[&str]) -> Vec<u8> {
    let mut text = b"(l".to_vec();
    for word in words {
        text.extend(format!("V{word}\na").into_bytes());
    }
    text.push(b'.');
    text.extend(END);
    text
}

/// The first number, and the words.
fn read(pickle: &[u8]) -> Option<(u64, Vec<String>)> {
    let mut status = None;
    let mut words = Vec::new();
    let mut rest = pickle;
    loop {
        let (&opcode, tail) = rest.split_first()?;
        let number = |length: usize| {
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(tail.get(..length)?);
            Some(u64::from_le_bytes(bytes))
        };
        let size = |length: usize| number(length).and_then(|size| usize::try_from(size).ok());
        let (head, body) = match opcode {
            // STOP
            b'.' => return Some((status?, words)),
            // PROTO, BINPUT, BINGET; FRAME; BINBYTES and others do not come.
            0x80 | b'q' | b'h' => (1, 0),
            0x95 => (8, 0),
            b'r' | b'j' => (4, 0),
            // BININT1, BININT2, BININT
            b'K' | b'M' | b'J' => {
                let length = match opcode {
                    b'K' => 1,
                    b'M' => 2,
                    _ => 4,
                };
                status = status.or(number(length));
                (length, 0)
            }
            // SHORT_BINUNICODE, BINUNICODE
            0x8c => (1, size(1)?),
            b'X' => (4, size(4)?),
            // EMPTY_LIST, MARK, APPEND, APPENDS, MEMOIZE, TUPLE, TUPLE1 to TUPLE3, EMPTY_TUPLE, NONE; STACK_GLOBAL and REDUCE, by
            // which an address is made of its text
            0x93 | b'R' | b']' | b'(' | b'a' | b'e' | 0x94 | b't' | 0x85..=0x87 | b')' | b'N' => (0, 0),
            _ => return None,
        };
        if body > 0 {
            words.push(String::from_utf8_lossy(tail.get(head..head + body)?).into_owned());
        }
        rest = tail.get(head + body..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read_and_a_torn_answer_is_not() {
        // pickle.dumps((0, [IPAddr("203.0.113.9"), IPAddr("2001:db8:66::9")]), 5), of fail2ban's own class.
        let mut answer = b"\x80\x05\x95E\0\0\0\0\0\0\0K\0]\x94(\x8c\x08builtins\x94\x8c\x03str\x94\x93\x94\x8c\x0b203.0.113.9\x94\x85\x94R\x94h\x03\x8c\x0e2001:db8:66::9\x94\x85\x94R\x94e\x86\x94.".to_vec();
        let (status, words) = read(&answer).expect("it is whole");
        let addresses: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| word.parse::<IpAddr>().is_ok()).collect();
        assert_eq!((status, addresses), (0, vec!["203.0.113.9", "2001:db8:66::9"]));
        for length in 0..answer.len() {
            assert_eq!(read(&answer[..length]), None, "{length}");
        }
        // An exception, as a refusal is: a class is looked up, which this does not.
        answer.splice(11..13, *b"c\n");
        assert_eq!(read(&answer), None);
        assert_eq!(question(&["get", "x"]), b"(lVget\naVx\na.<F2B_END_COMMAND>");
    }
}
