//! What a probe is worth: ignored, counted, triggered, blocked already or to be blocked. Takes the time as an argument
//! and does nothing by itself.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use super::config::{Block, Config};
use super::probe::Probe;
use super::sources::Sources;
use crate::blocks::IgnoreList;
use crate::syntax::Dialect;

/// Different ports that a source has to ask for by packets which a dead connection may send as well (ACK, FIN and ACK),
/// before these count as probes. A host that was restarted, or whose service was, gets one or two of them a client.
pub const AMBIGUOUS_PORTS: usize = 3;
/// Lines that one source may have within [`LINES_WINDOW`] seconds; all ports below 1024 in four kinds.
pub const LINES: u32 = 4_096;
pub const LINES_WINDOW: u64 = 600;
/// Lines about sources that have asked once, of which anyone can forge as many as he likes: so many at once (some 55 MB
/// of history), and so many a second in the long run. A source that asks again gets all of its lines.
pub const STRANGERS: u64 = 250_000;
pub const STRANGERS_A_SECOND: u64 = 10;

/// How the kernel handed a probe up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first of its source, port and kind in the window.
    First,
    Again,
    /// The kernel's table of sources is full, so this may be either.
    Unknown,
}

/// One of 2.0's four words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    True,
    False,
    /// It was never asked.
    Unset,
}

impl Word {
    /// As lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Word::True => "true",
            Word::False => "false",
            Word::Unset => "unset",
        }
    }
}

impl From<bool> for Word {
    fn from(yes: bool) -> Word {
        if yes { Word::True } else { Word::False }
    }
}

/// What is to be done about a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    Nothing,
    /// The source was blocked before.
    AlreadyBlocked,
    Block(Block),
}

/// What decided whether a scan is reacted to, and, where that failed, what was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Its source is in the ignore list.
    Ignored,
    /// Neither SCAN_TRIGGER nor SCAN_PORTS asks for more than one.
    FirstProbe,
    /// It has come to what SCAN_TRIGGER, SCAN_PORTS, or both ask for.
    ScanTrigger,
    ScanPorts,
    ScanPortsAndTrigger,
    /// It has not yet.
    BelowScanTrigger,
    BelowScanPorts,
    /// There are too many blocks, or too many hosts wait for theirs.
    Limited,
    /// Its source must not be blocked, or the kernel, or a command, refused.
    Refused,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Rule::Ignored => "ignored",
            Rule::FirstProbe => "first probe",
            Rule::ScanTrigger => "SCAN_TRIGGER",
            Rule::ScanPorts => "SCAN_PORTS",
            Rule::ScanPortsAndTrigger => "SCAN_PORTS and SCAN_TRIGGER",
            Rule::BelowScanTrigger => "below SCAN_TRIGGER",
            Rule::BelowScanPorts => "below SCAN_PORTS",
            Rule::Limited => "limited",
            Rule::Refused => "refused",
        })
    }
}

/// A probe with all that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub probe: Probe,
    pub ignored: bool,
    pub triggered: Word,
    /// The configuration says to log only.
    pub noblock: Word,
    pub blocked: Word,
    pub reaction: Reaction,
    pub rule: Rule,
    /// It is not the first packet of its source.
    pub insists: bool,
}

/// A source as it is remembered, in one line of the processor's cache: in a flood each is another.
#[derive(Debug, Default)]
struct Source {
    hits: u32,
    lines: u32,
    /// In seconds, as `now` is.
    lines_since: u32,
    /// What the last line said.
    said: Option<(Word, Word)>,
    said_already: bool,
    more: Option<Box<More>>,
}

/// What most sources, seen once, never have.
#[derive(Debug, Default)]
struct More {
    /// The first ambiguous probes, until there are enough of them.
    held: Vec<Probe>,
    /// The different ports that it asked for last, up to as many as the configuration asks for, and when.
    ports: Vec<(u16, u64)>,
    /// Its first scan, if there was no room for its line.
    untold: Option<Scan>,
}

/// All sources, and what to make of them.
pub struct Decider {
    same_address_check: bool,
    sources: Sources<Source>,
    judge: Judge,
}

/// What the configuration says, and what is counted over all sources.
struct Judge {
    dialect: Dialect,
    trigger: u32,
    scan_ports: usize,
    scan_window: u64,
    block_tcp: Block,
    block_udp: Block,
    ignore: IgnoreList,
    blocked: HashSet<IpAddr>,
    lines_left_out: u64,
    strangers: u64,
    strangers_since: u64,
}

impl Decider {
    /// Nobody is known yet but who is `blocked`.
    pub fn new(
        config: &Config,
        dialect: Dialect,
        same_address_check: bool,
        ignore: IgnoreList,
        blocked: HashSet<IpAddr>,
    ) -> Decider {
        let judge = Judge {
            dialect,
            trigger: 0,
            scan_ports: 0,
            scan_window: 0,
            block_tcp: Block::No,
            block_udp: Block::No,
            ignore: IgnoreList::default(),
            blocked,
            lines_left_out: 0,
            strangers: STRANGERS,
            strangers_since: 0,
        };
        let mut decider = Decider { same_address_check, sources: Sources::new(), judge };
        decider.configure(config, ignore);
        decider
    }

    /// Takes a new configuration; what is known of sources stays.
    pub fn configure(&mut self, config: &Config, ignore: IgnoreList) {
        self.judge.trigger = config.scan_trigger.max(1);
        self.judge.scan_ports = config.scan_ports.max(1);
        self.judge.scan_window = u64::from(config.scan_window);
        self.judge.block_tcp = config.block_tcp;
        self.judge.block_udp = config.block_udp;
        self.judge.ignore = ignore;
    }

    /// Lines that were left out: a source had too many, or too many sources asked once.
    pub fn lines_left_out(&self) -> u64 {
        self.judge.lines_left_out
    }

    /// How many hosts it holds for blocked.
    pub fn blocked_hosts(&self) -> usize {
        self.judge.blocked.len()
    }

    /// Decides about `probe`, seen at `now` (seconds). `emit` gets what is to be told: none, one, or, when packets that
    /// could have been innocent turn out not to be, several.
    pub fn hit(&mut self, probe: Probe, seen: Seen, now: u64, emit: &mut dyn FnMut(Scan)) {
        if self.same_address_check && probe.source == probe.destination {
            return;
        }
        let source = self.sources.seen(probe.source);
        if probe.kind.is_ambiguous() && source.hits == 0 && !self.judge.blocked.contains(&probe.source) {
            let held = &mut source.more().held;
            if !held.iter().any(|held| held.port == probe.port) {
                held.push(probe);
            }
            if held.len() < AMBIGUOUS_PORTS {
                return;
            }
        } else {
            self.judge.count(source, probe, seen, now, emit);
        }
        // What was held has become enough, or is now in bad company.
        let held = source.more.as_mut().map(|more| std::mem::take(&mut more.held));
        for held in held.into_iter().flatten() {
            self.judge.count(source, held, Seen::First, now, emit);
        }
    }

    /// Whether there is room for a line about a source that has asked once, at `now` (seconds); one that is left out counts.
    pub fn has_room_for_a_stranger(&mut self, now: u64) -> bool {
        self.judge.has_room_for_a_stranger(now)
    }

    /// A block of `address` failed or was taken back: the next probe tries again.
    pub fn forget_block(&mut self, address: IpAddr) {
        self.judge.blocked.remove(&address);
        if let Some(source) = self.sources.get_mut(address) {
            source.said_already = false;
        }
    }

    /// All blocks may have been taken back: whoever probes is blocked again.
    pub fn forget_blocks(&mut self) {
        self.judge.blocked.clear();
        self.sources.values_mut().for_each(|source| source.said_already = false);
    }
}

impl Judge {
    fn count(&mut self, source: &mut Source, probe: Probe, seen: Seen, now: u64, emit: &mut dyn FnMut(Scan)) {
        if self.ignore.contains(probe.source) {
            // 1.2 says nothing of whom it ignores.
            if self.dialect == Dialect::V2
                && seen != Seen::Again
                && source.may_have_a_line(now, &mut self.lines_left_out)
            {
                let unset = Word::Unset;
                let reaction = Reaction::Nothing;
                emit(Scan {
                    probe,
                    ignored: true,
                    triggered: unset,
                    noblock: unset,
                    blocked: unset,
                    reaction,
                    rule: Rule::Ignored,
                    insists: false,
                });
            }
            return;
        }
        source.hits = source.hits.saturating_add(1);
        let ports_enough = source.asked_for(probe.port, self.scan_ports, self.scan_window, now);
        let triggered = ports_enough && source.hits >= self.trigger;
        let block = if probe.kind.is_tcp() { self.block_tcp } else { self.block_udp };
        let already = self.blocked.contains(&probe.source);
        let mut scan = Scan {
            probe,
            ignored: false,
            triggered: triggered.into(),
            noblock: Word::Unset,
            blocked: Word::Unset,
            reaction: Reaction::Nothing,
            rule: self.rule(ports_enough, triggered),
            insists: source.hits > 1,
        };
        if triggered {
            scan.noblock = (block == Block::No).into();
            (scan.blocked, scan.reaction) = match (self.dialect, block) {
                (Dialect::V1, _) if already => (Word::True, Reaction::AlreadyBlocked),
                // 1.2 notes whom it only logs as blocked, too.
                (Dialect::V1, block) => (Word::True, Reaction::Block(block)),
                (Dialect::V2, Block::No) => (Word::False, Reaction::Nothing),
                (Dialect::V2, _) if already => (Word::True, Reaction::AlreadyBlocked),
                (Dialect::V2, block) => (Word::True, Reaction::Block(block)),
            };
        } else if self.dialect == Dialect::V1 {
            return;
        }
        let said = Some((scan.triggered, scan.blocked));
        let news = match scan.reaction {
            Reaction::Block(_) => true,
            Reaction::AlreadyBlocked if !source.said_already => {
                source.said_already = true;
                true
            }
            _ => seen != Seen::Again || source.said != said,
        };
        source.said = said;
        if let Reaction::Block(_) = scan.reaction {
            self.blocked.insert(probe.source);
        } else if !news || !source.may_have_a_line(now, &mut self.lines_left_out) {
            return;
        } else if source.hits == 1 && !self.has_room_for_a_stranger(now) {
            source.more().untold = Some(scan);
            return;
        }
        if let Some(first) = source.more.as_mut().and_then(|more| more.untold.take()) {
            self.lines_left_out -= 1;
            emit(first);
        }
        emit(scan);
    }
}

impl Judge {
    fn has_room_for_a_stranger(&mut self, now: u64) -> bool {
        self.strangers = STRANGERS.min(self.strangers + (now - self.strangers_since.min(now)) * STRANGERS_A_SECOND);
        self.strangers_since = now;
        let has_room = self.strangers > 0;
        self.strangers = self.strangers.saturating_sub(1);
        self.lines_left_out += u64::from(!has_room);
        has_room
    }

    fn rule(&self, ports_enough: bool, triggered: bool) -> Rule {
        match (self.scan_ports > 1, self.trigger > 1) {
            _ if !ports_enough => Rule::BelowScanPorts,
            _ if !triggered => Rule::BelowScanTrigger,
            (false, false) => Rule::FirstProbe,
            (false, true) => Rule::ScanTrigger,
            (true, false) => Rule::ScanPorts,
            (true, true) => Rule::ScanPortsAndTrigger,
        }
    }
}

impl Source {
    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn may_have_a_line(&mut self, now: u64, left_out: &mut u64) -> bool {
        if now.saturating_sub(u64::from(self.lines_since)) >= LINES_WINDOW {
            (self.lines, self.lines_since) = (0, u32::try_from(now).unwrap_or(u32::MAX));
        }
        self.lines = self.lines.saturating_add(1);
        *left_out += u64::from(self.lines > LINES);
        self.lines <= LINES
    }

    /// Whether it has asked for `wanted` different ports within `window` seconds, `port` now among them.
    fn asked_for(&mut self, port: u16, wanted: usize, window: u64, now: u64) -> bool {
        if wanted <= 1 {
            return true;
        }
        let ports = &mut self.more().ports;
        ports.retain(|&(known, at)| known != port && now.saturating_sub(at) < window);
        ports.push((port, now));
        if ports.len() > wanted {
            ports.remove(0); // the one asked for longest ago
        }
        ports.len() >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{ACK, FIN, IpOptions, Kind, SYN};
    use super::*;

    fn probe(source: u8, port: u16, kind: Kind) -> Probe {
        let source = IpAddr::from([203, 0, 113, source]);
        Probe { source, destination: [192, 168, 66, 1].into(), port, kind, ip_options: IpOptions::NotSet }
    }

    fn decider(dialect: Dialect, config: Config) -> Decider {
        let ignore = IgnoreList::of(vec!["203.0.113.200/32".parse().unwrap()]);
        Decider::new(&config, dialect, true, ignore, HashSet::new())
    }

    fn words(decider: &mut Decider, hits: &[(u8, u16, Kind, Seen)]) -> Vec<String> {
        let mut all = Vec::new();
        for &(source, port, kind, seen) in hits {
            decider.hit(probe(source, port, kind), seen, 1_000, &mut |scan| {
                let word = |word| match word {
                    Word::True => 't',
                    Word::False => 'f',
                    Word::Unset => '-',
                };
                let ignored = Word::from(scan.ignored);
                let four: String = [ignored, scan.triggered, scan.noblock, scan.blocked].map(word).iter().collect();
                all.push(format!("{} {four} {:?}", scan.probe.port, scan.reaction));
            });
        }
        all
    }

    const S: Kind = Kind::Tcp(SYN);

    #[test]
    fn a_source_is_small() {
        assert_eq!(std::mem::size_of::<Source>(), 24);
    }

    #[test]
    fn second_generation_words() {
        let blocking = Config { block_tcp: Block::Yes, scan_trigger: 2, ..Config::default() };
        let found = words(
            &mut decider(Dialect::V2, blocking),
            &[
                (200, 1, S, Seen::First),
                (9, 1, S, Seen::First),
                (9, 1, S, Seen::Again),
                (9, 1, S, Seen::Again),
                (9, 1, S, Seen::Again),
                (9, 2, S, Seen::First),
                (9, 2, Kind::Udp, Seen::First),
            ],
        );
        assert_eq!(
            found,
            [
                "1 t--- Nothing",
                "1 ff-- Nothing",
                "1 ftft Block(Yes)",
                "1 ftft AlreadyBlocked",
                "2 ftft AlreadyBlocked",
                "2 fttf Nothing",
            ]
        );
    }

    #[test]
    fn first_generation_words() {
        let config = Config { scan_trigger: 2, ..Config::default() };
        let hits = [(200, 1, S, Seen::First), (9, 1, S, Seen::First), (9, 2, S, Seen::First), (9, 3, S, Seen::First)];
        let found = words(&mut decider(Dialect::V1, config), &hits);
        assert_eq!(found, ["2 fttt Block(No)", "3 fttt AlreadyBlocked"]);
    }

    #[test]
    fn packets_of_dead_connections_are_no_scan_until_they_ask_for_several_ports() {
        let (ack, maimon) = (Kind::Tcp(ACK), Kind::Tcp(ACK | FIN));
        let mut decider = decider(Dialect::V2, Config::default());
        let stale = [(9, 80, ack, Seen::First), (9, 80, maimon, Seen::First), (9, 443, ack, Seen::First)];
        assert!(words(&mut decider, &stale).is_empty());
        assert_eq!(words(&mut decider, &[(9, 22, ack, Seen::First)]).len(), 3);
        assert!(words(&mut decider, &[(8, 80, ack, Seen::First)]).is_empty());
        assert_eq!(words(&mut decider, &[(8, 81, S, Seen::First)]).len(), 2, "it scans otherwise, too");
    }

    #[test]
    fn a_client_that_retries_one_port_is_none_where_several_are_asked_for() {
        let config = Config { scan_ports: 3, scan_window: 60, block_tcp: Block::Yes, ..Config::default() };
        let mut decider = decider(Dialect::V2, config);
        let hits = [(9, 80, S, Seen::First), (9, 80, S, Seen::Again), (9, 81, S, Seen::First), (9, 82, S, Seen::First)];
        assert_eq!(words(&mut decider, &hits), ["80 ff-- Nothing", "81 ff-- Nothing", "82 ftft Block(Yes)"]);
    }

    /// The last so many seconds count, whenever they began; and every hit, also those below the trigger.
    #[test]
    fn different_ports_within_any_stretch_of_time() {
        let config = Config { scan_ports: 3, scan_window: 60, scan_trigger: 3, ..Config::default() };
        let mut decider = decider(Dialect::V2, config);
        let mut triggered = |port: u16, now: u64| {
            let mut found = None;
            decider.hit(probe(9, port, S), Seen::First, now, &mut |scan| found = Some(scan.triggered));
            found.expect("each is told") == Word::True
        };
        let slowly = [(1, 0), (2, 59), (3, 60), (4, 119)].map(|(port, now)| triggered(port, now));
        assert_eq!(slowly, [false; 4], "three, but never three within a minute");
        assert!(triggered(5, 119), "the ports 3, 4 and 5 within a minute");
        assert!(!triggered(6, 500), "a lone one, later");
    }

    #[test]
    fn a_block_that_failed_is_tried_again() {
        let mut decider = decider(Dialect::V2, Config { block_tcp: Block::Yes, ..Config::default() });
        assert_eq!(words(&mut decider, &[(9, 1, S, Seen::First)]), ["1 ftft Block(Yes)"]);
        decider.forget_block([203, 0, 113, 9].into());
        assert_eq!(words(&mut decider, &[(9, 2, S, Seen::First)]), ["2 ftft Block(Yes)"]);
    }

    #[test]
    fn sources_that_ask_once_have_so_many_lines_and_one_that_asks_again_has_all_of_its_own() {
        let mut decider = decider(Dialect::V2, Config::default());
        decider.judge.strangers = 1;
        let mut told = words(&mut decider, &[(1, 1, S, Seen::First), (2, 2, S, Seen::First), (3, 3, S, Seen::First)]);
        // 1,000 seconds have brought 10,000 more by then.
        assert_eq!(told.len(), 3);
        decider.judge.strangers = 0;
        told = words(&mut decider, &[(4, 4, S, Seen::First), (5, 5, S, Seen::First)]);
        assert_eq!((told.len(), decider.lines_left_out()), (0, 2));
        told = words(&mut decider, &[(4, 6, S, Seen::First)]);
        assert_eq!(told, ["4 fttf Nothing", "6 fttf Nothing"]);
        assert_eq!(decider.lines_left_out(), 1);
    }

    #[test]
    fn one_source_has_so_many_lines_and_no_more() {
        let mut decider = decider(Dialect::V2, Config::default());
        let hits: Vec<_> = (0..5_000).map(|port| (9, port, S, Seen::First)).collect();
        assert_eq!(words(&mut decider, &hits).len(), LINES as usize);
        assert_eq!(decider.lines_left_out(), 5_000 - u64::from(LINES));
    }
}
