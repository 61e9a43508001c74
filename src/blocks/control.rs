//! How `block`, `unblock` and `blocked` reach a daemon that runs: a Unix socket that only root can open, one line of JSON
//! there and one back.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{By, cleaned, printable};

/// Where it is.
pub const SOCKET: &str = "/run/harden-portsentry/control";
/// The words, behind the program's name, by which Debian's portsentry hands over whom it caught: `$TARGET$` and `$PORT$` are
/// portsentry's.
pub const KILL_ROUTE: &str = "--quiet block $TARGET$ --by portsentry --why 'probed port $PORT$'";
/// A question may be so long, and an answer, with 65,536 blocked hosts in it.
const QUESTION: u64 = 64 << 10;
const ANSWER: u64 = 64 << 20;
/// A daemon that does not answer within this hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    Block {
        address: IpAddr,
        length: Wanted,
        by: By,
        why: String,
    },
    Unblock {
        address: IpAddr,
        why: String,
    },
    UnblockAll {
        why: String,
    },
    /// Have the kernel block whom the ledger says.
    Restore,
    List,
}

/// For how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// As it has earned; if it is blocked, as it is.
    Earned,
    Seconds(u64),
    Ever,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Blocked until then, or for ever; `already` if it was.
    Blocked {
        until: Option<Timestamp>,
        already: bool,
    },
    Freed(Vec<IpAddr>),
    /// So many are blocked.
    Restored(usize),
    List(Vec<Listed>),
    Refused(String),
}

/// One blocked address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub address: IpAddr,
    pub since: Timestamp,
    /// `None` is for ever.
    pub until: Option<Timestamp>,
    pub times: u32,
    pub by: By,
    pub why: String,
    /// Whether the kernel blocks it, too.
    pub in_kernel: bool,
}

impl Answer {
    /// Without what a terminal would obey: somebody may have taken over the daemon, and root reads it.
    fn printable(self) -> Answer {
        match self {
            Answer::Refused(why) => Answer::Refused(printable(&why)),
            Answer::List(mut listed) => {
                listed.iter_mut().for_each(|one| one.why = cleaned(&one.why));
                Answer::List(listed)
            }
            other => other,
        }
    }
}

/// Asks the daemon; `None` if none listens, or it is about to end and does not answer any more.
///
/// # Errors
/// It listens and does not answer, or what cannot be read.
pub fn ask(request: &Request) -> Result<Option<Answer>> {
    let stream = match UnixStream::connect(SOCKET) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot reach the daemon at {SOCKET}")),
    };
    let doing = || format!("the daemon at {SOCKET} does not answer; `systemctl restart {}` starts it anew", unit());
    stream.set_read_timeout(Some(PATIENCE)).with_context(doing)?;
    stream.set_write_timeout(Some(PATIENCE)).with_context(doing)?;
    let question = serde_json::to_string(request).context("cannot write a question")?;
    let answer = writeln!(&stream, "{question}").and_then(|()| line_of(&stream, ANSWER));
    match answer {
        Ok(line) if line.is_empty() => Ok(None),
        Ok(line) => read_answer(&line).map(Some),
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(None),
        Err(error) => Err(error).with_context(doing),
    }
}

fn read_answer(line: &str) -> Result<Answer> {
    // What serde says of it would quote it.
    let answer = serde_json::from_str(line).ok().map(Answer::printable);
    answer.with_context(|| {
        let unit = unit();
        format!("the daemon's answer cannot be read; if it is of another version, `systemctl restart {unit}` starts this one")
    })
}

/// The unit that is to listen there: the embedded portsentry, or the keeper of Debian's.
pub fn unit() -> &'static str {
    if Path::new(super::CONF).exists() { "harden-portsentry-keeper" } else { "harden-portsentry" }
}

/// Listens at [`SOCKET`], in the place of one that a daemon left behind.
///
/// # Errors
/// The socket cannot be made.
pub fn listen() -> Result<UnixListener> {
    let path = Path::new(SOCKET);
    let doing = || format!("cannot listen at {SOCKET}");
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(doing)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(doing),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(doing)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(doing)?;
    Ok(listener)
}

/// Reads a question. Who connects is root or the daemon's own user: nobody else can open the socket.
///
/// # Errors
/// None came within a second, or none that can be read.
pub fn question(stream: &UnixStream) -> Result<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(serde_json::from_str(&line_of(stream, QUESTION)?)?)
}

/// Answers; whoever asked may be gone.
pub fn answer(stream: &UnixStream, answer: &Answer) {
    if let Ok(text) = serde_json::to_string(answer) {
        let mut stream = stream;
        let _ = stream.write_all(format!("{text}\n").as_bytes());
    }
}

fn line_of(stream: &UnixStream, limit: u64) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).take(limit).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_would_obey_comes_from_the_daemon() {
        let refused = r#"{"refused":"no \u001b[2J\u009b1m\nroom"}"#;
        assert_eq!(read_answer(refused).unwrap(), Answer::Refused("no [2J1m room".to_owned()));
        let listed = r#"{"list":[{"address":"203.0.113.9","since":"2026-11-27T06:12:00Z","until":null,"times":1,"by":"hand","why":"\u001b]0;x\u0007","in_kernel":true}]}"#;
        let Answer::List(listed) = read_answer(listed).unwrap() else { panic!("no list") };
        assert_eq!(listed[0].why, "]0;x");
        let error = format!("{:?}", read_answer("{\"\u{1b}[2J\":1}").unwrap_err());
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}
