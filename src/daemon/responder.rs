//! The responder: a process of its own for what needs more than watching does, commands of the configuration and names
//! from DNS. It is told an address, a port and a mode, takes the commands from the configuration itself, and nothing comes
//! back from it but how a command ended, or a cleaned name; so whoever took over the watcher could have it do no more than
//! what the configuration says.
//!
//! systemd starts one for each connection to [`SOCKET`], with the connection as its standard input. One line of JSON is a
//! question, one an answer.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::config::Config;
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
    /// What is this host called?
    Name(IpAddr),
}

/// What comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ended(Ended),
    Name(IpAddr, Option<String>),
}

/// Serves whoever is at standard input until it closes, with the commands of the configuration at `conf`.
///
/// # Errors
/// Standard input is no socket, or the configuration cannot be read.
pub fn serve(conf: &Path) -> Result<()> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
    let stream = UnixStream::from(stream);
    stream.set_read_timeout(Some(IDLE)).context("standard input is no socket; systemd starts this by its socket")?;
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
            // A name server's answers are parsed without any right to do harm.
            Question::Run { .. } => bail!("this one looks up names and runs nothing"),
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
pub struct Way(PathBuf);

impl Way {
    /// The one that this process has to take: it is not root, so it could do little by itself, and systemd listens for
    /// questions.
    pub fn find() -> Option<Way> {
        let needed = !rustix::process::geteuid().is_root() && Path::new(SOCKET).exists();
        needed.then(|| Way(SOCKET.into()))
    }

    /// A new connection.
    ///
    /// # Errors
    /// Nobody listens, or this process may not connect.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.0)
            .with_context(|| format!("cannot reach the responder at {}", self.0.display()))?;
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
        loop {
            let address = match asked.recv_timeout(Duration::from_secs(20)) {
                Ok(address) => address,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    if let Some(stream) = connection.take() {
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
                    hear(stream, tell.clone());
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
