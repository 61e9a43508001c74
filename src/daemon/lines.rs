//! The lines of both generations, byte for byte as they write them. Measured with 1.2-14+b1 and 2.0.7-1.

use std::cell::RefCell;
use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::decide::{Reaction, Scan};
use super::output::Parcel;
use super::probe::Kind;
use crate::syntax::Dialect;

/// A name from DNS, cleaned: it cannot end a line, close a bracket or quote, or play tricks with a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Letters, digits, dots, dashes and underscores of `raw`, 255 at most; `None` if nothing is left or if it reads as
    /// an address, which only an attacker would call himself.
    pub fn clean(raw: &str) -> Option<HostName> {
        let kept: String =
            raw.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter)).take(255).collect();
        let is_name = !kept.is_empty() && kept.parse::<std::net::IpAddr>().is_err();
        is_name.then_some(HostName(kept))
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// Writes lines for one generation, in local time.
#[derive(Debug, Clone)]
pub struct Lines {
    dialect: Dialect,
    zone: TimeZone,
    /// The millisecond that was written last, and how. In a flood hundreds of lines share one.
    stamp: RefCell<(i64, String)>,
}

impl Lines {
    pub fn new(dialect: Dialect) -> Lines {
        Lines::in_zone(dialect, TimeZone::system())
    }

    fn in_zone(dialect: Dialect, zone: TimeZone) -> Lines {
        Lines { dialect, zone, stamp: RefCell::new((i64::MIN, String::new())) }
    }

    /// Appends to `out` what is logged of `scan` itself, without a newline.
    fn logged(&self, scan: &Scan, name: Option<&HostName>, out: &mut String) {
        match self.dialect {
            Dialect::V1 => {
                let (kind, host) = (first_kind(scan.probe.kind), host(scan, name));
                for part in
                    ["attackalert: ", &kind, " from host: ", &host, " to ", scan.probe.kind.protocol(), " port: "]
                {
                    out.push_str(part);
                }
                push(out, scan.probe.port);
            }
            Dialect::V2 => second(scan, name, out),
        }
    }

    /// That a host was blocked before.
    fn already_blocked(&self, scan: &Scan, name: Option<&HostName>) -> String {
        match (self.dialect, scan.probe.kind) {
            (Dialect::V1, Kind::ConnectTcp | Kind::ConnectUdp) => {
                format!("attackalert: Host: {} is already blocked. Ignoring", scan.probe.source)
            }
            _ => format!("attackalert: Host: {} is already blocked Ignoring", host(scan, name)),
        }
    }

    /// That the configuration says to log only; 1.2 alone says so.
    pub fn only_logged(&self, scan: &Scan) -> String {
        format!("attackalert: Ignoring {} response per configuration file setting.", scan.probe.kind.protocol())
    }

    /// Appends to `out` the line of the history with its newline, or nothing where this generation writes none. `logged`
    /// is what [`Lines::logged`] says of the same scan.
    fn history(&self, scan: &Scan, name: Option<&HostName>, at: Timestamp, logged: &str, out: &mut String) {
        if self.dialect == Dialect::V1 && !matches!(scan.reaction, Reaction::Block(_)) {
            return;
        }
        let mut stamp = self.stamp.borrow_mut();
        if stamp.0 != at.as_millisecond() {
            let local = at.to_zoned_datetime(self.zone.clone());
            let text = match self.dialect {
                Dialect::V1 => local.strftime("%s - %m/%d/%Y %H:%M:%S Host: "),
                Dialect::V2 => local.strftime("%Y-%m-%dT%H:%M:%S%.3f%z "),
            };
            *stamp = (at.as_millisecond(), text.to_string());
        }
        out.push_str(&stamp.1);
        match self.dialect {
            Dialect::V1 => {
                for part in [&host(scan, name), " Port: "] {
                    out.push_str(part);
                }
                push(out, scan.probe.port);
                for part in [" ", scan.probe.kind.protocol(), " Blocked\n"] {
                    out.push_str(part);
                }
            }
            Dialect::V2 => {
                out.push_str(logged);
                out.push('\n');
            }
        }
    }

    /// Appends to `parcel` all that is written of a scan: `done` is what was done about it, `record` what the blocked file
    /// gets.
    pub fn tell(
        &self,
        scan: &Scan,
        name: Option<&HostName>,
        at: Timestamp,
        done: &[String],
        record: &[u8],
        parcel: &mut Parcel,
    ) {
        // 1.2 logs the scan first, 2.0 last.
        let first = self.dialect == Dialect::V1;
        if !first {
            self.tell_done(scan, name, done, parcel);
        }
        let start = parcel.log.len();
        parcel.scans.push((start, *scan));
        self.logged(scan, name, &mut parcel.log);
        let written = parcel.history.len();
        self.history(scan, name, at, &parcel.log[start..], &mut parcel.history);
        parcel.log.push('\n');
        if first {
            self.tell_done(scan, name, done, parcel);
            parcel.blocked.extend_from_slice(&parcel.history.as_bytes()[written..]);
        } else {
            parcel.blocked.extend_from_slice(record);
        }
    }

    fn tell_done(&self, scan: &Scan, name: Option<&HostName>, done: &[String], parcel: &mut Parcel) {
        done.iter().for_each(|line| parcel.say(line));
        if scan.reaction == Reaction::AlreadyBlocked {
            parcel.say(&self.already_blocked(scan, name));
        }
    }
}

/// Appends what `value` looks like; to a string that cannot fail.
fn push(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

/// `NAME/ADDRESS`.
fn host(scan: &Scan, name: Option<&HostName>) -> String {
    let address = scan.probe.source;
    match name {
        Some(HostName(name)) => format!("{name}/{address}"),
        None => format!("{address}/{address}"),
    }
}

/// 1.2's name of a kind; its NULL scan has a blank too many.
fn first_kind(kind: Kind) -> String {
    match kind {
        Kind::Udp => "UDP scan".to_owned(),
        Kind::Tcp(0) => " TCP NULL scan".to_owned(),
        other => other.to_string(),
    }
}

/// One line in many thousands a second: put together from parts whose lengths the compiler knows, the address written
/// once.
fn second(scan: &Scan, name: Option<&HostName>, out: &mut String) {
    let Scan { probe, .. } = scan;
    out.push_str("Scan from: [");
    let start = out.len();
    push(out, probe.source);
    let end = out.len();
    out.push_str("] (");
    match name {
        Some(HostName(name)) => out.push_str(name),
        None => out.extend_from_within(start..end),
    }
    out.push_str(") protocol: [");
    out.push_str(probe.kind.protocol());
    out.push_str("] port: [");
    push(out, probe.port);
    out.push_str("] type: [");
    push(out, probe.kind);
    out.push_str("] IP opts: [");
    push(out, probe.ip_options);
    out.push_str(if scan.ignored { "] ignored: [true] triggered: [" } else { "] ignored: [false] triggered: [" });
    out.push_str(scan.triggered.name());
    out.push_str("] noblock: [");
    out.push_str(scan.noblock.name());
    out.push_str("] blocked: [");
    out.push_str(scan.blocked.name());
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::super::config::Block;
    use super::super::decide::{Rule, Word};
    use super::super::probe::{IpOptions, Probe, SYN};
    use super::*;

    fn scan(kind: Kind, reaction: Reaction) -> Scan {
        let probe = Probe {
            source: [203, 0, 113, 9].into(),
            destination: [192, 168, 66, 1].into(),
            port: 11,
            kind,
            ip_options: IpOptions::NotSet,
        };
        Scan {
            probe,
            ignored: false,
            triggered: Word::True,
            noblock: Word::False,
            blocked: Word::True,
            reaction,
            rule: Rule::FirstProbe,
            insists: false,
        }
    }

    fn lines(dialect: Dialect) -> Lines {
        Lines::in_zone(dialect, TimeZone::UTC)
    }

    fn logged(dialect: Dialect, scan: &Scan) -> String {
        let mut out = String::new();
        lines(dialect).logged(scan, None, &mut out);
        out
    }

    fn history(dialect: Dialect, scan: &Scan, name: Option<&HostName>, at: Timestamp) -> String {
        let mut out = String::new();
        lines(dialect).history(scan, name, at, &logged(dialect, scan), &mut out);
        out
    }

    #[test]
    fn as_2_0_7_wrote_them() {
        let scan = scan(Kind::Tcp(SYN), Reaction::Block(Block::Yes));
        let line = "Scan from: [203.0.113.9] (203.0.113.9) protocol: [TCP] port: [11] type: [TCP SYN/Normal scan] IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]";
        assert_eq!(logged(Dialect::V2, &scan), line);
        let at = "2026-11-25T04:08:22.850Z".parse().unwrap();
        let history = history(Dialect::V2, &scan, None, at);
        assert_eq!(history, format!("2026-11-25T04:08:22.850+0000 {line}\n"));
        assert_eq!(
            lines(Dialect::V2).already_blocked(&scan, None),
            "attackalert: Host: 203.0.113.9/203.0.113.9 is already blocked Ignoring"
        );
    }

    #[test]
    fn as_1_2_wrote_them() {
        let blocked = Reaction::Block(Block::Yes);
        for (kind, wanted) in [
            (Kind::Tcp(SYN), "attackalert: TCP SYN/Normal scan from host: 203.0.113.9/203.0.113.9 to TCP port: 11"),
            (Kind::Tcp(0), "attackalert:  TCP NULL scan from host: 203.0.113.9/203.0.113.9 to TCP port: 11"),
            (Kind::Udp, "attackalert: UDP scan from host: 203.0.113.9/203.0.113.9 to UDP port: 11"),
            (Kind::ConnectUdp, "attackalert: Connect from host: 203.0.113.9/203.0.113.9 to UDP port: 11"),
        ] {
            assert_eq!(logged(Dialect::V1, &scan(kind, blocked)), wanted);
        }
        let at = Timestamp::from_second(1_795_579_778).unwrap();
        let name = HostName::clean("evil.example");
        assert_eq!(
            history(Dialect::V1, &scan(Kind::Tcp(SYN), blocked), name.as_ref(), at),
            "1795579778 - 11/25/2026 04:09:38 Host: evil.example/203.0.113.9 Port: 11 TCP Blocked\n"
        );
        assert_eq!(history(Dialect::V1, &scan(Kind::Tcp(SYN), Reaction::AlreadyBlocked), None, at), "");
    }

    #[test]
    fn a_name_cannot_be_more_than_a_name() {
        assert_eq!(HostName::clean("a) b\nc/d]\u{1b}[2J.example"), Some(HostName("abcd2J.example".to_owned())));
        for raw in ["", "\n", "198.51.100.7", "(198.51.100.7)"] {
            assert_eq!(HostName::clean(raw), None, "{raw:?}");
        }
    }
}
