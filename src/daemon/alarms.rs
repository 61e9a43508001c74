//! What is wrong, said once in a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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
