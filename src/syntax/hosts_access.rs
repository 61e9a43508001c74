//! /etc/hosts.allow and /etc/hosts.deny: read as libwrap reads them (hosts_access(5), hosts_options(5)), our own
//! entries put in and taken out again, and the question "is this address let in?" answered for addresses without
//! a name.

mod evaluate;
mod options;
mod rules;

use std::net::IpAddr;

use ipnet::IpNet;

pub use evaluate::{Because, File, Verdict, evaluate};

use super::lines::{Line, join, split};
use super::{SyntaxError, ValueError, marker};
use rules::{End, Logical, logical_lines};

/// One of the two files, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsAccess {
    lines: Vec<Line>,
}

/// An entry of ours: every daemon, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkedEntry {
    Network(IpNet),
    /// Whoever stands in the file of this absolute path.
    File(String),
}

impl MarkedEntry {
    /// Every daemon for `network`; host bits are cut off, for with them libwrap matches nobody (trap 2).
    pub fn all(network: IpNet) -> MarkedEntry {
        MarkedEntry::Network(network.trunc())
    }

    fn text(&self) -> String {
        let network = match self {
            MarkedEntry::Network(network) => network,
            MarkedEntry::File(path) => return format!("ALL: {path}"),
        };
        let (address, bits) = (network.addr(), network.prefix_len());
        let client = match (address, bits == network.max_prefix_len()) {
            (IpAddr::V4(address), true) => address.to_string(),
            // 0.0.0.0/0 matches nobody.
            (IpAddr::V4(_), false) if bits == 0 => "0.0.0.0/0.0.0.0".to_owned(),
            (IpAddr::V4(address), false) => format!("{address}/{bits}"),
            (IpAddr::V6(address), true) => format!("[{address}]"),
            (IpAddr::V6(address), false) => format!("[{address}]/{bits}"),
        };
        format!("ALL: {client}")
    }

    fn parse(text: &str) -> Option<MarkedEntry> {
        let client = text.strip_prefix("ALL:")?.trim();
        if client.starts_with('/') {
            return Some(MarkedEntry::File(client.to_owned()));
        }
        let plain = client.replace(['[', ']'], "").replace("/0.0.0.0", "/0");
        let network = plain.parse::<IpAddr>().map(IpNet::from).or_else(|_| plain.parse()).ok()?;
        Some(MarkedEntry::all(network))
    }
}

impl HostsAccess {
    /// Any bytes are a file.
    pub fn parse(bytes: &[u8]) -> HostsAccess {
        HostsAccess { lines: split(bytes) }
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// Our own entries.
    pub fn marked(&self) -> Vec<MarkedEntry> {
        marker::body(&self.lines)
            .into_iter()
            .filter_map(|line| MarkedEntry::parse(&String::from_utf8_lossy(&line.text)))
            .collect()
    }

    /// Makes `entries` our own entries. They stand before the first rule, for the first that matches wins, and before
    /// the line at which libwrap stops, which must not come to life either.
    ///
    /// # Errors
    /// None today; what cannot be written is refused by type.
    pub fn set_marked(&mut self, entries: &[MarkedEntry]) -> Result<(), ValueError> {
        let body: Vec<Vec<u8>> = entries.iter().map(|entry| entry.text().into_bytes()).collect();
        if marker::start(&self.lines).is_some_and(|ours| ours > before_first_rule(&self.lines)) {
            marker::replace(&mut self.lines, &[], before_first_rule);
        }
        marker::replace(&mut self.lines, &body, above_first_rule);
        Ok(())
    }

    /// The line at which libwrap stops reading, if there is one: it has no newline, or is too long. In hosts.deny it
    /// shuts out everybody whom no rule above it matches; in hosts.allow what follows it is without effect.
    pub fn unreadable(&self) -> Option<SyntaxError> {
        let last = self.logical().pop()?;
        let why = match last.end {
            End::Newline => return None,
            End::Missing => "has no newline, and TCP wrappers stop there. End it with a newline",
            End::TooLong => "is longer than 2046 bytes, and TCP wrappers stop there. Make several lines of it",
        };
        Some(SyntaxError::new(last.line, why))
    }

    fn logical(&self) -> Vec<Logical> {
        logical_lines(&self.to_bytes())
    }
}

/// The line before which ours have to come: the first rule, or the one at which libwrap stops.
fn before_first_rule(lines: &[Line]) -> usize {
    place(lines, |_, first| first)
}

/// The same, with the comment that stands directly above that rule and belongs to it left where it is.
fn above_first_rule(lines: &[Line]) -> usize {
    place(lines, |found, first| {
        let comments = found[..first].iter().rev().take_while(|line| line.text.starts_with(b"#")).count();
        first - comments
    })
}

/// The number of the line that `choose` chooses, given all logical lines and which of them is the first rule.
fn place(lines: &[Line], choose: fn(&[Logical], usize) -> usize) -> usize {
    let file = join(lines);
    let found = logical_lines(&file);
    match found.iter().position(|line| line.is_rule() || line.end != End::Newline) {
        Some(first) => {
            let start = found[choose(&found, first)].start;
            file[..start].iter().filter(|&&byte| byte == b'\n').count()
        }
        None => lines.len(),
    }
}

/// The address of a line that KILL_HOSTS_DENY writes: `ALL: ADDRESS : DENY`, brackets for IPv6.
pub fn denied_address(line: &str) -> Option<IpAddr> {
    let rest = line.trim().strip_prefix("ALL:")?.trim().strip_suffix("DENY")?.trim().strip_suffix(':')?.trim();
    rest.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granted(allow: &str, deny: &str, client: &str) -> bool {
        let files = |_: &str| Some("203.0.113.9\n198.51.100.0/24\n[fd66::9]\n".to_owned());
        evaluate(
            &HostsAccess::parse(allow.as_bytes()),
            &HostsAccess::parse(deny.as_bytes()),
            "sshd",
            client.parse().unwrap(),
            &files,
        )
        .granted
    }

    #[test]
    fn host_bits_match_nobody() {
        for (allow, wanted) in [
            ("ALL: 192.168.1.5/24\n", false),
            ("ALL: 192.168.1.5/255.255.255.0\n", false),
            ("ALL: 192.168.1.0/24\n", true),
            ("ALL: 192.168.1.0/255.255.255.0\n", true),
            ("ALL: 192.168.1.\n", true),
        ] {
            assert_eq!(granted(allow, "ALL: 192.168.1.77 : DENY\n", "192.168.1.77"), wanted, "{allow}");
        }
    }

    #[test]
    fn ipv6_needs_brackets() {
        assert!(granted("", "ALL: fd66::9 : DENY\n", "fd66::9"));
        assert!(!granted("", "ALL: [fd66::9] : DENY\n", "fd66::9"));
        assert!(granted("ALL: [fd66::]/64\n", "ALL: ALL\n", "fd66::77"));
    }

    #[test]
    fn a_named_file_options_exceptions_and_continuations() {
        assert!(!granted("", "ALL: /x\n", "203.0.113.9"));
        assert!(!granted("ALL: ALL : DENY\n", "", "203.0.113.9"));
        assert!(granted("", "ALL: ALL : ALLOW\n", "203.0.113.9"));
        assert!(granted("", "ALL EXCEPT sshd: ALL\n", "203.0.113.9"));
        assert!(!granted("", "ALL: ALL EXCEPT 10. EXCEPT 10.1.\n", "10.1.2.3"));
        assert!(!granted("", "ALL: \\\n 203.0.113.9\n", "203.0.113.9"));
        assert!(granted("", "# x \\\nALL: 203.0.113.9\n", "203.0.113.9"));
        assert!(!granted("", "ALL: 203.0.113.9", "198.51.100.7"), "a last line without newline shuts out everybody");
    }

    /// All four Debians: `hosts.deny, line 0: all the subsequent rules will be ignored`, and access denied.
    #[test]
    fn a_line_without_newline_shuts_out_everybody() {
        let too_long = format!("sshd: 10.{}\n", "x".repeat(2047));
        for deny in ["sshd: 10.", "# none", " ", too_long.as_str()] {
            assert!(!granted("", deny, "203.0.113.9"), "{deny}");
            assert!(granted("sshd: 203.0.113.9\n", deny, "203.0.113.9"), "{deny}");
            assert!(granted(deny, "", "203.0.113.9"), "in hosts.allow it is without effect: {deny}");
            assert_eq!(HostsAccess::parse(deny.as_bytes()).unreadable().unwrap().line, 1);
        }
        assert_eq!(HostsAccess::parse(b"a\n# b \\\nc\n").unreadable(), None);
        assert_eq!(HostsAccess::parse(b"a\n# b \\\nc").unreadable().unwrap().line, 3);
    }

    #[test]
    fn ours_go_above_a_rule_that_came_before_them_and_above_a_line_that_ends_the_file() {
        let ours = [MarkedEntry::all("192.168.1.0/24".parse().unwrap())];
        let mut file = HostsAccess::parse(b"# head\n");
        file.set_marked(&ours).unwrap();
        let below = [b"sshd: ALL: DENY\n".to_vec(), file.to_bytes()].concat();
        let long = format!("# {}\n", "x".repeat(2100));
        for text in [String::from_utf8(below).unwrap(), long, "# no newline".to_owned(), "\u{feff}# x\\\n".to_owned()] {
            let mut file = HostsAccess::parse(text.as_bytes());
            file.set_marked(&ours).unwrap();
            let after = String::from_utf8(file.to_bytes()).unwrap();
            assert!(granted(&after, "ALL: ALL\n", "192.168.1.77"), "{after}");
            assert_eq!(file.marked(), ours);
        }
    }

    #[test]
    fn a_comment_stays_with_the_rule_below_it() {
        let ours = [MarkedEntry::all("192.168.1.0/24".parse().unwrap())];
        for (head, rest) in [
            ("# the file\n\n", "# my office\n# and home\nsshd: 198.51.100.7\n"),
            ("", "# my office \\\n# and home\nsshd: 198.51.100.7\n"),
            ("# the file\n\n", "# cut off"),
        ] {
            let mut file = HostsAccess::parse(format!("{head}{rest}").as_bytes());
            file.set_marked(&ours).unwrap();
            let after = String::from_utf8(file.to_bytes()).unwrap();
            assert!(after.starts_with(head) && after.ends_with(rest), "{after}");
            file.set_marked(&ours).unwrap();
            assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), after, "it stays where it is");
        }
    }

    #[test]
    fn everybody_is_written_in_the_form_that_matches() {
        for all in ["0.0.0.0/0", "::/0"] {
            let ours = [MarkedEntry::all(all.parse().unwrap())];
            let mut file = HostsAccess::parse(b"");
            file.set_marked(&ours).unwrap();
            assert_eq!(file.marked(), ours);
        }
    }

    #[test]
    fn ours_come_first_once_and_go_without_a_trace() {
        let original = "# head\nALL: ALL : DENY\nsshd: ALL";
        let ours =
            vec![MarkedEntry::all("192.168.1.0/24".parse().unwrap()), MarkedEntry::all("fd00::/64".parse().unwrap())];
        let mut file = HostsAccess::parse(original.as_bytes());
        file.set_marked(&ours).unwrap();
        let text = String::from_utf8(file.to_bytes()).unwrap();
        assert!(granted(&text, "", "192.168.1.77"), "{text}");
        assert!(!granted(&text, "", "192.168.2.77"), "{text}");
        assert_eq!(file.marked(), ours);
        file.set_marked(&ours).unwrap();
        assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), text);
        file.set_marked(&[]).unwrap();
        assert_eq!(file.to_bytes(), original.as_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let file = HostsAccess::parse(&bytes);
            prop_assert_eq!(file.to_bytes(), bytes.clone());
            evaluate(&file, &file, "sshd", [203, 0, 113, 9].into(), &|_| None);
            let mut edited = file;
            edited.set_marked(&[MarkedEntry::all("10.0.0.0/8".parse().unwrap())]).unwrap();
            edited.set_marked(&[]).unwrap();
            prop_assert_eq!(edited.to_bytes(), bytes);
        }
    }
}
