//! The daemon's life: start, watch, reload, end.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags};

use super::alarms::{Alarm, Alarms};
use super::background::Caller;
use super::blocking::{Blocking, Opened};
use super::commands::Commands;
use super::config::Config;
use super::connect::Listeners;
use super::decide::{Decider, Seen};
use super::invocation::Invocation;
use super::keeper::Publish;
use super::lines::Lines;
use super::metrics::{Reporter, Restored, Turn};
use super::names::Names;
use super::output::{Output, Writer};
use super::probe::Probe;
use super::reactions::Reactions;
use super::responder::{Remote, Way};
use super::signals::{Signals, drain, wait};
use super::split::{Ways, split};
use super::start::{blocked_hosts, blocked_path, ignore_list, only_one};
use super::table::Table;
use super::telling::Telling;
use crate::blocks::{DENIED, IgnoreList, publish_denied};
use crate::kernel::{Gone, Nflog, QUEUE, Received, TableChanges};
use crate::settings::{POLICY, Policy};
use crate::syntax::Dialect;

/// NFLOG groups that are tried, first to last.
const GROUPS: std::ops::RangeInclusive<u16> = 1795..=1826;
/// Above so many packets a second the kernel gathers them, below so many it hands each up at once.
const BUSY: u32 = 2_000;
const QUIET: u32 = 200;
/// How many it gathers, for a hundredth of a second at most.
const GATHERED: u32 = 256;
/// Datagrams that are read, and bytes that are told, before signals and the writer get their turn.
const TURNS: u32 = 64;
const PARCEL: usize = 128 << 10;
/// How soon what could not be mended is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often blocks that are over may have the kernel hand up again what it has handed up.
const FORGET: Duration = Duration::from_secs(10);
/// How often it is told what the history does not show.
const SUM_UP: Duration = Duration::from_secs(3_600);

/// What a packet comes from.
enum Source {
    Kernel { log: Nflog, table: Table },
    Sockets(Listeners),
}

struct Daemon {
    invocation: Invocation,
    config: Config,
    lines: Lines,
    decider: Decider,
    source: Source,
    reactions: Reactions,
    /// To who runs commands, if it is somebody else.
    commands_way: Option<Way>,
    /// The built-in response, where KILL_NFT wants it.
    blocking: Option<Blocking>,
    /// Where there is a table that somebody could take away.
    changes: Option<TableChanges>,
    output: Output,
    /// Where METRICS_FILE is set.
    reporter: Option<Reporter>,
    started: Instant,
    gathering: bool,
    counted: (Instant, u32),
    alarms: Alarms,
    /// What could not be mended yet.
    gone: Option<Gone>,
    /// When it was last said to systemd that this lives, and how often that is to be said, if it is.
    alive: Option<(Instant, Duration)>,
    /// Probes were lost, and so many bytes have been read since.
    lost: Option<usize>,
    /// Somebody is free since the kernel's marks were emptied, which was then.
    is_freed: bool,
    emptied: Option<Instant>,
    /// When it was last told what the history does not show, and what had been told until then: packets that repeated
    /// others, and lines that were left out.
    summed_up: (Instant, u64, u64),
}

/// Runs the daemon until it is told to end. In the background there is a `caller`, who is told once it watches.
///
/// # Errors
/// It cannot watch: the configuration, a privilege, or another daemon of the same mode is in the way.
pub fn run(invocation: Invocation, caller: Option<Caller>) -> Result<()> {
    let signals = Signals::new()?;
    let config = Config::read_to_watch(&invocation.config_file, invocation.mode)?;
    let dialect = invocation.mode.dialect();
    let (ignore, complaints) = ignore_list(&config, dialect)?;
    // Before there is any thread, which would keep its rights.
    let is_heard = caller.is_none();
    let ways = split(&invocation, &config, is_heard)?;
    // Held as long as this runs: a second daemon of this mode would take the table away from the first.
    let _only = only_one(invocation.mode)?;
    let opened = Opened::of(&config, &ignore)?;
    let blocked = match &opened {
        // The ledger knows.
        Some(_) => HashSet::new(),
        None => blocked_hosts(&config, invocation.mode)?,
    };
    let (output, writer) =
        Output::start(invocation.to_syslog, config.history_file.clone(), blocked_path(&config, invocation.mode));
    let result = watch(invocation, config, (ignore, ways, caller), (opened, blocked), &output, &signals, complaints);
    // In the background nobody reads what is said on stderr.
    if let Some(error) = result.as_ref().err().filter(|_| !is_heard) {
        output.say(&format!("adminalert: ERROR: {error:#}"));
    }
    end(output, writer, dialect, result)
}

/// The last words, and what is still to be written.
fn end(output: Output, writer: Writer, dialect: Dialect, result: Result<()>) -> Result<()> {
    match dialect {
        Dialect::V1 => {
            output.say("securityalert: PortSentry is shutting down");
            output.say("adminalert: PortSentry is shutting down");
        }
        Dialect::V2 => output.say("Portsentry is shutting down"),
    }
    output.end(writer);
    result
}

fn watch(
    invocation: Invocation,
    config: Config,
    (ignore, ways, caller): (IgnoreList, Ways, Option<Caller>),
    (opened, blocked): (Option<Opened>, HashSet<IpAddr>),
    output: &Output,
    signals: &Signals,
    mut complaints: Vec<String>,
) -> Result<()> {
    let publish = opened.as_ref().map(|_| publisher(&ways, &mut complaints));
    let dialect = invocation.mode.dialect();
    let mut said = greeting(&invocation, &config);
    let of_blocks = opened.as_ref().map_or(&[][..], Opened::told);
    said.extend(
        config.warnings.iter().chain(&complaints).chain(of_blocks).map(|line| format!("adminalert: warning: {line}")),
    );
    said.iter().for_each(|line| output.say(line));
    let has_table = opened.is_some() || !invocation.mode.connects();
    let changes = if has_table { Some(TableChanges::watch()?) } else { None };
    let Ways { commands: commands_way, names: names_way } = ways;
    let source = if invocation.mode.connects() {
        let (listeners, told) = Listeners::open(&invocation, &config, commands_way.clone())?;
        told.iter().for_each(|line| output.say(line));
        Source::Sockets(listeners)
    } else {
        let log = Nflog::bind(GROUPS)?;
        let table = Table::load(&invocation, &config, log.group())?;
        Source::Kernel { log, table }
    };
    let lines = Lines::new(dialect);
    let names = config.resolve_host.then(|| Names::start(lines.clone(), output.clone(), names_way));
    let commands = Commands::of(&config, invocation.mode.name());
    let decider = Decider::new(&config, dialect, invocation.same_address_check, ignore.clone(), blocked);
    let reactions = Reactions::start(dialect, lines.clone(), commands, names, output.clone(), commands_way.clone());
    let blocking = match opened.zip(publish) {
        Some((opened, publish)) => {
            let entrance = reactions.entrance().clone();
            Some(Blocking::start(opened, &config, ignore, entrance, output.clone(), publish)?)
        }
        None => None,
    };
    let mut daemon = Daemon {
        reactions,
        commands_way,
        blocking,
        changes,
        invocation,
        config,
        lines,
        decider,
        source,
        output: output.clone(),
        reporter: None,
        started: Instant::now(),
        gathering: false,
        counted: (Instant::now(), 0),
        alarms: Alarms::default(),
        gone: None,
        // Twice as often as it has to be.
        alive: sd_notify::watchdog_enabled().map(|limit| (Instant::now(), limit / 2)),
        lost: None,
        is_freed: false,
        emptied: None,
        summed_up: (Instant::now(), 0, 0),
    };
    output.reopen(daemon.config.history_file.clone(), blocked_path(&daemon.config, daemon.invocation.mode));
    super::cage::enter()?;
    output.say(match dialect {
        Dialect::V1 => "adminalert: PortSentry is now active and listening.",
        Dialect::V2 => "Portsentry is now active and listening.",
    });
    daemon.report();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Some(caller) = caller {
        caller.tell_ready();
    }
    let result = daemon.watch(signals);
    daemon.sum_up();
    let Daemon { reactions, source, blocking, reporter, .. } = daemon;
    drop(source);
    // First, for it hands over to the reactions.
    if let Some(blocking) = blocking {
        blocking.end();
    }
    if !reactions.end() {
        output.say("adminalert: warning: a command still runs, and is left to itself");
    }
    // Last, for it counts what the others did.
    if let Some(reporter) = reporter {
        reporter.end();
    }
    result
}

/// Has the file written that hosts.deny names: by root. Where nobody is, that is among the `complaints`.
fn publisher(ways: &Ways, complaints: &mut Vec<String>) -> Publish {
    if let Some(way) = ways.commands.clone() {
        // On a connection of its own, where it waits for no command.
        let mut remote = Remote::new(way);
        return Box::new(move || remote.publish_denied());
    }
    if rustix::process::geteuid().is_root() {
        return Box::new(|| publish_denied().map(drop));
    }
    complaints.push(format!(
        "{DENIED} is written by root alone, and nobody here is: TCP wrappers deny nobody (harden-portsentry-responder.socket)"
    ));
    Box::new(|| Ok(()))
}

fn greeting(invocation: &Invocation, config: &Config) -> Vec<String> {
    match invocation.mode.dialect() {
        Dialect::V2 => vec![super::version()],
        Dialect::V1 => {
            let ports = if invocation.mode.watches_tcp() { &config.tcp_ports } else { &config.udp_ports };
            vec![
                "adminalert: PortSentry 1.2 is starting.".to_owned(),
                format!("adminalert: {} mode watches {} ports: {ports}", invocation.mode.name(), ports.iter().count()),
            ]
        }
    }
}

impl Daemon {
    fn watch(&mut self, signals: &Signals) -> Result<()> {
        loop {
            if self.alive.is_some_and(|(last, often)| last.elapsed() >= often) {
                self.say_that_it_lives();
            }
            if self.summed_up.0.elapsed() >= SUM_UP {
                self.sum_up();
            }
            let (end, reload, changes, wanted) = self.wait(signals)?;
            if end {
                return Ok(());
            }
            if reload {
                drain(&signals.reload);
                self.reload();
            }
            for address in self.reactions.failed() {
                self.decider.forget_block(address);
            }
            if changes {
                self.mend()?;
            }
            if wanted && let Some(blocking) = &mut self.blocking {
                let (free, at_once) = blocking.attend();
                self.is_freed |= !free.is_empty();
                free.into_iter().for_each(|address| self.decider.forget_block(address));
                if at_once {
                    self.emptied = None;
                }
            }
            self.see_who_is_free();
            let turn = self.take()?;
            self.count(&turn);
        }
    }

    /// Has the kernel hand up again what it has handed up of those who are free now; one who does the same as before would
    /// not be seen else. Not each time that a block is over: in a flood of forged sources that is always.
    fn see_who_is_free(&mut self) {
        let is_due = self.emptied.is_none_or(|last| last.elapsed() >= FORGET);
        if let Source::Kernel { table, .. } = &self.source
            && self.is_freed
            && is_due
        {
            // If somebody took the table away just now, it comes back empty.
            let _ = table.forget();
            (self.is_freed, self.emptied) = (false, Some(Instant::now()));
        }
    }

    fn count(&self, turn: &Turn) {
        let blocked_hosts =
            self.blocking.as_ref().map_or_else(|| self.decider.blocked_hosts(), Blocking::blocked_hosts);
        self.output.metrics().add(turn, blocked_hosts, self.decider.lines_left_out());
    }

    /// Has METRICS_FILE written, if the configuration has one. One that is no longer written goes.
    fn report(&mut self) {
        let wanted = self.config.metrics_file.as_deref();
        if self.reporter.as_ref().map(Reporter::path) == wanted {
            return;
        }
        if let Some(reporter) = self.reporter.take() {
            let path = reporter.path().to_owned();
            reporter.end();
            let _ = std::fs::remove_file(path);
        }
        self.count(&Turn::default());
        let table = match &self.source {
            Source::Kernel { .. } => Some(Table::name(self.invocation.mode)),
            Source::Sockets(_) => None,
        };
        self.reporter = wanted.map(|path| Reporter::start(path, table, &self.output));
    }

    /// Waits for something to do: the end, a new configuration, a change of nftables, something about blocks.
    fn wait(&self, signals: &Signals) -> Result<(bool, bool, bool, bool)> {
        // While the kernel gathers packets, whether it still has to is asked twice a second.
        let often = if self.gathering { Duration::from_millis(500) } else { SUM_UP };
        let due = self.blocking.as_ref().and_then(Blocking::due);
        let limit = due.map_or(often, |due| due.min(often));
        let limit = self.gone.as_ref().map_or(limit, |_| limit.min(AGAIN));
        let limit = if self.is_freed { limit.min(FORGET) } else { limit };
        let limit = self.alive.map_or(limit, |(last, often)| limit.min(often.saturating_sub(last.elapsed())));
        let read = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut waiting = vec![read(signals.end.as_fd()), read(signals.reload.as_fd())];
        waiting.extend(self.commands_way.as_ref().and_then(Way::ends).map(read));
        let changes = waiting.len();
        waiting.extend(self.changes.as_ref().map(|changes| read(changes.as_fd())));
        let blocking = waiting.len();
        waiting.extend(self.blocking.iter().flat_map(|blocking| blocking.waiting().map(read)));
        let packets = waiting.len();
        match &self.source {
            Source::Kernel { log, .. } => waiting.push(read(log.as_fd())),
            Source::Sockets(listeners) => waiting.extend(listeners.waiting()),
        }
        wait(&mut waiting, limit).context("cannot wait for packets")?;
        let any = |fds: &[PollFd<'_>]| fds.iter().any(|fd| !fd.revents().is_empty());
        let is_due =
            due.is_some_and(|_| self.blocking.as_ref().and_then(Blocking::due).is_some_and(|due| due.is_zero()));
        if any(&waiting[2..changes]) {
            bail!("the process that runs the commands of the configuration is gone; start this again");
        }
        let changes = self.gone.is_some() || any(&waiting[changes..blocking]);
        Ok((any(&waiting[..1]), any(&waiting[1..2]), changes, is_due || any(&waiting[blocking..packets])))
    }

    /// Mends the kernel's tables if somebody took them away, or something out of them. What cannot be mended, for it is taken
    /// away again meanwhile, is tried again soon.
    fn mend(&mut self) -> Result<()> {
        let Some(changes) = &mut self.changes else { return Ok(()) };
        let mut gone = self.gone.take().unwrap_or_default();
        changes.read(&mut gone)?;
        if let Err(error) = self.mend_tables(&gone) {
            self.gone = Some(gone);
            if let Some(line) = self.alarms.line(Alarm::Table, &format!("{error:#}; it is tried again")) {
                self.output.say(&line);
            }
        }
        Ok(())
    }

    fn mend_tables(&mut self, gone: &Gone) -> Result<()> {
        if let Some(blocking) = &mut self.blocking
            && blocking.restore(gone)?
        {
            self.output.metrics().restored(Restored::Blocks);
            self.output
                .say("adminalert: somebody took away the table of blocked hosts; it is loaded again with all of them");
        }
        if let Source::Kernel { log, table } = &mut self.source
            && table.restore(gone, &self.invocation, &self.config, log.group())?
        {
            // The rules of KILL_ROUTE may have gone with it.
            self.decider.forget_blocks();
            self.output.metrics().restored(Restored::Packets);
            self.output.say("adminalert: somebody took away the table by which the kernel picks the packets, and all blocks perhaps; it is loaded again, and whoever probes is blocked again");
        }
        Ok(())
    }

    /// To systemd, which starts it anew if that stops (WatchdogSec=).
    fn say_that_it_lives(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        self.alive = self.alive.map(|(_, often)| (Instant::now(), often));
    }

    /// Tells what the history does not show, if there is anything new.
    fn sum_up(&mut self) {
        let left_out = self.decider.lines_left_out();
        let (_, told_repeats, told_left_out) = self.summed_up;
        let counted = match &self.source {
            Source::Kernel { table, .. } => table.repeats(),
            Source::Sockets(_) => None,
        };
        let repeats = counted.map_or(told_repeats, |count| self.output.metrics().repeats(count));
        let (repeated, untold) = (repeats.saturating_sub(told_repeats), left_out.saturating_sub(told_left_out));
        if repeated > 0 {
            self.output.say(&format!("adminalert: {repeated} packets repeated probes that were told"));
        }
        if untold > 0 {
            self.output.say(&format!(
                "adminalert: {untold} probes are not in the history: of one source, or of sources that asked once, there were too many"
            ));
        }
        self.summed_up = (Instant::now(), repeats, left_out);
    }

    /// Takes what has come, and tells it in one parcel; what is to be counted of it.
    fn take(&mut self) -> Result<Turn> {
        let now = self.started.elapsed().as_secs();
        let mut telling = Telling {
            invocation: &self.invocation,
            reactions: &self.reactions,
            blocking: &mut self.blocking,
            not_blocked: Vec::new(),
            alarms: &mut self.alarms,
            strangers: Vec::new(),
            config: &self.config,
            lines: &self.lines,
            at: Timestamp::now(),
            parcel: self.output.parcel(),
            turn: Turn::default(),
        };
        let mut turns = 0;
        match &mut self.source {
            Source::Sockets(listeners) => {
                let (probes, not_taken) = listeners.accept();
                if not_taken > 0 {
                    telling.turn.losses += not_taken;
                    telling.warn(
                        Alarm::Lost,
                        "connections came that could not be taken: too many files are open (LimitNOFILE=, ulimit -n)",
                    );
                }
                for probe in probes {
                    self.decider.hit(probe, Seen::First, now, &mut |scan| telling.tell(scan));
                    telling.forget(&mut self.decider, now);
                }
            }
            Source::Kernel { log, table } => {
                // Bounded, so that signals are heard in a flood.
                while telling.parcel.len() < PARCEL && turns < TURNS {
                    turns += 1;
                    match log.receive().context("cannot receive packets from the kernel")? {
                        Received::Nothing => {
                            forget_what_was_lost(&mut self.lost, usize::MAX, table, &mut telling);
                            break;
                        }
                        Received::Lost => {
                            self.lost = Some(0);
                            telling.turn.losses += 1;
                            telling.warn(
                                Alarm::Lost,
                                "more probes came than could be read; what was lost is watched for anew",
                            );
                        }
                        Received::Bytes(bytes) => {
                            forget_what_was_lost(&mut self.lost, bytes, table, &mut telling);
                            telling.at = Timestamp::now();
                            for logged in log.packets(bytes) {
                                self.counted.1 += 1;
                                telling.turn.packets += 1;
                                let seen = seen(logged.prefix);
                                if seen == Seen::Unknown {
                                    telling.warn(Alarm::Sources, "the kernel's table of sources is full; every packet of a new one is read until there is room");
                                }
                                let Some(probe) = Probe::of(logged.packet) else { continue };
                                telling.debug(&probe);
                                self.decider.hit(probe, seen, now, &mut |scan| telling.tell(scan));
                                telling.forget(&mut self.decider, now);
                            }
                        }
                    }
                }
                // A flood shows within milliseconds, its end takes a quarter of a second.
                let (since, packets) = self.counted;
                let elapsed = since.elapsed();
                let a_second = (f64::from(packets) / elapsed.as_secs_f64()) as u32;
                let is_over = elapsed >= Duration::from_millis(250);
                if !self.gathering && packets >= BUSY / 20 && a_second > BUSY {
                    log.gather(GATHERED, 1)?;
                    self.gathering = true;
                } else if self.gathering && is_over && a_second < QUIET {
                    log.gather(1, 0)?;
                    self.gathering = false;
                }
                if is_over {
                    self.counted = (Instant::now(), 0);
                }
            }
        }
        self.output.send(telling.parcel);
        Ok(telling.turn)
    }

    /// A new configuration, or, if it is broken, the old one; and in any case files opened anew.
    fn reload(&mut self) {
        let mode = self.invocation.mode;
        match self.read_anew() {
            Ok(complaints) => {
                self.output.say("adminalert: configuration read again");
                for complaint in complaints {
                    self.output.say(&format!("adminalert: warning: {complaint}"));
                }
            }
            Err(error) => {
                self.output.say(&format!(
                    "adminalert: ERROR: the new configuration is not taken, the old one goes on: {error:#}"
                ));
            }
        }
        self.output.reopen(self.config.history_file.clone(), blocked_path(&self.config, mode));
        self.report();
    }

    fn read_anew(&mut self) -> Result<Vec<String>> {
        let config = Config::read_to_watch(&self.invocation.config_file, self.invocation.mode)?;
        let (ignore, mut complaints) = ignore_list(&config, self.invocation.mode.dialect())?;
        let policy = self.blocking.is_some().then(|| Policy::read(Path::new(POLICY))).transpose()?;
        // All that can be read is read: now the kernel has its say, and either takes all of it or none.
        let dialect = self.invocation.mode.dialect();
        let watched = |config: &Config| (config.tcp_ports.clone(), config.udp_ports.clone(), config.hits(dialect));
        let is_new = watched(&config) != watched(&self.config);
        complaints.extend(self.watch_by(&config, is_new)?);
        if let (Some(blocking), Some(policy)) = (&mut self.blocking, &policy) {
            match blocking.configure(&config, ignore.clone(), policy) {
                Ok(free) => free.into_iter().for_each(|address| self.decider.forget_block(address)),
                Err(error) => {
                    let old = self.config.clone();
                    return match self.watch_by(&old, is_new) {
                        Ok(_) => Err(error),
                        Err(worse) => Err(error.context(format!("{worse:#}"))),
                    };
                }
            }
        }
        if config.resolve_host != self.config.resolve_host {
            complaints.push("RESOLVE_HOST changes with the next start".to_owned());
        }
        if config.kill_nft.is_some() != self.config.kill_nft.is_some() {
            complaints.push("KILL_NFT changes with the next start".to_owned());
        }
        complaints.extend(config.warnings.clone());
        self.reactions.configure(Commands::of(&config, self.invocation.mode.name()));
        self.decider.configure(&config, ignore);
        self.config = config;
        Ok(complaints)
    }

    /// Watches the ports of `config` as it wants them, if that is new; what is to be told.
    fn watch_by(&mut self, config: &Config, is_new: bool) -> Result<Vec<String>> {
        match &mut self.source {
            Source::Kernel { log, table } if is_new => {
                table.change(&self.invocation, config, log.group())?;
                Ok(Vec::new())
            }
            Source::Kernel { .. } => Ok(Vec::new()),
            Source::Sockets(listeners) => {
                let (new, told) = Listeners::open_beside(listeners, &self.invocation, config)?;
                *listeners = new;
                Ok(told.into_iter().filter(|line| line.contains("ERROR")).collect())
            }
        }
    }
}

/// Once a socket was full, the kernel throws away whatever comes until it has been read empty, says so once, at the
/// beginning, and marks all of it as handed up. So the marks go when `bytes` more show that it is, or was, empty.
fn forget_what_was_lost(lost: &mut Option<usize>, bytes: usize, table: &Table, telling: &mut Telling<'_>) {
    let Some(read) = lost else { return };
    *read = read.saturating_add(bytes);
    if *read <= QUEUE {
        return;
    }
    match table.forget() {
        Ok(()) => *lost = None,
        // Somebody took the table away, perhaps; it is mended then.
        Err(error) => {
            *lost = Some(0);
            telling.warn(Alarm::Table, &format!("{error:#}; it is tried again"));
        }
    }
}

/// What a rule's prefix says.
fn seen(prefix: &[u8]) -> Seen {
    match prefix {
        b"new" => Seen::First,
        b"again" => Seen::Again,
        _ => Seen::Unknown,
    }
}
