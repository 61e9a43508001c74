//! The responder's side. Nothing here runs in the watcher.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::CapabilitySet;
use serde::de::DeserializeOwned;

use super::super::commands::{Commands, Deed, Ended};
use super::super::config::{Block, Config};
use super::super::connect::listen;
use super::super::invocation::Mode;
use super::super::names::look_up_in_threads;
use super::super::release::unban_others;
use super::super::start::ignore_list;
use super::super::threads::locked;
use super::{Answer, LINE, NameAnswer, Numbered, Question, receive, send_line};
use crate::blocks::{Guard, publish_denied};
use crate::host::Host;
use crate::settings::{POLICY, Policy};

/// Whoever asks is gone if nothing comes for so long.
const IDLE: Duration = Duration::from_secs(60);
/// Connections at a time, where no systemd counts them (MaxConnections=).
const CONNECTIONS: usize = 8;
/// Questions of a connection at once, all ports of connect mode among them, and a second in the long run; any more wait.
const AT_ONCE: f64 = 4_096.0;
const A_SECOND: f64 = 100.0;

/// What is done for whoever asks.
#[derive(Debug, Clone)]
pub struct CommandServer {
    /// The configuration, which is root's.
    pub conf: PathBuf,
    /// Whether ports are opened: the daemon runs in connect mode.
    pub connects: bool,
}

/// Runs commands for whoever is at standard input until it closes, or, unless it is to `stay`, nobody has asked for a
/// minute; where it stays, each connection comes by standard input.
///
/// # Errors
/// Standard input is no socket.
pub fn commands(server: &CommandServer, stay: bool) -> Result<()> {
    let served = server.clone();
    serve(stay, move |stream| served.serve(stream))
}

/// Looks up names, likewise, without any right to do harm: a name server's answers are parsed here.
///
/// # Errors
/// Standard input is no socket, or the rights cannot be given up.
pub fn names(stay: bool) -> Result<()> {
    give_up_rights().context("cannot give up rights")?;
    serve(stay, look_up)
}

fn serve(stay: bool, each: impl Fn(UnixStream) -> Result<()> + Send + Sync + 'static) -> Result<()> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
    let stream = UnixStream::from(stream);
    stream.peer_addr().context("standard input is no socket; systemd starts this by its socket")?;
    if !stay {
        return each(stream);
    }
    let each = Arc::new(each);
    while let (1.., descriptor) = receive(&stream, &mut [0]).context("cannot hear who asks")? {
        let Some(connection) = descriptor.filter(|_| Arc::strong_count(&each) <= CONNECTIONS) else { continue };
        let each = Arc::clone(&each);
        std::thread::spawn(move || {
            if let Err(error) = each(connection.into()) {
                eprintln!("harden-portsentry: {error:#}");
            }
        });
    }
    Ok(())
}

/// The questions that come by `stream`, until it closes or nobody has asked for a while.
fn questions<T: DeserializeOwned>(stream: &UnixStream) -> Result<impl Iterator<Item = Result<T>> + use<T>> {
    stream.set_read_timeout(Some(IDLE)).context("cannot wait for a question")?;
    let mut reader = BufReader::new(stream.try_clone().context("cannot read a question")?);
    Ok(std::iter::from_fn(move || {
        let mut line = String::new();
        match reader.by_ref().take(LINE as u64).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).context("a question cannot be read")),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => Some(Err(error).context("cannot read a question")),
        }
    }))
}

impl CommandServer {
    fn serve(&self, stream: UnixStream) -> Result<()> {
        let mut pace = Pace { left: AT_ONCE, at: Instant::now() };
        // Its jail may have brought back bans whose blocks are over.
        let mut is_first = true;
        for question in questions::<Numbered<Question>>(&stream)? {
            let Numbered { number, what } = question?;
            std::thread::sleep(pace.wait(Instant::now()));
            let mut socket = None;
            let mut published = None;
            let what = match what {
                Question::Run { deed, target, port, mode } => Answer::Ended(self.run(deed, target, port, &mode)),
                Question::Listen { port, tcp, mode } => match self.open(port, tcp, &mode) {
                    Ok((family, opened)) => {
                        socket = Some(opened);
                        Answer::Listening(Some(family.to_owned()))
                    }
                    Err(error) => {
                        eprintln!("port {port}: {error:#}");
                        Answer::Listening(None)
                    }
                },
                Question::PublishDenied => {
                    published = publish_denied().map_err(|error| eprintln!("{error:#}")).ok();
                    Answer::Published(published.is_some())
                }
            };
            let beside = socket.as_ref().map(AsFd::as_fd);
            send_line(&stream, &Numbered { number, what }, beside).context("whoever asked is gone")?;
            // fail2ban may wait for whoever asked, who must not wait for it.
            if published.is_some_and(|published| published.some_are_free || is_first) {
                is_first = false;
                std::thread::spawn(unban);
            }
        }
        Ok(())
    }

    fn run(&self, deed: Deed, target: IpAddr, port: u16, mode: &str) -> Ended {
        let commands = match self.commands(deed, target, mode) {
            Ok(commands) => commands,
            Err(error) => {
                eprintln!("{target}: {error:#}");
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

    /// The commands of the configuration, if it wants `deed` done to anybody, and `target` is not safe.
    fn commands(&self, deed: Deed, target: IpAddr, mode: &str) -> Result<Commands> {
        let mode = Mode::of(mode).context("there is no such mode")?;
        let config = Config::read(&self.conf, mode)?;
        let wants = |block| match deed {
            Deed::Command => block != Block::No,
            Deed::Route | Deed::Deny => block == Block::Yes,
        };
        let is_wanted = mode.watches_tcp() && wants(config.block_tcp) || mode.watches_udp() && wants(config.block_udp);
        ensure!(is_wanted, "BLOCK_TCP and BLOCK_UDP do not want that");
        let (ignored, _) = ignore_list(&config, mode.dialect())?;
        if deed == Deed::Command {
            ensure!(!ignored.contains(target), "it is in the ignore list");
        } else {
            let file = config.ignore_file.as_deref().unwrap_or(Path::new(""));
            let guard = Guard::read(&Policy::read(Path::new(POLICY))?, ignored, file)?;
            if let Some(why) = guard.objects(target) {
                bail!("it must not be blocked: {why}");
            }
        }
        Ok(Commands::of(&config, mode.name()))
    }

    /// Opens a port, if the configuration names it and this daemon is one that listens.
    fn open(&self, port: u16, is_tcp: bool, mode: &str) -> Result<(&'static str, super::super::connect::Socket)> {
        ensure!(self.connects, "ports are opened for connect mode alone, by `responder commands --connect`");
        let mode = Mode::of(mode).filter(|mode| mode.connects()).context("this is no mode that listens")?;
        let config = Config::read(&self.conf, mode)?;
        let ports = if is_tcp { &config.tcp_ports } else { &config.udp_ports };
        ensure!(ports.iter().any(|known| known == port), "the configuration does not name it");
        listen(port, is_tcp).context("cannot listen on it")
    }
}

/// Has fail2ban's jail forget whose block is over, one after the other.
fn unban() {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = locked(&TURN);
    match Host::new(Path::new("/")).and_then(|host| unban_others(&host)) {
        Ok(line) => line.iter().for_each(|line| eprintln!("{line}")),
        Err(error) => eprintln!("{error:#}"),
    }
}

/// How fast questions are answered: a bucket that fills again.
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    /// How long to wait for the next one, `now`.
    fn wait(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * A_SECOND).min(AT_ONCE) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.left / A_SECOND).max(0.0))
    }
}

fn look_up(stream: UnixStream) -> Result<()> {
    let asked = questions::<IpAddr>(&stream)?;
    let stream = Arc::new(Mutex::new(stream));
    let told = move |address: IpAddr, name: Option<super::super::lines::HostName>| {
        let answer: NameAnswer = (address, name.map(|name| name.to_string()));
        send_line(&locked(&stream), &answer, None).is_ok()
    };
    let names: SyncSender<IpAddr> = look_up_in_threads(told);
    for address in asked {
        let _ = names.try_send(address?);
    }
    Ok(())
}

/// Leaves root and all capabilities behind, for good. Rights are a thread's, so there must be no other.
fn give_up_rights() -> Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{CapabilitySets, capabilities, set_capabilities, set_no_new_privs, set_thread_groups};
    /// nobody and nogroup (Debian Policy 9.2.2).
    const NOBODY: u32 = 65_534;
    let threads = std::fs::read_dir("/proc/self/task").context("cannot list this process's threads")?.count();
    ensure!(threads == 1, "there are {threads} threads, and each would keep its own");
    set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() {
        set_thread_groups(&[])?;
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    // Its unit has none to begin with, and does not let it ask for others.
    if !capabilities(None)?.permitted.is_empty() {
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_questions_at_once_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut pace = Pace { left: AT_ONCE, at: start };
        assert!((0..AT_ONCE as usize).all(|_| pace.wait(start).is_zero()));
        assert_eq!(pace.wait(start), Duration::from_millis(10));
        assert_eq!(pace.wait(start + Duration::from_secs(1)), Duration::ZERO);
    }

    /// Asked by whoever took over the watcher.
    #[test]
    fn it_does_what_the_configuration_wants_and_to_nobody_who_is_safe() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let server = CommandServer { conf: at("conf"), connects: false };
        let configure = |block: &str| {
            let ignore = at("ignore").display().to_string();
            std::fs::write(at("ignore"), "198.51.100.0/24\n").unwrap();
            let text = format!(
                "TCP_PORTS=\"1\"\nIGNORE_FILE=\"{ignore}\"\nBLOCK_TCP=\"{block}\"\nKILL_ROUTE=\"true\"\nKILL_RUN_CMD=\"true\"\n"
            );
            std::fs::write(at("conf"), text).unwrap();
        };
        let run = |deed, target: &str| server.run(deed, target.parse().unwrap(), 1, "stealth");
        configure("1");
        assert_eq!([Deed::Route, Deed::Command].map(|deed| run(deed, "203.0.113.9")), [Ended::Done; 2]);
        assert_eq!([Deed::Route, Deed::Command].map(|deed| run(deed, "198.51.100.9")), [Ended::NotStarted; 2]);
        assert_eq!(run(Deed::Route, "127.0.0.1"), Ended::NotStarted);
        configure("2");
        assert_eq!([Deed::Route, Deed::Command].map(|deed| run(deed, "203.0.113.9")), [Ended::NotStarted, Ended::Done]);
        configure("0");
        assert_eq!([Deed::Route, Deed::Command].map(|deed| run(deed, "203.0.113.9")), [Ended::NotStarted; 2]);
    }

    #[test]
    fn ports_are_opened_for_connect_mode_alone() {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("conf");
        // One that is free for the moment.
        let port = std::net::TcpListener::bind(("::", 0)).unwrap().local_addr().unwrap().port();
        std::fs::write(&conf, format!("TCP_PORTS=\"{port}\"\n")).unwrap();
        let open = |connects, port, mode| CommandServer { conf: conf.clone(), connects }.open(port, true, mode);
        assert!(open(false, port, "connect").is_err());
        assert!(open(true, port, "stealth").is_err());
        assert!(open(true, port ^ 1, "connect").is_err());
        assert!(open(true, port, "connect").is_ok());
    }
}
