//! Who is blocked, in memory: takes the time as an argument, touches neither the kernel nor a file.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::clock::{Now, Uptime};
use super::record::{By, Record, What};
use super::terms::{Bucket, Evidence, IN_ALL, Length, Terms};

/// Addresses that are remembered beside those that are blocked, so that whoever comes back is known.
const REMEMBERED: usize = 65_536;
/// Those of them that came back, or were blocked for longer than a stranger, at most. The rest is for strangers, who cost
/// one forged packet each: no number of them takes the place of one that came back.
const RETURNERS: usize = REMEMBERED / 4 * 3;
/// Addresses in all, whatever the terms.
pub const MOST: usize = IN_ALL + REMEMBERED;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub since: Uptime,
    /// `None` is for ever.
    pub until: Option<Uptime>,
    pub times: u32,
    pub by: By,
    pub why: String,
    /// When it is forgotten; `None` as long as it is blocked.
    forgotten: Option<Uptime>,
}

impl Entry {
    fn new(since: Uptime, until: Option<Uptime>, times: u32, by: By, why: &str) -> Entry {
        Entry { since, until, times, by, why: why.to_owned(), forgotten: None }
    }

    fn length(&self) -> Length {
        self.until.map(|until| Duration::from_millis(u64::try_from(until - self.since).unwrap_or(0)))
    }

    /// Whether it is blocked at `now`.
    pub fn is_live(&self, now: Uptime) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// How long it is still to be blocked.
    pub fn stay(&self, now: Uptime) -> Option<Duration> {
        self.until.map(|until| Duration::from_millis(u64::try_from(until - now).unwrap_or(0)))
    }
}

/// What came of a wish to block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is to be blocked for so long, and this is to be written down.
    Block(Length, Record),
    /// It is blocked already, until then at least; or it was, and the wish is a late echo of that.
    Already(Option<Uptime>),
    /// There are too many: of new blocks in this second, or of all.
    Limited(Limit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    PerSecond(u32),
    InAll(usize),
    /// So many are blocked, and the rest of so much room is for those who insist.
    Strangers(usize, usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::PerSecond(limit) => {
                write!(out, "there are more than {limit} new blocks a second (per_second of [block] in policy.toml)")
            }
            Limit::InAll(limit) => write!(
                out,
                "{limit} hosts are blocked, and in_all of [block] in policy.toml allows no more; \
                 `harden-portsentry unblock` makes room"
            ),
            Limit::Strangers(live, limit) => write!(
                out,
                "{live} hosts are blocked, and half of in_all ({limit}, [block] in policy.toml) is kept for hosts that \
                 insist; `harden-portsentry unblock` makes room"
            ),
        }
    }
}

/// All addresses.
#[derive(Debug)]
pub struct State {
    terms: Terms,
    entries: HashMap<IpAddr, Entry>,
    /// When those that are blocked, and not for ever, are to be freed.
    ends: BTreeSet<(Uptime, IpAddr)>,
    /// When those that were blocked are to be forgotten: strangers, and others.
    strangers: BTreeSet<(Uptime, IpAddr)>,
    returners: BTreeSet<(Uptime, IpAddr)>,
    /// New blocks of sources that were seen once, and of others.
    for_strangers: Bucket,
    for_others: Bucket,
}

impl State {
    pub fn new(terms: Terms, now: Uptime) -> State {
        State {
            terms,
            entries: HashMap::new(),
            ends: BTreeSet::new(),
            strangers: BTreeSet::new(),
            returners: BTreeSet::new(),
            for_strangers: Bucket::full(terms.per_second, now),
            for_others: Bucket::full(terms.per_second, now),
        }
    }

    /// Who is blocked as `records` have it, to be looked at: with terms of nobody's.
    pub fn of(records: &[Record], now: Now) -> State {
        let mut state = State::new(Terms::default(), now.boot);
        state.restore(records, now);
        state
    }

    /// Takes new terms for whoever is blocked from now on.
    pub fn configure(&mut self, terms: Terms) {
        self.terms = terms;
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Takes what a ledger says. A clock that was wrong when it was written can neither end a block that had not begun nor
    /// make one longer than it was meant to be.
    pub fn restore(&mut self, records: &[Record], now: Now) {
        for record in records {
            let What::Blocked { until, times } = record.what else { continue };
            let (mut since, mut until) = (now.instant_of(record.at), until.map(|until| now.instant_of(until)));
            if since > now.boot {
                // Written by a clock that was ahead: it begins now.
                until = until.map(|until| until - (since - now.boot));
                since = now.boot;
            }
            self.insert(record.address, Entry::new(since, until, times, record.by, &record.why));
        }
        self.pass(now.boot);
    }

    /// Takes an address that the kernel blocks and nobody knows of.
    pub fn adopt(&mut self, address: IpAddr, stay: Length, now: Now) {
        let until = stay.map(|stay| later(now.boot, stay));
        self.insert(address, Entry::new(now.boot, until, 1, By::Kernel, "found in the kernel's sets"));
    }

    /// A source that was caught: blocked for the term that it has earned.
    pub fn catch(&mut self, address: IpAddr, evidence: Evidence, why: &str, now: Now) -> Outcome {
        self.caught(address, evidence, By::Daemon, why, now)
    }

    fn caught(&mut self, address: IpAddr, evidence: Evidence, by: By, why: &str, now: Now) -> Outcome {
        let known = self.entries.get(&address);
        if let Some(entry) = known.filter(|entry| entry.is_live(now.boot)) {
            return Outcome::Already(entry.until);
        }
        let came_back = known.is_some();
        let length = self.terms.next(known.map(Entry::length), evidence);
        let is_stranger = evidence == Evidence::Forgeable && !came_back;
        if let Some(limit) = self.limit(is_stranger, now.boot) {
            return Outcome::Limited(limit);
        }
        self.block(address, length, by, why, now)
    }

    /// Strangers, whom anyone can forge, leave half of the room to others.
    fn limit(&mut self, is_stranger: bool, now: Uptime) -> Option<Limit> {
        let live = self.len();
        let (bucket, room) = match is_stranger {
            true => (&mut self.for_strangers, self.terms.in_all / 2),
            false => (&mut self.for_others, self.terms.in_all),
        };
        if live >= self.terms.in_all {
            Some(Limit::InAll(self.terms.in_all))
        } else if live >= room {
            Some(Limit::Strangers(live, self.terms.in_all))
        } else if !bucket.take(self.terms.per_second, now) {
            Some(Limit::PerSecond(self.terms.per_second))
        } else {
            None
        }
    }

    /// Somebody, or fail2ban, wants `address` blocked for `length`, or, with `None`, for the term that it has earned.
    /// Without a length one that is blocked stays as it is: the wish is an echo of what blocked it. fail2ban read a line of
    /// the history, maybe late, and that is worth no more than the packet was: whoever is known stays as he is, and for
    /// others the limits of strangers hold. Debian's portsentry saw a packet: its wish is that of one who watches.
    pub fn ask(&mut self, address: IpAddr, length: Option<Length>, by: By, why: &str, now: Now) -> Outcome {
        if by == By::Portsentry && length.is_none() {
            return self.caught(address, Evidence::Forgeable, by, why, now);
        }
        let known = self.entries.get(&address);
        let live = known.filter(|entry| entry.is_live(now.boot));
        if let Some(entry) = known.filter(|_| by == By::Fail2ban).or(live.filter(|_| length.is_none())) {
            return Outcome::Already(entry.until);
        }
        let evidence = if by == By::Fail2ban { Evidence::Forgeable } else { Evidence::Connection };
        let length = length.unwrap_or_else(|| self.terms.next(known.map(Entry::length), evidence));
        let limit = match by {
            By::Fail2ban => self.limit(true, now.boot),
            _ => (live.is_none() && self.len() >= self.terms.in_all).then_some(Limit::InAll(self.terms.in_all)),
        };
        match limit {
            Some(limit) => Outcome::Limited(limit),
            None => self.block(address, length, by, why, now),
        }
    }

    fn block(&mut self, address: IpAddr, length: Length, by: By, why: &str, now: Now) -> Outcome {
        let known = self.entries.get(&address);
        let again = known.is_some_and(|entry| entry.is_live(now.boot));
        let times = known.map_or(0, |entry| entry.times).saturating_add(u32::from(!again));
        let until = length.map(|length| later(now.boot, length));
        self.insert(address, Entry::new(now.boot, until, times, by, why));
        Outcome::Block(length, self.record(address, now))
    }

    /// Frees `address`; what is to be written down, if it was blocked, or had been and was remembered. It is forgotten: no
    /// return will be held against it.
    pub fn free(&mut self, address: IpAddr, by: By, why: &str, now: Now) -> Option<Record> {
        self.remove(address)?;
        Some(Record { at: now.calendar_at(now.boot), address, what: What::Freed, by, why: why.to_owned() })
    }

    /// Puts `entry` in the place of what is known of `address`, as it was before.
    pub fn put_back(&mut self, address: IpAddr, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.insert(address, entry),
            None => drop(self.remove(address)),
        }
    }

    /// Who is blocked beyond `in_all`: those that would be free first, and of those that are blocked for ever the oldest.
    pub fn beyond(&self, in_all: usize) -> Vec<IpAddr> {
        let count = self.len().saturating_sub(in_all);
        let mut beyond: Vec<IpAddr> = self.ends.iter().take(count).map(|(_, address)| *address).collect();
        if beyond.len() < count {
            let for_ever = self.entries.iter().filter(|(_, entry)| entry.until.is_none());
            let mut for_ever: Vec<(Uptime, IpAddr)> =
                for_ever.map(|(address, entry)| (entry.since, *address)).collect();
            for_ever.sort_unstable();
            beyond.extend(for_ever.iter().take(count - beyond.len()).map(|(_, address)| *address));
        }
        beyond
    }

    /// When somebody is to be freed next.
    pub fn next_end(&self) -> Option<Uptime> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Frees whose time is over and returns them; forgets those whose time was over long ago.
    pub fn pass(&mut self, now: Uptime) -> Vec<IpAddr> {
        let mut freed = Vec::new();
        while let Some(&(until, address)) = self.ends.first()
            && until <= now
        {
            self.ends.pop_first();
            if let Some(mut entry) = self.entries.remove(&address) {
                entry.forgotten = Some(later(until, self.terms.remember));
                self.insert(address, entry);
            }
            freed.push(address);
        }
        self.forget(now);
        freed
    }

    /// Forgets those whose time was over long ago, and those for whom there is no room.
    fn forget(&mut self, now: Uptime) {
        while let Some((_, address)) = self.strangers.first().filter(|(at, _)| *at <= now || self.is_crowded()).copied()
        {
            self.remove(address);
        }
        while let Some((_, address)) =
            self.returners.first().filter(|(at, _)| *at <= now || self.returners.len() > RETURNERS).copied()
        {
            self.remove(address);
        }
    }

    fn is_crowded(&self) -> bool {
        self.strangers.len() + self.returners.len().min(RETURNERS) > REMEMBERED
    }

    /// Who is blocked, in no order.
    pub fn live(&self, now: Uptime) -> impl Iterator<Item = (IpAddr, &Entry)> {
        self.entries.iter().filter(move |(_, entry)| entry.is_live(now)).map(|(&address, entry)| (address, entry))
    }

    /// Who is blocked, or was, as far as that is remembered.
    pub fn known(&self) -> impl Iterator<Item = IpAddr> {
        self.entries.keys().copied()
    }

    pub fn get(&self, address: IpAddr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    /// How many are blocked.
    pub fn len(&self) -> usize {
        self.entries.len() - self.strangers.len() - self.returners.len()
    }

    /// All that is to be in the ledger.
    pub fn records(&self, now: Now) -> Vec<Record> {
        self.entries.keys().map(|&address| self.record(address, now)).collect()
    }

    /// Of an address that is in it.
    fn record(&self, address: IpAddr, now: Now) -> Record {
        let entry = &self.entries[&address];
        let what = What::Blocked { until: entry.until.map(|until| now.calendar_at(until)), times: entry.times };
        Record { at: now.calendar_at(entry.since), address, what, by: entry.by, why: entry.why.clone() }
    }

    fn insert(&mut self, address: IpAddr, entry: Entry) {
        self.remove(address);
        match (entry.forgotten, entry.until) {
            (Some(forgotten), _) if self.is_stranger(&entry) => drop(self.strangers.insert((forgotten, address))),
            (Some(forgotten), _) => drop(self.returners.insert((forgotten, address))),
            (None, Some(until)) => drop(self.ends.insert((until, address))),
            (None, None) => {}
        }
        self.entries.insert(address, entry);
    }

    /// Whether nothing is known of it but one block, no longer than a forged packet costs.
    fn is_stranger(&self, entry: &Entry) -> bool {
        let is_short = match (entry.length(), self.terms.first) {
            (Some(length), Some(first)) => length <= first,
            (_, first) => first.is_none(),
        };
        entry.times <= 1 && is_short
    }

    fn remove(&mut self, address: IpAddr) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        if let Some(forgotten) = entry.forgotten {
            // In one of them; the terms may have changed since.
            self.strangers.remove(&(forgotten, address));
            self.returners.remove(&(forgotten, address));
        } else if let Some(until) = entry.until {
            self.ends.remove(&(until, address));
        }
        Some(entry)
    }
}

fn later(instant: Uptime, by: Duration) -> Uptime {
    instant.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(boot: Uptime) -> Now {
        Now { boot, calendar: boot + 1_800_000_000_000 }
    }

    fn host(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    fn state(terms: Terms) -> State {
        State::new(terms, 0)
    }

    fn length(outcome: Outcome) -> Length {
        match outcome {
            Outcome::Block(length, _) => length,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_source_that_comes_back_stays_longer_and_is_forgotten_in_the_end() {
        let mut state = state(Terms::default());
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        assert_eq!(length(state.catch(host(9), Evidence::Forgeable, "probed", at(0))), minutes(10));
        assert_eq!(state.catch(host(9), Evidence::Forgeable, "probed", at(1)), Outcome::Already(Some(600_000)));
        assert_eq!((state.next_end(), state.pass(599_999), state.len()), (Some(600_000), Vec::new(), 1));
        assert_eq!((state.pass(600_000), state.len(), state.next_end()), (vec![host(9)], 0, None));
        assert_eq!(length(state.catch(host(9), Evidence::Forgeable, "probed", at(DAY))), minutes(24 * 60));
        assert_eq!(state.get(host(9)).map(|entry| entry.times), Some(2));
        assert_eq!(state.pass(2 * DAY), [host(9)]);
        assert!(state.pass(33 * DAY).is_empty());
        assert_eq!((state.get(host(9)), state.records(at(0)).len()), (None, 0));
        assert_eq!(length(state.catch(host(9), Evidence::Forgeable, "probed", at(34 * DAY))), minutes(10));
    }

    #[test]
    fn what_the_ledger_says_is_what_was() {
        let mut before = state(Terms::default());
        for last in 1..=3 {
            before.catch(host(last), Evidence::Connection, "connected", at(0));
        }
        before.ask(host(4), Some(None), By::Hand, "for ever", at(0));
        before.ask(host(5), Some(Some(Duration::from_secs(60))), By::Hand, "a minute", at(0));
        let records = before.records(at(0));
        // A day is nearly over, and the machine was started anew: its clock begins again.
        let now = Now { boot: 5_000, calendar: at(DAY - 10_000).calendar };
        let mut after = state(Terms::default());
        after.restore(&records, now);
        assert_eq!((after.len(), after.next_end()), (4, Some(15_000)));
        let hosts = |state: &State| state.live(5_000).map(|(address, _)| address).collect::<BTreeSet<_>>();
        assert_eq!(hosts(&after), [1, 2, 3, 4].map(host).into());
        assert_eq!(after.get(host(5)).map(|entry| entry.times), Some(1), "one that is over is remembered");
        assert_eq!(after.pass(20_000).len(), 3);
    }

    /// A clock that was a year ahead as the ledger was written, or is now, makes no block longer than it was meant to be.
    #[test]
    fn a_wrong_clock_makes_no_block_longer() {
        let mut before = state(Terms::default());
        before.catch(host(1), Evidence::Connection, "connected", at(0));
        let records = before.records(at(0));
        for wrong in [-400 * DAY, -DAY] {
            let now = Now { boot: 0, calendar: at(0).calendar + wrong };
            let mut after = state(Terms::default());
            after.restore(&records, now);
            assert_eq!(after.next_end(), Some(DAY), "{wrong}");
            let again = after.records(now);
            assert_eq!(again[0].at, Timestamp::from_millisecond(now.calendar).unwrap());
        }
    }

    #[test]
    fn strangers_leave_room_and_rate_to_those_who_insist() {
        let mut state = state(Terms { in_all: 8, per_second: 1, ..Terms::default() });
        let mut number = 0;
        let mut catch = |evidence, now| {
            number += 1;
            state.catch(host(number), evidence, "probed", at(now))
        };
        for _ in 0..4 {
            assert!(matches!(catch(Evidence::Forgeable, 0), Outcome::Block(..)));
        }
        assert_eq!(catch(Evidence::Forgeable, 0), Outcome::Limited(Limit::Strangers(4, 8)));
        for _ in 0..4 {
            assert!(matches!(catch(Evidence::Insistent, 0), Outcome::Block(..)));
        }
        assert_eq!(catch(Evidence::Insistent, 0), Outcome::Limited(Limit::InAll(8)));

        let mut state = super::State::new(Terms { per_second: 1, ..Terms::default() }, 0);
        let outcomes: Vec<_> = (0..11).map(|last| state.catch(host(last), Evidence::Forgeable, "", at(0))).collect();
        assert_eq!(outcomes.last(), Some(&Outcome::Limited(Limit::PerSecond(1))));
        assert!(matches!(state.catch(host(11), Evidence::Insistent, "", at(0)), Outcome::Block(..)));
        assert!(matches!(state.catch(host(10), Evidence::Forgeable, "", at(1_000)), Outcome::Block(..)));
    }

    #[test]
    fn debians_portsentry_is_worth_what_a_packet_is() {
        let mut state = state(Terms::default());
        let by = By::Portsentry;
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        assert_eq!(length(state.ask(host(9), None, by, "probed", at(0))), minutes(10));
        assert_eq!(state.ask(host(9), None, by, "it was restarted", at(1)), Outcome::Already(Some(600_000)));
        assert_eq!(length(state.ask(host(9), None, by, "it came back", at(DAY))), minutes(24 * 60));
        assert_eq!(state.get(host(9)).map(|entry| (entry.by, entry.times)), Some((by, 2)));
    }

    #[test]
    fn by_hand() {
        let mut state = state(Terms { in_all: 1, ..Terms::default() });
        let hour = Some(Duration::from_secs(3_600));
        assert_eq!(length(state.ask(host(1), Some(hour), By::Hand, "I say so", at(0))), hour);
        assert_eq!(state.ask(host(1), None, By::Hand, "an echo", at(10)), Outcome::Already(Some(3_600_000)));
        assert_eq!(length(state.ask(host(1), Some(None), By::Hand, "longer", at(10))), None);
        assert_eq!(state.get(host(1)).map(|entry| entry.times), Some(1), "the same block");
        assert_eq!(state.ask(host(2), None, By::Hand, "no room", at(10)), Outcome::Limited(Limit::InAll(1)));
        assert!(matches!(
            state.ask(host(1), None, By::Fail2ban, "an echo of what blocked it", at(10)),
            Outcome::Already(None)
        ));
        let record = state.free(host(1), By::Hand, "a mistake", at(20)).expect("it was blocked");
        assert_eq!((record.what, state.len(), state.get(host(1))), (What::Freed, 0, None));
        assert_eq!(state.free(host(1), By::Hand, "again", at(20)), None);

        // One whose time is over is forgotten as well, which is to be written down.
        state.ask(host(1), Some(hour), By::Hand, "I say so", at(20));
        assert_eq!(state.pass(3_600_020), [host(1)]);
        let record = state.free(host(1), By::Hand, "forget it", at(3_600_030)).expect("it was remembered");
        assert_eq!((record.what, state.get(host(1))), (What::Freed, None));
    }

    #[test]
    fn of_those_that_are_free_so_many_are_remembered() {
        let mut state = state(Terms { per_second: 1_000_000, in_all: 1_000_000, ..Terms::default() });
        let many = u32::try_from(REMEMBERED).unwrap() + 10;
        for number in 0..many {
            state.catch(numbered(number), Evidence::Forgeable, "", at(i64::from(number)));
        }
        assert_eq!(state.pass(DAY).len(), many as usize);
        assert_eq!(state.entries.len(), REMEMBERED);
        assert!(state.get(numbered(0)).is_none() && state.get(numbered(many - 1)).is_some());
    }

    fn numbered(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    /// A host that came back is known when it comes again, however many forged sources came once in between.
    #[test]
    fn strangers_do_not_push_returners_out_of_the_memory() {
        let mut state = state(Terms { per_second: 1_000_000, in_all: 1_000_000, ..Terms::default() });
        let scanner = host(9);
        state.catch(scanner, Evidence::Forgeable, "", at(0));
        state.pass(600_000);
        state.catch(scanner, Evidence::Forgeable, "", at(700_000));
        let over = 700_000 + DAY;
        assert_eq!(state.pass(over), [scanner]);
        let many = u32::try_from(REMEMBERED).unwrap() + 10;
        (0..many).for_each(|number| drop(state.catch(numbered(number), Evidence::Forgeable, "", at(over))));
        state.pass(over + DAY);
        assert_eq!((state.entries.len(), state.len()), (REMEMBERED, 0));
        let twice = Some(Duration::from_secs(2 * 86_400));
        assert_eq!(length(state.catch(scanner, Evidence::Forgeable, "", at(over + DAY))), twice);
    }

    /// Those who came back leave room for whoever came for the first time.
    #[test]
    fn returners_leave_room_for_strangers() {
        let mut state = state(Terms { per_second: 1_000_000, in_all: 1_000_000, ..Terms::default() });
        let many = u32::try_from(REMEMBERED).unwrap() + 10;
        (0..many).for_each(|number| drop(state.catch(numbered(number), Evidence::Connection, "", at(number.into()))));
        state.pass(2 * DAY);
        assert_eq!(state.entries.len(), RETURNERS);
        assert!(state.get(numbered(0)).is_none() && state.get(numbered(many - 1)).is_some());
        state.catch(host(9), Evidence::Forgeable, "", at(2 * DAY));
        state.pass(3 * DAY);
        assert_eq!(state.get(host(9)).map(|entry| entry.times), Some(1));
    }

    #[test]
    fn fewer_than_are_blocked_leave_those_that_stay_longest() {
        let mut state = state(Terms::default());
        for last in 1..=4 {
            state.ask(host(last), Some(Some(Duration::from_secs(last.into()))), By::Hand, "", at(0));
        }
        state.ask(host(5), Some(None), By::Hand, "", at(0));
        state.ask(host(6), Some(None), By::Hand, "", at(1));
        assert_eq!(state.beyond(6), [] as [IpAddr; 0]);
        assert_eq!(state.beyond(3), [1, 2, 3].map(host));
        assert_eq!(state.beyond(1), [1, 2, 3, 4, 5].map(host));
    }

    /// What the kernel refused changes nothing of what was known.
    #[test]
    fn what_was_decided_can_be_taken_back() {
        let mut state = state(Terms::default());
        state.catch(host(1), Evidence::Forgeable, "", at(0));
        state.catch(host(2), Evidence::Forgeable, "", at(0));
        state.pass(600_000);
        state.ask(host(1), None, By::Hand, "", at(700_000));
        let seen = |state: &State| {
            let mut entries: Vec<_> = state.entries.clone().into_iter().collect();
            entries.sort_by_key(|(address, _)| *address);
            (entries, state.ends.clone(), state.strangers.clone(), state.returners.clone())
        };
        let before = seen(&state);
        for address in [1, 2, 3].map(host) {
            let entry = state.get(address).cloned();
            state.ask(address, Some(None), By::Hand, "", at(800_000));
            state.put_back(address, entry);
            assert_eq!(seen(&state), before, "{address}");
        }
    }

    /// fail2ban reads the history, which anyone can have a line of, and reads it again after a stop of its own.
    #[test]
    fn a_ban_is_worth_what_a_packet_is() {
        let mut state = state(Terms { in_all: 4, ..Terms::default() });
        let first = Some(Duration::from_secs(600));
        assert_eq!(length(state.ask(host(1), None, By::Fail2ban, "jail", at(0))), first);
        state.pass(600_000);
        assert_eq!(state.ask(host(1), None, By::Fail2ban, "late", at(700_000)), Outcome::Already(Some(600_000)));
        assert_eq!((state.len(), state.get(host(1)).map(|entry| entry.times)), (0, Some(1)));
        state.ask(host(2), None, By::Fail2ban, "jail", at(700_000));
        state.ask(host(3), None, By::Fail2ban, "jail", at(700_000));
        let limited = Outcome::Limited(Limit::Strangers(2, 4));
        assert_eq!(state.ask(host(4), None, By::Fail2ban, "jail", at(700_000)), limited);
        assert!(matches!(state.ask(host(4), None, By::Hand, "", at(700_000)), Outcome::Block(..)));
        assert!(limit_of_a_second(&mut super::State::new(Terms { per_second: 1, ..Terms::default() }, 0)));
    }

    fn limit_of_a_second(state: &mut State) -> bool {
        (0..11).any(|number| {
            state.ask(numbered(number), None, By::Fail2ban, "", at(0)) == Outcome::Limited(Limit::PerSecond(1))
        })
    }
}
