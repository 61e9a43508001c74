//! What the main loop does with each scan: has it blocked, hands it over, or tells it.

use std::collections::BTreeMap;
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
use super::reactions::{Job, Reactions};

/// What is wrong, each of which is said once in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Probes came faster than they could be read.
    Lost,
    /// The kernel's table of sources is full.
    Sources,
    /// There are too many blocks.
    Limited,
    /// The kernel does not block.
    Refused,
    /// Somebody scans in the name of one who must not be blocked.
    Safe,
    /// Too many hosts wait for their block.
    Waiting,
    /// A table of ours cannot be mended.
    Table,
}

/// When each was said last, and how often it was held back since.
#[derive(Debug, Default)]
pub struct Alarms(BTreeMap<Alarm, (Instant, u64)>);

impl Alarms {
    /// The line for `what`; none if one like it was said less than ten seconds ago.
    pub fn line(&mut self, alarm: Alarm, what: &str) -> Option<String> {
        const OFTEN: Duration = Duration::from_secs(10);
        let held = match self.0.get_mut(&alarm) {
            Some((last, held)) if last.elapsed() < OFTEN => {
                *held += 1;
                return None;
            }
            Some((_, held)) => *held,
            None => 0,
        };
        self.0.insert(alarm, (Instant::now(), 0));
        let level = if alarm == Alarm::Safe { "warning" } else { "ERROR" };
        let more = if held > 0 { format!(" ({held} more like it since this was said last)") } else { String::new() };
        Some(format!("adminalert: {level}: {what}{more}"))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_alarm_is_said_and_counted_by_itself() {
        let mut alarms = Alarms::default();
        let full = "adminalert: ERROR: Host 203.0.113.9 is not blocked: full";
        assert_eq!(alarms.line(Alarm::Refused, "Host 203.0.113.9 is not blocked: full").as_deref(), Some(full));
        for _ in 0..5 {
            assert_eq!(alarms.line(Alarm::Refused, "Host 203.0.113.10 is not blocked: full"), None);
        }
        let safe = alarms.line(Alarm::Safe, "it is the gateway");
        assert_eq!(safe.as_deref(), Some("adminalert: warning: it is the gateway"), "another kind");
        alarms.0.get_mut(&Alarm::Refused).unwrap().0 -= Duration::from_secs(10);
        let again = alarms.line(Alarm::Refused, "full").unwrap();
        assert_eq!(again, "adminalert: ERROR: full (5 more like it since this was said last)");
    }
}
