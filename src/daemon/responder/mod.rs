//! The responder: what needs more than watching does, in processes of its own, with the rights of their work from the
//! start. One kind runs the commands of the configuration, publishes who is denied and, where the daemon runs in connect
//! mode, opens low ports, as root; the other looks up names, as nobody. Both are told an address, a port and a mode, take
//! all else from the configuration itself, and nothing comes back but how it ended, a cleaned name, or a socket that
//! listens on a port of the configuration; so whoever took over the watcher could have them do no more than what the
//! configuration says.
//!
//! systemd starts one for each connection to [`COMMANDS_SOCKET`] or [`NAMES_SOCKET`], with the connection as its standard
//! input; without systemd one stays beside the daemon, and is handed each connection. One line of JSON is a question, one
//! an answer. `serve` is its side, `ask` the watcher's.

mod ask;
pub mod serve;

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::commands::{Deed, Ended};
pub use ask::{REST, Remote, Way, ask_names};

/// Where systemd listens for who runs commands, and for who looks up names.
pub const COMMANDS_SOCKET: &str = "/run/harden-portsentry-responder.sock";
pub const NAMES_SOCKET: &str = "/run/harden-portsentry-names.sock";
/// Questions and answers may be so long, in bytes.
const LINE: usize = 4 << 10;

/// A question or an answer: both of a pair have the same number.
#[derive(Debug, Serialize, Deserialize)]
struct Numbered<T> {
    number: u64,
    what: T,
}

/// What is asked for. Of a name: its address alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Question {
    /// Run what the configuration says.
    Run { deed: Deed, target: IpAddr, port: u16, mode: String },
    /// Open a port that the configuration says to listen on; for connect mode alone.
    Listen { port: u16, tcp: bool, mode: String },
    /// Write the file that hosts.deny names, from the ledger.
    PublishDenied,
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ended(Ended),
    /// The socket comes beside it; its family in words. `None`: it could not be opened.
    Listening(Option<String>),
    /// Whether it is written; why not, the responder has said.
    Published(bool),
}

/// A question for a name, and its answer.
type NameAnswer = (IpAddr, Option<String>);

/// Sends one line, and a descriptor beside it, if there is one.
fn send_line(stream: &UnixStream, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let text = serde_json::to_string(message)? + "\n";
    send(stream, text.as_bytes(), descriptor)
}

fn send(stream: &UnixStream, mut bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut is_first = true;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if is_first && !descriptors.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                is_first = false;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What comes next, into `bytes`: how much of it, and the descriptor beside it. Nothing is the end.
fn receive(stream: &UnixStream, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received =
            match recvmsg(stream.as_fd(), &mut [IoSliceMut::new(bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
        let descriptor = beside.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        return Ok((received, descriptor));
    }
}

/// The one line that comes next, and the descriptor beside it. Nothing may come behind it: who asked waits for the answer.
fn receive_line(stream: &UnixStream) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut line, mut descriptor) = (Vec::new(), None);
    while !line.ends_with(b"\n") {
        let mut bytes = [0; LINE];
        let (received, beside) = receive(stream, &mut bytes)?;
        line.extend_from_slice(&bytes[..received]);
        descriptor = descriptor.or(beside);
        if received == 0 || line.len() > LINE {
            let what = if received == 0 { "it ended" } else { "a line without an end" };
            return Err(Error::new(ErrorKind::UnexpectedEof, what));
        }
    }
    Ok((line, descriptor))
}
