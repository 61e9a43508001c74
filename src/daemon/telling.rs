//! What the main loop does with each scan: has it blocked, hands it over, or tells it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::blocking::{Blocking, Handled};
use super::config::{Block, Config};
use super::decide::{Decider, Reaction, Rule, Scan, Word};
use super::invocation::Invocation;
use super::lines::Lines;
use super::metrics::Turn;
use super::output::Parcel;
use super::probe::Probe;
use super::respond::{Job, Responder};

/// The scans of one turn on their way into one parcel.
pub struct Telling<'a> {
    pub invocation: &'a Invocation,
    pub responder: &'a Responder,
    pub blocking: &'a mut Option<Blocking>,
    /// Sources that were to be blocked by it and are not.
    pub not_blocked: Vec<IpAddr>,
    pub warned: &'a mut Option<Instant>,
    pub config: &'a Config,
    pub lines: &'a Lines,
    /// When the kernel handed up what is being told.
    pub at: Timestamp,
    pub parcel: Parcel,
    pub turn: Turn,
}

impl Telling<'_> {
    /// Tells a scan that nothing is to be done about; hands any other over.
    pub fn tell(&mut self, mut scan: Scan) {
        let at = self.at;
        self.turn.scan(scan.probe.kind);
        let source = scan.probe.source;
        let mut log = Vec::new();
        let mut is_block = matches!(scan.reaction, Reaction::Block(_));
        let built_in = matches!(scan.reaction, Reaction::Block(Block::Yes) | Reaction::AlreadyBlocked);
        if let Some(blocking) = self.blocking.as_mut().filter(|_| built_in) {
            match blocking.react(scan, at) {
                Handled::HandedOver => return,
                Handled::Already if is_block => scan.reaction = Reaction::AlreadyBlocked,
                Handled::Already => {}
                Handled::Not(rule, why) => {
                    (scan.blocked, scan.reaction, scan.rule) = (Word::False, Reaction::Nothing, rule);
                    self.not_blocked.push(source);
                    self.warn(&format!("Host {source} is not blocked: {why}"));
                }
            }
            is_block = false;
        }
        if scan.reaction == Reaction::AlreadyBlocked && self.blocking.is_none() {
            self.turn.already += 1;
        }
        if self.config.resolve_host || is_block {
            match self.responder.entrance().react(Job { scan, at, blocked: None }) {
                Ok(()) => return,
                Err(job) => scan = job.scan,
            }
        }
        if is_block {
            (scan.blocked, scan.rule) = (Word::False, Rule::Limited);
            log.push(format!("adminalert: ERROR: too many hosts wait to be blocked: {source} is not blocked"));
        }
        if scan.ignored && self.invocation.verbose {
            let file = self.config.ignore_file.as_ref().map_or(String::new(), |path| path.display().to_string());
            log.push(format!("Host: {source} found in ignore file {file}, aborting actions"));
        }
        self.lines.tell(&scan, None, at, &log, &[], &mut self.parcel);
    }

    /// Whoever was not blocked after all is tried again with the next probe.
    pub fn forget(&mut self, decider: &mut Decider) {
        self.not_blocked.drain(..).for_each(|address| decider.forget_block(address));
    }

    /// What 2.0's -d says of a packet that counts for nothing.
    pub fn debug(&mut self, probe: &Probe) {
        if self.invocation.debug && self.invocation.same_address_check && probe.source == probe.destination {
            let line = format!("debug: Source address {0} same as destination address {0}, skipping", probe.source);
            self.parcel.say(&line);
        }
    }

    /// Warns, once in ten seconds at most.
    pub fn warn(&mut self, what: &str) {
        if self.warned.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
            *self.warned = Some(Instant::now());
            self.parcel.say(&format!("adminalert: {what}"));
        }
    }
}
