//! The lines in which a portsentry, of either generation, says whom it caught.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

/// 1.2: `EPOCH - DATE TIME Host: NAME/ADDRESS Port: N PROTOCOL Blocked`. The name is the attacker's, so the
/// address is read from the end.
static FIRST: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^\d+ - \S+ \S+ Host: .*/([0-9a-fA-F.:]+) Port: \d+ (?:TCP|UDP) Blocked$").ok());
/// 2.0: `TIME Scan from: [ADDRESS] (NAME) protocol: …`, the address first.
static SECOND: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\S+ Scan from: \[([0-9a-fA-F.:]+)\] \(").ok());

/// The address of a history line, and its name, if it has one: the attacker's own words, as they stand there.
pub fn name(line: &str) -> Option<(IpAddr, &str)> {
    let address = address(line)?;
    let text = match line.split_once(" Scan from: [") {
        Some((_, rest)) => rest.split_once("] (")?.1.split_once(") protocol: ")?.0,
        None => line.split_once(" Host: ")?.1.rsplit_once('/')?.0,
    };
    let is_name = !text.is_empty() && text != "unknown" && text.parse::<IpAddr>().is_err();
    is_name.then_some((address, text))
}

/// The address that a history line is about; `None` for any other line.
pub fn address(line: &str) -> Option<IpAddr> {
    [&FIRST, &SECOND].into_iter().find_map(|form| form.as_ref()?.captures(line)?.get(1)?.as_str().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_were_looked_up() {
        for (line, wanted) in [
            (
                "1795532234 - 11/24/2026 14:57:14 Host: scan.example/203.0.113.9 Port: 111 TCP Blocked",
                Some("scan.example"),
            ),
            ("1795532234 - 11/24/2026 14:57:14 Host: 203.0.113.9/203.0.113.9 Port: 111 TCP Blocked", None),
            (
                "2026-11-24T15:48:24.242+0000 Scan from: [fd66::9] (a\u{1b}[2Jb) protocol: [TCP] port: [1]",
                // Whoever shows it takes that out.
                Some("a\u{1b}[2Jb"),
            ),
            ("2026-11-24T15:48:24.242+0000 Scan from: [fd66::9] (fd66::9) protocol: [TCP] port: [1]", None),
        ] {
            assert_eq!(name(line).map(|(_, name)| name), wanted, "{line}");
        }
    }

    #[test]
    fn both_generations_and_hostile_names() {
        for (line, wanted) in [
            ("1795532234 - 11/24/2026 14:57:14 Host: n/203.0.113.9 Port: 111 TCP Blocked", Some("203.0.113.9")),
            (
                "1795532234 - 11/24/2026 14:57:14 Host: x/198.51.100.7 Port: 1 TCP Blocked/203.0.113.9 Port: 111 TCP Blocked",
                Some("203.0.113.9"),
            ),
            (
                "2026-11-24T15:48:24.242+0000 Scan from: [fd66::9] ([203.0.113.1] () protocol: [TCP] port: [1]",
                Some("fd66::9"),
            ),
            ("nonsense", None),
        ] {
            assert_eq!(address(line), wanted.map(|text| text.parse().unwrap()), "{line}");
        }
    }
}
