//! The responder: a process of its own for what needs more than watching does, commands of the configuration, names from
//! DNS, and the low ports of connect mode. It is told an address, a port and a mode, takes the commands from the
//! configuration itself, and nothing comes back from it but how a command ended, a cleaned name, or a socket that listens
//! on a port of the configuration; so whoever took over the watcher could have it do no more than what the configuration
//! says.
//!
//! systemd starts one for each connection to [`SOCKET`], with the connection as its standard input. One line of JSON is a
//! question, one an answer.

use std::io::{BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::connect::{Socket, listen};
use super::invocation::Mode;
use super::lines::HostName;
use super::names;
use super::output::locked;
use super::respond::{Commands, Deed, Ended, LIMIT};

/// Where systemd listens for it.
pub const SOCKET: &str = "/run/harden-portsentry-responder.sock";
/// Questions may be so long, in bytes.
const QUESTION: u64 = 4 << 10;
/// Whoever asks is gone if nothing comes for so long.
const IDLE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Run what the configuration says.
    Run { deed: Deed, target: IpAddr, port: u16, mode: String },
    /// Open a port that the configuration says to listen on.
    Listen { port: u16, tcp: bool, mode: String },
    /// What is this host called?
    Name(IpAddr),
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ended(Ended),
    /// The socket comes beside it; its family in words. `None`: it could not be opened.
    Listening(Option<String>),
    Name(IpAddr, Option<String>),
}

/// Serves whoever is at standard input until it closes, with the commands of the configuration at `conf`; or, unless it is
/// to `stay`, until nobody has asked for a minute.
///
/// # Errors
/// Standard input is no socket, or the configuration cannot be read.
pub fn serve(conf: &Path, stay: bool) -> Result<()> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
    let stream = UnixStream::from(stream);
    let idle = (!stay).then_some(IDLE);
    stream.set_read_timeout(idle).context("standard input is no socket; systemd starts this by its socket")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let stream = Arc::new(Mutex::new(stream));
    let mut names: Option<SyncSender<IpAddr>> = None;
    loop {
        let mut line = String::new();
        match reader.by_ref().take(QUESTION).read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
            Err(error) => return Err(error).context("cannot read a question"),
        }
        match serde_json::from_str(&line).context("a question cannot be read")? {
            Question::Run { deed, target, port, mode } if names.is_none() => {
                answer(&stream, &Answer::Ended(run(conf, deed, target, port, &mode)))?;
            }
            Question::Listen { port, tcp, mode } if names.is_none() => open_for(&stream, conf, port, tcp, &mode)?,
            // A name server's answers are parsed without any right to do harm.
            Question::Run { .. } | Question::Listen { .. } => bail!("this one looks up names and runs nothing"),
            Question::Name(address) => {
                if names.is_none() {
                    give_up_rights().context("cannot give up rights")?;
                    let stream = Arc::clone(&stream);
                    names = Some(names::look_up_in_threads(move |address, name| {
                        answer(&stream, &Answer::Name(address, name.map(|name| name.to_string()))).is_ok()
                    }));
                }
                if let Some(names) = &names {
                    let _ = names.try_send(address);
                }
            }
        }
    }
}

fn run(conf: &Path, deed: Deed, target: IpAddr, port: u16, mode: &str) -> Ended {
    let Some(mode) = Mode::of(mode) else { return Ended::NotStarted };
    let commands = match Config::read(conf, mode) {
        Ok(config) => Commands::of(&config, mode.name()),
        Err(error) => {
            eprintln!("{error:#}");
            return Ended::NotStarted;
        }
    };
    let Some(text) = commands.text(deed, target, port) else { return Ended::NotStarted };
    let (ended, words) = commands.carry_out(deed, target, port);
    if ended != Ended::Done {
        eprintln!("\"{text}\" {ended}{}{words}", if words.is_empty() { "" } else { ": " });
    }
    ended
}

/// Opens a port, if the configuration names it, and hands the socket over.
fn open_for(stream: &Mutex<UnixStream>, conf: &Path, port: u16, is_tcp: bool, mode: &str) -> Result<()> {
    let config = Mode::of(mode).map(|mode| Config::read(conf, mode));
    let is_named = config.and_then(Result::ok).is_some_and(|config| {
        let ports = if is_tcp { &config.tcp_ports } else { &config.udp_ports };
        ports.iter().any(|known| known == port)
    });
    let opened =
        if is_named { listen(port, is_tcp).map_err(|error| eprintln!("port {port}: {error}")).ok() } else { None };
    let Some((family, socket)) = opened else { return answer(stream, &Answer::Listening(None)) };
    let text = serde_json::to_string(&Answer::Listening(Some(family.to_owned())))? + "\n";
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&*locked(stream), &[IoSlice::new(text.as_bytes())], &mut beside, SendFlags::empty())
        .context("whoever asked is gone")?;
    Ok(())
}

fn answer(stream: &Mutex<UnixStream>, answer: &Answer) -> Result<()> {
    let text = serde_json::to_string(answer)? + "\n";
    locked(stream).write_all(text.as_bytes()).context("whoever asked is gone")
}

/// Leaves root and all capabilities behind, for good.
fn give_up_rights() -> rustix::io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups};
    /// nobody and nogroup (Debian Policy 9.2.2).
    const NOBODY: u32 = 65_534;
    set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() {
        set_thread_groups(&[])?;
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// The way to a responder.
#[derive(Debug, Clone)]
pub enum Way {
    /// systemd listens here, and starts one for each connection.
    Socket(PathBuf),
    /// One that was started beside this process, and stays.
    Given(Arc<UnixStream>),
}

impl Way {
    /// systemd's, if it listens.
    pub fn of_systemd() -> Option<Way> {
        Path::new(SOCKET).exists().then(|| Way::Socket(SOCKET.into()))
    }

    /// To the one at the other end of `stream`.
    pub fn given(stream: UnixStream) -> Way {
        Way::Given(Arc::new(stream))
    }

    /// A connection.
    ///
    /// # Errors
    /// Nobody listens, or this process may not connect.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = match self {
            Way::Socket(path) => UnixStream::connect(path)
                .with_context(|| format!("cannot reach the responder at {}", path.display()))?,
            Way::Given(stream) => stream.try_clone().context("cannot reach the responder")?,
        };
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream)
    }
}

/// One that runs commands, connected to when there is something to do.
pub struct Remote {
    way: Way,
    connection: Option<BufReader<UnixStream>>,
}

impl Remote {
    pub fn new(way: Way) -> Remote {
        Remote { way, connection: None }
    }

    /// Has it run what the configuration says.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer in time.
    pub fn run(&mut self, deed: Deed, target: IpAddr, port: u16, mode: &str) -> Result<Ended> {
        let question = Question::Run { deed, target, port, mode: mode.to_owned() };
        let outcome = self.ask(&question);
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    fn ask(&mut self, question: &Question) -> Result<Ended> {
        // It ends by itself after a while; then the next one is asked.
        if self.connection.as_mut().is_some_and(|connection| send(connection.get_mut(), question).is_err()) {
            self.connection = None;
        } else if self.connection.is_some() {
            return self.answer();
        }
        let stream = self.way.connect()?;
        stream.set_read_timeout(Some(LIMIT + Duration::from_secs(5)))?;
        let connection = self.connection.insert(BufReader::new(stream));
        send(connection.get_mut(), question)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Ended> {
        let Some(connection) = &mut self.connection else { bail!("the responder is gone") };
        let mut line = String::new();
        connection.take(QUESTION).read_line(&mut line).context("the responder does not answer")?;
        match serde_json::from_str(&line) {
            Ok(Answer::Ended(ended)) => Ok(ended),
            _ => bail!("the responder did not say how it ended"),
        }
    }

    /// Has it open a port that the configuration names.
    ///
    /// # Errors
    /// It cannot be reached, or it cannot open it either.
    pub fn listen(&mut self, port: u16, is_tcp: bool, mode: &str) -> Result<(&'static str, Socket)> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => {
                let stream = self.way.connect()?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                empty.insert(BufReader::new(stream))
            }
        };
        let stream = connection.get_mut();
        send(stream, &Question::Listen { port, tcp: is_tcp, mode: mode.to_owned() })?;
        let mut bytes = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&*stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)
            .context("the responder does not answer")?
            .bytes;
        let descriptor = beside.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (serde_json::from_slice(&bytes[..received]), descriptor) {
            (Ok(Answer::Listening(Some(family))), Some(descriptor)) => {
                let family = if family == "AF_INET" { "AF_INET" } else { "AF_INET6" };
                Ok((family, Socket::of(descriptor, is_tcp)?))
            }
            _ => bail!("the responder could not open it; its journal says why"),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Lets it end.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

/// Asks for names, one connection for as long as there are any to ask for. `tell` gets what comes back, cleaned again.
pub fn ask_names(way: Way, tell: impl Fn(IpAddr, Option<HostName>) + Send + Clone + 'static) -> SyncSender<IpAddr> {
    let (questions, asked) = sync_channel::<IpAddr>(names::WAITING);
    std::thread::spawn(move || {
        let mut connection: Option<UnixStream> = None;
        let mut is_heard = false;
        loop {
            let address = match asked.recv_timeout(Duration::from_secs(20)) {
                Ok(address) => address,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    if let (Way::Socket(_), Some(stream)) = (&way, connection.take()) {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                    }
                    continue;
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let question = Question::Name(address);
            let sent = connection.as_mut().is_some_and(|stream| send(stream, &question).is_ok());
            if !sent {
                connection = way.connect().ok();
                if let Some(stream) = &mut connection {
                    if !(is_heard && matches!(way, Way::Given(_))) {
                        hear(stream, tell.clone());
                        is_heard = true;
                    }
                    let _ = send(stream, &question);
                }
            }
        }
    });
    questions
}

/// Tells every name that comes, in a thread that ends with the connection.
fn hear(stream: &UnixStream, tell: impl Fn(IpAddr, Option<HostName>) + Send + 'static) {
    let Ok(stream) = stream.try_clone() else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            match reader.by_ref().take(QUESTION).read_line(&mut line) {
                Ok(1..) => {}
                _ => return,
            }
            let Ok(Answer::Name(address, name)) = serde_json::from_str(&line) else { return };
            tell(address, name.and_then(|name| HostName::clean(&name)));
        }
    });
}

fn send(stream: &mut UnixStream, question: &Question) -> Result<()> {
    Ok(stream.write_all((serde_json::to_string(question)? + "\n").as_bytes())?)
}
