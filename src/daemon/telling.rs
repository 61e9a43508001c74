//! What the main loop does with each scan: has it blocked, hands it over, or tells it.

use std::net::IpAddr;

use jiff::Timestamp;

use super::alarms::{Alarm, Alarms};
use super::blocking::{Blocking, Handled};
use super::config::{Block, Config};
use super::decide::{Decider, Reaction, Rule, Scan, Word};
use super::invocation::Invocation;
use super::lines::Lines;
use super::metrics::Turn;
use super::output::Parcel;
use super::probe::Probe;
use super::reactions::{Job, Reactions};

/// The scans of one turn on their way into one parcel.
pub struct Telling<'a> {
    pub invocation: &'a Invocation,
    pub reactions: &'a Reactions,
    pub blocking: &'a mut Option<Blocking>,
    /// Sources that were to be blocked by it and are not.
    pub not_blocked: Vec<IpAddr>,
    pub alarms: &'a mut Alarms,
    /// What is to be told if there is room for lines about sources that anyone can forge.
    pub strangers: Vec<Scan>,
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
        match (self.blocking.as_mut(), scan.reaction) {
            (Some(blocking), Reaction::AlreadyBlocked) => blocking.hear(source),
            (None, Reaction::AlreadyBlocked) => self.turn.already += 1,
            _ => {}
        }
        if let Some(blocking) = self.blocking.as_mut().filter(|_| scan.reaction == Reaction::Block(Block::Yes)) {
            match blocking.react(scan, at) {
                Handled::HandedOver => return,
                Handled::Already => scan.reaction = Reaction::AlreadyBlocked,
                Handled::Not(alarm, why) => {
                    let rule = if alarm == Alarm::Limited { Rule::Limited } else { Rule::Refused };
                    (scan.blocked, scan.reaction, scan.rule) = (Word::False, Reaction::Nothing, rule);
                    self.not_blocked.push(source);
                    self.warn(alarm, &format!("Host {source} is not blocked: {why}"));
                    if !scan.insists {
                        self.strangers.push(scan);
                        return;
                    }
                }
            }
            is_block = false;
        }
        if self.config.resolve_host || is_block {
            match self.reactions.entrance().react(Job { scan, at, blocked: None }) {
                Ok(()) => return,
                Err(job) => scan = job.scan,
            }
        }
        if is_block {
            (scan.blocked, scan.rule) = (Word::False, Rule::Limited);
            log.extend(
                self.alarms
                    .line(Alarm::Waiting, &format!("too many hosts wait to be blocked: {source} is not blocked")),
            );
        }
        self.write(scan, log);
    }

    fn write(&mut self, scan: Scan, mut log: Vec<String>) {
        if scan.ignored && self.invocation.verbose {
            let file = self.config.ignore_file.as_ref().map_or(String::new(), |path| path.display().to_string());
            log.push(format!("Host: {} found in ignore file {file}, aborting actions", scan.probe.source));
        }
        self.lines.tell(&scan, None, self.at, &log, &[], &mut self.parcel);
    }

    /// Whoever was not blocked after all is tried again with the next probe, and told if there is room for it.
    pub fn forget(&mut self, decider: &mut Decider, now: u64) {
        self.not_blocked.drain(..).for_each(|address| decider.forget_block(address));
        for scan in std::mem::take(&mut self.strangers) {
            if decider.has_room_for_a_stranger(now) {
                self.write(scan, Vec::new());
            }
        }
    }

    /// What 2.0's -d says of a packet that counts for nothing.
    pub fn debug(&mut self, probe: &Probe) {
        if self.invocation.debug && self.invocation.same_address_check && probe.source == probe.destination {
            let line = format!("debug: Source address {0} same as destination address {0}, skipping", probe.source);
            self.parcel.say(&line);
        }
    }

    /// Says what is wrong, if that was not said just now.
    pub fn warn(&mut self, alarm: Alarm, what: &str) {
        if let Some(line) = self.alarms.line(alarm, what) {
            self.parcel.say(&line);
        }
    }
}
