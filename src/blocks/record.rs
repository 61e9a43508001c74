//! A line of the ledger: who was blocked or freed, when, until when, by whom and why.
//!
//! ```text
//! 5a0c7f13 2026-11-27T06:12:00Z block 203.0.113.9 2026-11-28T06:12:00Z 2 daemon probed tcp/23
//! 90f1ab62 2026-11-27T07:00:00Z unblock 203.0.113.9 - - hand a mistake
//! ```
//!
//! The first word is the CRC-32 (ISO 3309) of everything behind the blank that follows it, in hex.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;

/// Longer reasons are cut.
pub const WHY: usize = 200;

/// Who wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The embedded portsentry.
    Daemon,
    /// Somebody who typed it.
    Hand,
    /// Debian's portsentry, by KILL_ROUTE.
    Portsentry,
    /// fail2ban, whose jail read the history.
    Fail2ban,
    /// Nobody knows: it was found in the kernel's sets.
    Kernel,
}

const NAMES: [(By, &str); 5] = [
    (By::Daemon, "daemon"),
    (By::Hand, "hand"),
    (By::Portsentry, "portsentry"),
    (By::Fail2ban, "fail2ban"),
    (By::Kernel, "kernel"),
];

impl fmt::Display for By {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(NAMES.iter().find(|(by, _)| by == self).map_or("", |(_, name)| name))
    }
}

/// What happened to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whole seconds.
    pub at: Timestamp,
    pub address: IpAddr,
    pub what: What,
    pub by: By,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Blocked {
        /// Whole seconds; `None` is for ever.
        until: Option<Timestamp>,
        /// How often by now, this time included.
        times: u32,
    },
    Freed,
}

/// A text in one line, without what a terminal would obey.
pub fn printable(text: &str) -> String {
    let letters: String = text
        .chars()
        .filter_map(|letter| match letter {
            _ if letter.is_whitespace() => Some(' '),
            _ => (!letter.is_control()).then_some(letter),
        })
        .collect();
    letters.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A reason: printable, and not too long.
pub fn cleaned(why: &str) -> String {
    let mut why = printable(why);
    while why.len() > WHY {
        why.pop();
    }
    why.truncate(why.trim_end().len());
    why
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { at, address, what, by, why } = self;
        let line = match what {
            What::Blocked { until, times } => {
                let until = until.map_or("forever".to_owned(), |until| until.to_string());
                format!("{at} block {address} {until} {times} {by} {why}")
            }
            What::Freed => format!("{at} unblock {address} - - {by} {why}"),
        };
        write!(out, "{:08x} {line}", crc32fast::hash(line.as_bytes()))
    }
}

impl FromStr for Record {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Record, &'static str> {
        let (sum, rest) = line.split_once(' ').ok_or("it has no checksum")?;
        let sum = u32::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 8).ok_or("it has no checksum")?;
        if sum != crc32fast::hash(rest.as_bytes()) {
            return Err("its checksum does not fit");
        }
        let mut words = rest.splitn(7, ' ');
        let mut next = || words.next().ok_or("a word is missing");
        let time = |word: &str| word.parse::<Timestamp>().map_err(|_| "a time cannot be read");
        let at = time(next()?)?;
        let verb = next()?;
        let address = next()?.parse().map_err(|_| "the address cannot be read")?;
        let (until, times, by) = (next()?, next()?, next()?);
        let what = match verb {
            "block" => What::Blocked {
                until: if until == "forever" { None } else { Some(time(until)?) },
                times: times.parse().map_err(|_| "a number cannot be read")?,
            },
            "unblock" => What::Freed,
            _ => return Err("it neither blocks nor frees"),
        };
        let by = NAMES.iter().find(|(_, name)| *name == by).ok_or("nobody knows by whom")?.0;
        // Who wrote it may be somebody who took the daemon over.
        Ok(Record { at, address, what, by, why: cleaned(words.next().unwrap_or_default()) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(number: i64) -> Timestamp {
        Timestamp::from_second(number).expect("a second of this millennium")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            at in 0_i64..4_000_000_000,
            until in proptest::option::of(0_i64..4_000_000_000),
            octets: [u8; 16],
            is_ipv6: bool,
            times: u32,
            why: String,
        ) {
            let address = if is_ipv6 { IpAddr::from(octets) } else { IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) };
            let what = What::Blocked { until: until.map(second), times };
            let record = Record { at: second(at), address, what, by: By::Daemon, why: cleaned(&why) };
            prop_assert_eq!(cleaned(&record.why), record.why.clone());
            let line = record.to_string();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(line.parse::<Record>(), Ok(record));
        }

        #[test]
        fn no_line_is_too_strange(line: String) {
            let _ = line.parse::<Record>();
        }
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_read() {
        let rest = "2026-11-27T06:12:00Z unblock 203.0.113.9 - - hand \u{1b}[2J\u{9b}1m a\ttest";
        let record: Record = format!("{:08x} {rest}", crc32fast::hash(rest.as_bytes())).parse().unwrap();
        assert_eq!(record.why, "[2J1m a test");
        assert_eq!(printable("two\n lines \u{7}"), "two lines");
    }

    #[test]
    fn a_line_that_was_changed_is_none() {
        let record = Record {
            at: second(1_000),
            address: [203, 0, 113, 9].into(),
            what: What::Freed,
            by: By::Hand,
            why: "a mistake".to_owned(),
        };
        let line = record.to_string();
        assert_eq!(line.parse(), Ok(record));
        assert!(line.replace("113", "114").parse::<Record>().is_err());
        assert!(line[..line.len() - 1].parse::<Record>().is_err());
    }
}
