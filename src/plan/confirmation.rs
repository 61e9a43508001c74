//! `apply --confirm-within`: whether a run is to be confirmed, and whether somebody did.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use crate::host::uptime;

use super::journal::{Journal, Record};
use super::runs::{Run, RunState};

/// What was asked of a run, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It stays without.
    Unasked,
    /// Unless somebody confirms it until then, it is taken back. `until` is for people, `uptime` decides.
    Awaited {
        until: Timestamp,
        uptime: Duration,
        within: Duration,
    },
    Given,
    /// Nobody did in time: it is taken back, or is about to be.
    Missed,
}

impl Confirmation {
    fn of(records: &[Record]) -> Confirmation {
        let last = records.iter().rev().find_map(|record| match record {
            Record::AwaitsConfirmation { until, uptime, within } => Some(Confirmation::Awaited {
                until: *until,
                uptime: Duration::from_millis(*uptime),
                within: Duration::from_secs(*within),
            }),
            Record::Confirmed { .. } => Some(Confirmation::Given),
            Record::Unconfirmed { .. } => Some(Confirmation::Missed),
            _ => None,
        });
        last.unwrap_or(Confirmation::Unasked)
    }

    /// How long there still is at `now`, as [`uptime`] says; `None` where the time is over. Never longer than was asked
    /// for: a boot sets that clock back.
    pub fn time_left(self, now: Duration) -> Option<Duration> {
        let Confirmation::Awaited { uptime, within, .. } = self else { return None };
        let left = uptime.saturating_sub(now);
        (!left.is_zero()).then(|| left.min(within))
    }
}

impl Run {
    /// Whether it is to be confirmed.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::of(&self.records)
    }

    /// Until when that has to be, if it is to be.
    pub fn confirm_by(&self) -> Option<Timestamp> {
        match self.confirmation() {
            Confirmation::Awaited { until, .. } if self.state() != RunState::Undone => Some(until),
            _ => None,
        }
    }

    /// Gives all of `within` from now on.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn await_confirmation(&self, within: Duration) -> Result<()> {
        self.add(&awaiting(within))
    }

    /// Notes that somebody confirmed it.
    ///
    /// # Errors
    /// The journal cannot be written; then it is not confirmed.
    pub fn confirm(&self) -> Result<()> {
        self.add(&Record::Confirmed { at: Timestamp::now().to_string() })
    }

    /// Notes that nobody did. From then on nobody can.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn miss(&self) -> Result<()> {
        self.add(&Record::Unconfirmed { at: Timestamp::now().to_string() })
    }

    fn add(&self, record: &Record) -> Result<()> {
        Journal::open(&self.directory)?.add(record)
    }
}

/// The record that says until when.
pub fn awaiting(within: Duration) -> Record {
    let now = Timestamp::now();
    let until = SignedDuration::try_from(within).ok().and_then(|within| now.checked_add(within).ok());
    let uptime = (uptime() + within).as_millis().try_into().unwrap_or(u64::MAX);
    Record::AwaitsConfirmation { until: until.unwrap_or(now), uptime, within: within.as_secs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn awaits(until: &str) -> Record {
        Record::AwaitsConfirmation { until: at(until), uptime: 1_000_500, within: 60 }
    }

    #[test]
    fn the_last_word_about_a_confirmation_counts() {
        let started = Record::Finished { at: String::new() };
        let (first, second) = (awaits("2026-11-27T12:01:00Z"), awaits("2026-11-27T12:05:00Z"));
        let uptime = Duration::from_millis(1_000_500);
        let awaited = Confirmation::Awaited { until: at("2026-11-27T12:05:00Z"), uptime, within: MINUTE };
        let confirmed = Record::Confirmed { at: String::new() };
        let missed = Record::Unconfirmed { at: String::new() };
        assert_eq!(Confirmation::of(std::slice::from_ref(&started)), Confirmation::Unasked);
        let mut records = vec![first, started, second];
        assert_eq!(Confirmation::of(&records), awaited);
        records.push(missed);
        assert_eq!(Confirmation::of(&records), Confirmation::Missed);
        records.pop();
        records.push(confirmed);
        assert_eq!(Confirmation::of(&records), Confirmation::Given);
    }

    #[test]
    fn the_time_ends_by_the_clock_that_nobody_sets_and_a_boot_makes_it_no_longer() {
        let Confirmation::Awaited { until, within, .. } = Confirmation::of(&[awaits("2000-01-01T00:00:00Z")]) else {
            panic!("it waits")
        };
        let awaited = Confirmation::Awaited { until, uptime: Duration::from_secs(1_000), within };
        assert_eq!(awaited.time_left(Duration::from_secs(990)), Some(Duration::from_secs(10)));
        assert_eq!(awaited.time_left(Duration::from_secs(3)), Some(MINUTE));
        for over in [1_000, 1_001, 90_000] {
            assert_eq!(awaited.time_left(Duration::from_secs(over)), None, "{over}");
        }
        assert_eq!(Confirmation::Missed.time_left(Duration::ZERO), None);
    }

    #[test]
    fn the_time_begins_when_it_is_written_down() {
        let (before, then) = (Timestamp::now(), uptime());
        let Record::AwaitsConfirmation { until, uptime: end, within } = awaiting(MINUTE) else {
            panic!("another record")
        };
        let begun = Duration::from_millis(end) - MINUTE + Duration::from_millis(1);
        assert!(then <= begun && begun <= uptime() + Duration::from_millis(1), "{end}");
        let from = until.checked_sub(SignedDuration::from_secs(60)).unwrap();
        assert!(before <= from && from <= Timestamp::now() && within == 60, "{until}");
    }
}
