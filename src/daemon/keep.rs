//! `keep`: looks after the blocks of Debian's portsentry, as the embedded one does after its own. It watches nothing.
//!
//! portsentry's KILL_ROUTE is `block`, which asks this process. It has the kernel block and free, writes the ledger and the
//! file that hosts.deny names, loads the table again where somebody took it away, and sees to it that nobody else goes on
//! holding for blocked who is free (`release`).

use std::os::fd::AsFd;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};

use super::alarms::{Alarm, Alarms};
use super::blocking::{Blocking, Opened};
use super::commands::Commands;
use super::config::Config;
use super::invocation::Mode;
use super::lines::Lines;
use super::output::Output;
use super::reactions::Reactions;
use super::release::{Released, release};
use super::signals::{Signals, drain, wait};
use super::threads::join_soon;
use crate::blocks::{self, PacketFilter, publish_denied};
use crate::kernel::{Gone, TableChanges};
use crate::settings::{POLICY, Policy};
use crate::syntax::Dialect;

/// How soon what could not be mended is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked who is held for blocked and is free, at most, where somebody was freed.
const RELEASE: Duration = Duration::from_secs(10);
/// And no sooner than this, for others take a moment to hold for blocked whom they were refused.
const A_MOMENT: Duration = Duration::from_secs(5);
/// The same where nobody was: fail2ban brings back bans as it starts, which is a while after this does.
const PATROL: Duration = Duration::from_secs(600);
const FIRST_PATROL: Duration = Duration::from_secs(60);

/// How often it is looked whether all is in place where the kernel does not tell, as iptables does not.
const LOOK: Duration = Duration::from_secs(60);

/// How often it is looked whether the thread that tells others who is free has come to its end.
const WHILE_IT_RUNS: Duration = Duration::from_secs(1);

/// Keeps the blocks until it is told to end.
///
/// # Errors
/// Another process keeps them, the configuration or policy.toml cannot be read, or the kernel refuses.
pub fn keep() -> Result<()> {
    let signals = Signals::new()?;
    let (config, complaints) = read()?;
    let (ignored, more) = config.ignored()?;
    let Some(opened) = Opened::of(&config, &ignored)? else {
        bail!("{} has no KILL_NFT, so there is nothing to keep; `harden-portsentry apply` writes it", blocks::CONF)
    };
    let changes = TableChanges::watch()?;
    let (output, writer) = Output::start(false, None, None);
    for line in complaints.iter().chain(&more).chain(opened.told()) {
        output.say(&format!("adminalert: warning: {line}"));
    }
    // They have nothing to do: portsentry's own commands are portsentry's.
    let commands = Commands::of(&Config::default(), Mode::Stealth.name());
    let reactions = Reactions::start(Dialect::V2, Lines::new(Dialect::V2), commands, None, output.clone(), None);
    let entrance = reactions.entrance().clone();
    let blocking = Blocking::start(opened, &config, ignored, entrance, output.clone(), Box::new(publish))?;
    output.say(&format!("adminalert: {} hosts are blocked", blocking.blocked_hosts()));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut keep = Keep {
        look: (config.packet_filter != PacketFilter::Nftables).then(|| Instant::now() + LOOK),
        filter: config.packet_filter,
        blocking,
        changes,
        output: output.clone(),
        gone: None,
        alarms: Alarms::default(),
        release: Chore { due: Instant::now(), last: Instant::now(), patrol: FIRST_PATROL, thread: None },
        // Twice as often as it has to be.
        alive: sd_notify::watchdog_enabled().map(|limit| (Instant::now(), limit / 2)),
    };
    let result = keep.run(&signals);
    // First, for whoever asks from now on asks the next one.
    keep.blocking.end();
    if let Some(thread) = keep.release.thread {
        join_soon(thread);
    }
    reactions.end();
    output.end(writer);
    result
}

/// fail2ban is told by `release`.
fn publish() -> Result<()> {
    publish_denied().map(drop)
}

fn read() -> Result<(Config, Vec<String>)> {
    let config = Config::of_blocks(Path::new(blocks::CONF))?;
    let warnings = config.warnings.clone();
    Ok((config, warnings))
}

struct Keep {
    filter: PacketFilter,
    /// When it is looked next whether all is in place, if nobody tells.
    look: Option<Instant>,
    blocking: Blocking,
    changes: TableChanges,
    output: Output,
    /// What could not be mended yet.
    gone: Option<Gone>,
    alarms: Alarms,
    release: Chore,
    /// When it was last said to systemd that this lives, and how often that is to be said, if it is.
    alive: Option<(Instant, Duration)>,
}

/// What is done now and then, in a thread of its own, for it asks others.
struct Chore {
    due: Instant,
    /// When it was last begun.
    last: Instant,
    /// How long until the next time, if nothing calls for it.
    patrol: Duration,
    thread: Option<JoinHandle<Released>>,
}

impl Keep {
    fn run(&mut self, signals: &Signals) -> Result<()> {
        loop {
            if let Some((_, often)) = self.alive.filter(|(last, often)| last.elapsed() >= *often) {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                self.alive = Some((Instant::now(), often));
            }
            let (end, reload, changes) = self.wait(signals)?;
            if end {
                return Ok(());
            }
            if reload {
                drain(&signals.reload);
                self.reload();
            }
            if changes || self.gone.is_some() {
                self.mend()?;
            }
            if self.look.is_some_and(|look| look <= Instant::now()) {
                self.look();
            }
            let (freed, _) = self.blocking.attend();
            if !freed.is_empty() {
                let soonest = (self.release.last + RELEASE).max(Instant::now() + A_MOMENT);
                self.release.due = self.release.due.min(soonest);
            }
            self.look_after_others();
        }
    }

    /// Waits for something to do: the end, a new configuration, a change of nftables, or a question.
    fn wait(&self, signals: &Signals) -> Result<(bool, bool, bool)> {
        let now = Instant::now();
        // What is due while its thread runs waits for that.
        let release = match &self.release.thread {
            Some(_) => WHILE_IT_RUNS,
            None => self.release.due.saturating_duration_since(now),
        };
        let mut limit = self.blocking.due().unwrap_or(PATROL).min(release);
        if self.gone.is_some() {
            limit = limit.min(AGAIN);
        }
        if let Some(look) = self.look {
            limit = limit.min(look.saturating_duration_since(now));
        }
        if let Some((last, often)) = self.alive {
            limit = limit.min(often.saturating_sub(last.elapsed()));
        }
        let read = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut waiting = vec![read(signals.end.as_fd()), read(signals.reload.as_fd()), read(self.changes.as_fd())];
        waiting.extend(self.blocking.waiting().map(read));
        wait(&mut waiting, limit).context("cannot wait for questions")?;
        let [end, reload, changes] = [0, 1, 2].map(|which: usize| !waiting[which].revents().is_empty());
        Ok((end, reload, changes))
    }

    /// Loads the table again if somebody took it away, or something out of it.
    fn mend(&mut self) -> Result<()> {
        let mut gone = self.gone.take().unwrap_or_default();
        self.changes.read(&mut gone)?;
        match self.blocking.restore(&gone) {
            Ok(false) => {}
            Ok(true) => self
                .output
                .say("adminalert: somebody took away the table of blocked hosts; it is loaded again with all of them"),
            Err(error) => {
                let line = self.alarms.line(Alarm::Table, &format!("{error:#}; it is tried again"));
                line.into_iter().for_each(|line| self.output.say(&line));
                self.gone = Some(gone);
            }
        }
        Ok(())
    }

    /// Puts back what somebody took away without anybody being told.
    fn look(&mut self) {
        self.look = Some(Instant::now() + LOOK);
        match self.blocking.check() {
            Ok(false) => {}
            Ok(true) => self
                .output
                .say("adminalert: somebody took away rules of blocked hosts; they are loaded again with all of them"),
            Err(error) => self.output.say(&format!("adminalert: ERROR: {error:#}; it is tried again")),
        }
    }

    /// Starts what is due, and tells what came of it.
    fn look_after_others(&mut self) {
        if let Some(thread) = self.release.thread.take_if(|thread| thread.is_finished()) {
            match thread.join() {
                Ok(released) => {
                    released.told.iter().for_each(|line| self.output.say(line));
                    let again = released.again_in.unwrap_or(self.release.patrol);
                    self.release.due = self.release.due.min(Instant::now() + again);
                }
                Err(_) => self.output.say("adminalert: ERROR: who is free could not be told to others"),
            }
        }
        if self.release.thread.is_none() && Instant::now() >= self.release.due {
            self.release.thread = Some(std::thread::spawn(release));
            self.release.last = Instant::now();
            self.release.due = self.release.last + self.release.patrol;
            self.release.patrol = PATROL.min(self.release.patrol * 2);
        }
    }

    fn reload(&mut self) {
        match self.read_anew() {
            Ok(complaints) => {
                self.output.say("adminalert: configuration read again");
                complaints.iter().for_each(|line| self.output.say(&format!("adminalert: warning: {line}")));
            }
            Err(error) => self
                .output
                .say(&format!("adminalert: ERROR: the new configuration is not taken, the old one goes on: {error:#}")),
        }
    }

    fn read_anew(&mut self) -> Result<Vec<String>> {
        let (config, mut complaints) = read()?;
        let (ignored, more) = config.ignored()?;
        complaints.extend(more);
        let policy = Policy::read(Path::new(POLICY)).context("policy.toml is not taken")?;
        self.blocking.configure(&config, ignored, &policy)?;
        if config.packet_filter != self.filter {
            complaints.push("FIREWALL and WHITELIST_CHAIN change with the next start".to_owned());
        }
        self.release.due = Instant::now();
        Ok(complaints)
    }
}
