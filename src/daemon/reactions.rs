//! What is done to a scanner: hosts.deny, KILL_ROUTE, KILL_RUN_CMD, in a thread of its own and in the peers' order.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use jiff::Timestamp;

use super::blocked_file;
use super::commands::{Commands, Deed, Ended};
use super::config::Block;
use super::decide::{Reaction, Rule, Scan, Word};
use super::lines::Lines;
use super::metrics::{Metrics, Outcome, Queue};
use super::names::Names;
use super::output::{Output, Parcel};
use super::responder::{REST, Remote, Way};
use super::threads::{join_soon, locked};
use crate::syntax::Dialect;

/// Blocks that may wait for their commands.
pub const WAITING: usize = 8_192;

/// Addresses whose block failed.
pub type Failed = Arc<Mutex<Vec<IpAddr>>>;

/// A scan to react to.
#[derive(Debug)]
pub struct Job {
    pub scan: Scan,
    pub at: Timestamp,
    /// The built-in response has blocked its source, and this is to be said of it.
    pub blocked: Option<Vec<String>>,
}

/// Takes scans and reacts to them.
pub struct Reactions {
    entrance: Entrance,
    commands: Arc<Mutex<Commands>>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Where scans are handed over, from any thread.
#[derive(Clone)]
pub struct Entrance {
    jobs: SyncSender<Job>,
    failed: Failed,
    metrics: Arc<Metrics>,
}

impl Entrance {
    /// Hands a scan over. If too many wait it comes back, and a block of its source that was still to come has failed.
    pub fn react(&self, job: Job) -> Result<(), Job> {
        self.metrics.enter(Queue::Reactions);
        match self.jobs.try_send(job) {
            Err(TrySendError::Full(job)) => {
                self.metrics.leave(Queue::Reactions, 1);
                if matches!(job.scan.reaction, Reaction::Block(_)) && job.blocked.is_none() {
                    locked(&self.failed).push(job.scan.probe.source);
                }
                Err(job)
            }
            _ => Ok(()),
        }
    }
}

struct Worker {
    /// Who runs commands, if it is somebody else.
    remote: Option<Remote>,
    dialect: Dialect,
    lines: Lines,
    commands: Arc<Mutex<Commands>>,
    names: Option<Names>,
    output: Output,
    failed: Failed,
    ending: Arc<AtomicBool>,
}

impl Reactions {
    /// Starts the thread. `names` looks up names where the configuration wants them; `way` leads to who runs commands, if
    /// it is not this process.
    pub fn start(
        dialect: Dialect,
        lines: Lines,
        commands: Commands,
        names: Option<Names>,
        output: Output,
        way: Option<Way>,
    ) -> Reactions {
        let (jobs, queue) = sync_channel(WAITING);
        let failed = Failed::default();
        let ending = Arc::new(AtomicBool::new(false));
        let commands = Arc::new(Mutex::new(commands));
        let metrics = Arc::clone(output.metrics());
        let mut worker = Worker {
            remote: way.map(Remote::new),
            dialect,
            lines,
            commands: Arc::clone(&commands),
            names,
            output,
            failed: Arc::clone(&failed),
            ending: Arc::clone(&ending),
        };
        let thread = std::thread::spawn(move || worker.run(&queue));
        Reactions { entrance: Entrance { jobs, failed, metrics }, commands, ending, thread }
    }

    /// Where scans are handed over.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// Takes new commands for whoever is blocked from now on. Never waits, for a command may be under way.
    pub fn configure(&self, commands: Commands) {
        *locked(&self.commands) = commands;
    }

    /// Whose block failed since this was asked last.
    pub fn failed(&self) -> Vec<IpAddr> {
        std::mem::take(&mut *locked(&self.entrance.failed))
    }

    /// Ends. A command under way is given two seconds and then left to itself; whoever waits to be blocked is told, as not
    /// blocked. Returns whether all of it came to an end.
    pub fn end(self) -> bool {
        self.ending.store(true, Ordering::Relaxed);
        drop(self.entrance);
        join_soon(self.thread)
    }
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            match queue.recv_timeout(REST) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Disconnected) => break,
                // At rest only where there is somebody to let go.
                Err(RecvTimeoutError::Timeout) => match &mut self.remote {
                    Some(remote) if remote.is_connected() => remote.close(),
                    _ => match queue.recv() {
                        Ok(job) => self.take(job),
                        Err(_) => break,
                    },
                },
            }
        }
        if let Some(names) = self.names.take() {
            names.end();
        }
    }

    fn take(&mut self, job: Job) {
        self.output.metrics().leave(Queue::Reactions, 1);
        self.react(job);
    }

    fn react(&mut self, job: Job) {
        let Job { mut scan, at, blocked } = job;
        let is_blocked = blocked.is_some();
        let mut log = blocked.unwrap_or_default();
        let mut record = Vec::new();
        match scan.reaction {
            // The ledger knows of it, and the commands are an addition.
            Reaction::Block(block) if is_blocked => {
                if !self.ending.load(Ordering::Relaxed) {
                    log.append(&mut self.block(block, &scan).0);
                }
            }
            Reaction::Block(block) => {
                let (mut said, held) = if self.ending.load(Ordering::Relaxed) {
                    let source = scan.probe.source;
                    (vec![format!("attackalert: Host {source} is not blocked: the daemon was told to end")], false)
                } else {
                    self.block(block, &scan)
                };
                if block != Block::No {
                    self.output.metrics().block(if held { Outcome::Blocked } else { Outcome::Refused });
                }
                if held {
                    record = match self.dialect {
                        Dialect::V1 => Vec::new(),
                        Dialect::V2 => blocked_file::record(scan.probe.source),
                    };
                } else {
                    (scan.blocked, scan.rule) = (Word::False, Rule::Refused);
                    locked(&self.failed).push(scan.probe.source);
                }
                log.append(&mut said);
            }
            Reaction::AlreadyBlocked | Reaction::Nothing => {}
        }
        match &self.names {
            Some(names) => names.tell(scan, at, log, record),
            None => {
                let mut parcel = Parcel::default();
                self.lines.tell(&scan, None, at, &log, &record, &mut parcel);
                self.output.send(parcel);
            }
        }
    }

    /// Does it; what is logged of it, and whether the host is blocked now.
    fn block(&mut self, block: Block, scan: &Scan) -> (Vec<String>, bool) {
        let mut log = Vec::new();
        let mut done = Vec::new();
        if block == Block::No {
            return (vec![self.lines.only_logged(scan)], true);
        }
        let commands = locked(&self.commands).clone();
        if commands.run_first || block == Block::CommandOnly {
            done.extend(self.carry_out(&commands, Deed::Command, scan, &mut log));
        }
        if block == Block::Yes {
            done.extend(self.carry_out(&commands, Deed::Deny, scan, &mut log));
            done.extend(self.carry_out(&commands, Deed::Route, scan, &mut log));
            if !commands.run_first {
                self.carry_out(&commands, Deed::Command, scan, &mut log);
            }
        }
        // Without any command 1.2 takes a host for blocked all the same.
        (log, done.is_empty() || done.contains(&true))
    }

    /// Does it, or has it done, and logs it; whether it was done, or `None` where the configuration has no such thing.
    fn carry_out(&mut self, commands: &Commands, deed: Deed, scan: &Scan, log: &mut Vec<String>) -> Option<bool> {
        let (address, port) = (scan.probe.source, scan.probe.port);
        let text = commands.text(deed, address, port)?;
        let (ended, words) = match &mut self.remote {
            None => commands.carry_out(deed, address, port),
            Some(remote) => match remote.run(deed, address, port, commands.mode) {
                Ok(ended) => (ended, String::new()),
                Err(error) => (Ended::NotStarted, format!("{error:#}")),
            },
        };
        let is_done = ended == Ended::Done;
        let why = match (deed, words.as_str()) {
            (Deed::Deny, words) if !words.is_empty() => words.to_owned(),
            (_, "") => format!("\"{text}\" {ended}"),
            (_, words) => format!("\"{text}\" {ended}: {words}"),
        };
        log.push(match (deed, is_done) {
            (Deed::Deny, true) => {
                format!("attackalert: Host {address} has been blocked via wrappers with string: \"{text}\"")
            }
            (Deed::Deny, false) => {
                format!("attackalert: ERROR: Host {address} could not be blocked via wrappers: {why}")
            }
            (Deed::Route, true) => {
                format!("attackalert: Host {address} has been blocked via dropped route using command: \"{text}\"")
            }
            (Deed::Route, false) => {
                format!("attackalert: ERROR: Host {address} could not be blocked via dropped route: {why}")
            }
            (Deed::Command, true) => {
                format!("attackalert: External command run for host: {address} using command: \"{text}\"")
            }
            (Deed::Command, false) => {
                format!("attackalert: ERROR: External command failed for host: {address}: {why}")
            }
        });
        Some(is_done)
    }
}
