//! Who is blocked, in memory: takes the time as an argument, touches neither the kernel nor a file.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::clock::{Instant, Now};
use super::record::{By, Record, What};
use super::terms::{Bucket, Evidence, Length, Terms};

/// Addresses that are remembered beside those that are blocked, so that whoever comes back is known.
const REMEMBERED: usize = 65_536;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub since: Instant,
    /// `None` is for ever.
    pub until: Option<Instant>,
    pub times: u32,
    pub by: By,
    pub why: String,
    /// When it is forgotten; `None` as long as it is blocked.
    forgotten: Option<Instant>,
}

impl Entry {
    fn new(since: Instant, until: Option<Instant>, times: u32, by: By, why: &str) -> Entry {
        Entry { since, until, times, by, why: why.to_owned(), forgotten: None }
    }

    fn length(&self) -> Length {
        self.until.map(|until| Duration::from_millis(u64::try_from(until - self.since).unwrap_or(0)))
    }

    /// Whether it is blocked at `now`.
    pub fn is_live(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// How long it is still to be blocked.
    pub fn stay(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| Duration::from_millis(u64::try_from(until - now).unwrap_or(0)))
    }
}

/// What came of a wish to block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is to be blocked for so long, and this is to be written down.
    Block(Length, Record),
    /// It is blocked already, until then at least.
    Already(Option<Instant>),
    /// There are too many: of new blocks in this second, or of all.
    Limited(Limit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    PerSecond(u32),
    InAll(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::PerSecond(limit) => write!(out, "there are more than {limit} new blocks a second"),
            Limit::InAll(limit) => write!(out, "{limit} hosts are blocked, and no more may be"),
        }
    }
}

/// All addresses.
#[derive(Debug)]
pub struct State {
    terms: Terms,
    entries: HashMap<IpAddr, Entry>,
    /// When those that are blocked, and not for ever, are to be freed.
    ends: BTreeSet<(Instant, IpAddr)>,
    /// When those that were blocked are to be forgotten.
    remembered: BTreeSet<(Instant, IpAddr)>,
    /// New blocks of sources that were seen once, and of others.
    strangers: Bucket,
    others: Bucket,
}

impl State {
    pub fn new(terms: Terms, now: Instant) -> State {
        State {
            terms,
            entries: HashMap::new(),
            ends: BTreeSet::new(),
            remembered: BTreeSet::new(),
            strangers: Bucket::full(terms.per_second, now),
            others: Bucket::full(terms.per_second, now),
        }
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
    pub fn adopt(&mut self, address: IpAddr, stay: Length, now: Now) -> Record {
        let until = stay.map(|stay| later(now.boot, stay));
        self.insert(address, Entry::new(now.boot, until, 1, By::Kernel, "found in the kernel's sets"));
        self.record(address, now)
    }

    /// A source that was caught: blocked for the term that it has earned.
    pub fn catch(&mut self, address: IpAddr, evidence: Evidence, why: &str, now: Now) -> Outcome {
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
        self.block(address, length, By::Daemon, why, now)
    }

    /// Strangers, whom anyone can forge, leave half of the room to others.
    fn limit(&mut self, is_stranger: bool, now: Instant) -> Option<Limit> {
        let live = self.len();
        let (bucket, room) = match is_stranger {
            true => (&mut self.strangers, self.terms.in_all / 2),
            false => (&mut self.others, self.terms.in_all),
        };
        if live >= room {
            Some(Limit::InAll(self.terms.in_all))
        } else if !bucket.take(self.terms.per_second, now) {
            Some(Limit::PerSecond(self.terms.per_second))
        } else {
            None
        }
    }

    /// Somebody, or fail2ban, wants `address` blocked for `length`, or, with `None`, for the term that it has earned.
    /// Without a length one that is blocked stays as it is: the wish is an echo of what blocked it.
    pub fn ask(&mut self, address: IpAddr, length: Option<Length>, by: By, why: &str, now: Now) -> Outcome {
        let known = self.entries.get(&address);
        let live = known.filter(|entry| entry.is_live(now.boot));
        match (length, live) {
            (None, Some(entry)) => return Outcome::Already(entry.until),
            (_, None) if self.len() >= self.terms.in_all => return Outcome::Limited(Limit::InAll(self.terms.in_all)),
            _ => {}
        }
        // A line of the history is worth what the packet was.
        let evidence = if by == By::Fail2ban { Evidence::Insistent } else { Evidence::Connection };
        let length = length.unwrap_or_else(|| self.terms.next(known.map(Entry::length), evidence));
        self.block(address, length, by, why, now)
    }

    fn block(&mut self, address: IpAddr, length: Length, by: By, why: &str, now: Now) -> Outcome {
        let known = self.entries.get(&address);
        let again = known.is_some_and(|entry| entry.is_live(now.boot));
        let times = known.map_or(0, |entry| entry.times).saturating_add(u32::from(!again));
        let until = length.map(|length| later(now.boot, length));
        self.insert(address, Entry::new(now.boot, until, times, by, why));
        Outcome::Block(length, self.record(address, now))
    }

    /// Frees `address`; what is to be written down, if it was blocked. It is forgotten: no return will be held against it.
    pub fn free(&mut self, address: IpAddr, why: &str, now: Now) -> Option<Record> {
        let entry = self.remove(address)?;
        entry.is_live(now.boot).then(|| Record {
            at: now.calendar_at(now.boot),
            address,
            what: What::Freed,
            by: By::Hand,
            why: why.to_owned(),
        })
    }

    /// When somebody is to be freed next.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Frees whose time is over and returns them; forgets those whose time was over long ago.
    pub fn pass(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut freed = Vec::new();
        while let Some(&(until, address)) = self.ends.first()
            && until <= now
        {
            self.ends.pop_first();
            if let Some(entry) = self.entries.get_mut(&address) {
                let forgotten = later(until, self.terms.remember);
                entry.forgotten = Some(forgotten);
                self.remembered.insert((forgotten, address));
            }
            freed.push(address);
        }
        while let Some(&(forgotten, address)) = self.remembered.first()
            && (forgotten <= now || self.remembered.len() > REMEMBERED)
        {
            self.remembered.pop_first();
            self.entries.remove(&address);
        }
        freed
    }

    /// Who is blocked, in no order.
    pub fn live(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &Entry)> {
        self.entries.iter().filter(move |(_, entry)| entry.is_live(now)).map(|(&address, entry)| (address, entry))
    }

    pub fn get(&self, address: IpAddr) -> Option<&Entry> {
        self.entries.get(&address)
    }

    /// How many are blocked.
    pub fn len(&self) -> usize {
        self.entries.len() - self.remembered.len()
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
        if let Some(until) = entry.until {
            self.ends.insert((until, address));
        }
        self.entries.insert(address, entry);
    }

    fn remove(&mut self, address: IpAddr) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        if let Some(forgotten) = entry.forgotten {
            self.remembered.remove(&(forgotten, address));
        } else if let Some(until) = entry.until {
            self.ends.remove(&(until, address));
        }
        Some(entry)
    }
}

fn later(instant: Instant, by: Duration) -> Instant {
    instant.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(boot: Instant) -> Now {
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
        assert_eq!(catch(Evidence::Forgeable, 0), Outcome::Limited(Limit::InAll(8)));
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
        let record = state.free(host(1), "a mistake", at(20)).expect("it was blocked");
        assert_eq!((record.what, state.len(), state.get(host(1))), (What::Freed, 0, None));
        assert_eq!(state.free(host(1), "again", at(20)), None);
    }

    #[test]
    fn of_those_that_are_free_so_many_are_remembered() {
        let mut state = state(Terms { per_second: 1_000_000, in_all: 1_000_000, ..Terms::default() });
        let host = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number));
        let many = u32::try_from(REMEMBERED).unwrap() + 10;
        for number in 0..many {
            state.catch(host(number), Evidence::Forgeable, "", at(i64::from(number)));
        }
        assert_eq!(state.pass(DAY).len(), many as usize);
        assert_eq!(state.entries.len(), REMEMBERED);
        assert!(state.get(host(0)).is_none() && state.get(host(many - 1)).is_some());
    }
}
