//! /etc/hosts.allow and /etc/hosts.deny: read as libwrap reads them (hosts_access(5), hosts_options(5)), our own
//! entries put in and taken out again, and the question "is this address let in?" answered for addresses without
//! a name.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::lines::{End, Line, join, split, trim};
use super::{ValueError, marker};

/// libwrap reads a rule into a buffer of this many bytes; a longer one is passed over with a warning in the log.
const LONGEST: usize = 2047;

/// One of the two files, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsAccess {
    lines: Vec<Line>,
}

/// An entry of ours: every daemon, one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedEntry {
    pub network: IpNet,
}

impl MarkedEntry {
    /// Every daemon for `network`; host bits are cut off, for with them libwrap matches nobody (trap 2).
    pub fn all(network: IpNet) -> MarkedEntry {
        MarkedEntry { network: network.trunc() }
    }

    fn text(&self) -> String {
        let (address, bits) = (self.network.addr(), self.network.prefix_len());
        let client = match (address, bits == self.network.max_prefix_len()) {
            (IpAddr::V4(address), true) => address.to_string(),
            (IpAddr::V4(address), false) => format!("{address}/{bits}"),
            (IpAddr::V6(address), true) => format!("[{address}]"),
            (IpAddr::V6(address), false) => format!("[{address}]/{bits}"),
        };
        format!("ALL: {client}")
    }

    fn parse(text: &str) -> Option<MarkedEntry> {
        let plain = text.strip_prefix("ALL:")?.trim().replace(['[', ']'], "");
        let network = plain.parse::<IpAddr>().map(IpNet::from).or_else(|_| plain.parse()).ok()?;
        Some(MarkedEntry::all(network))
    }
}

/// What the two files say of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub granted: bool,
    /// The rule that decided it; `None`: no rule matched, and everybody is let in.
    pub rule: Option<String>,
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

    /// Makes `entries` our own entries. They stand before the first rule, for the first that matches wins, and a
    /// last line without newline, which libwrap passes over, must not come to life.
    ///
    /// # Errors
    /// None today; what cannot be written is refused by type.
    pub fn set_marked(&mut self, entries: &[MarkedEntry]) -> Result<(), ValueError> {
        let body: Vec<Vec<u8>> = entries.iter().map(|entry| entry.text().into_bytes()).collect();
        marker::replace(&mut self.lines, &body, before_first_rule);
        Ok(())
    }

    /// The rules that libwrap sees, comments and what it passes over left out.
    fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for range in logical(&self.lines) {
            let ended = self.lines[range.end - 1].end != End::Missing && !continued(&self.lines[range.end - 1]);
            let text = glued(&self.lines[range]);
            let length = text.len();
            if ended && length < LONGEST && !trim(text.as_bytes()).is_empty() && !text.starts_with('#') {
                rules.push(text);
            }
        }
        rules
    }
}

/// Whether the newline after this line is hidden by a backslash. A carriage return stands between them and
/// breaks that.
fn continued(line: &Line) -> bool {
    line.end == End::Newline && line.text.last() == Some(&b'\\')
}

/// The ranges of lines that libwrap joins into one.
fn logical(lines: &[Line]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for (index, line) in lines.iter().enumerate() {
        if !continued(line) || index + 1 == lines.len() {
            ranges.push(start..index + 1);
            start = index + 1;
        }
    }
    ranges
}

fn glued(lines: &[Line]) -> String {
    let mut bytes = Vec::new();
    for line in lines {
        let text = if continued(line) { &line.text[..line.text.len() - 1] } else { &line.text[..] };
        bytes.extend_from_slice(text);
        if line.end == End::CrLf {
            bytes.push(b'\r');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn before_first_rule(lines: &[Line]) -> usize {
    let is_rule = |range: &std::ops::Range<usize>| {
        let text = glued(&lines[range.clone()]);
        !text.trim().is_empty() && !text.starts_with('#')
    };
    match logical(lines).into_iter().find(is_rule) {
        Some(range) => range.start,
        // A comment that ends in a backslash would swallow what comes after it.
        None if lines.last().is_some_and(|line| line.text.last() == Some(&b'\\')) => 0,
        None => lines.len(),
    }
}

/// Whether `daemon` serves `client`, an address whose name nobody knows. `files` gives the text of a file that
/// a rule names.
pub fn evaluate(
    allow: &HostsAccess,
    deny: &HostsAccess,
    daemon: &str,
    client: IpAddr,
    files: &dyn Fn(&str) -> Option<String>,
) -> Verdict {
    let request = Request { daemon, client: client.to_canonical(), files };
    for (file, granted) in [(allow, true), (deny, false)] {
        for rule in file.rules() {
            if let Some(option) = request.matches(&rule) {
                let granted = match option {
                    Decision::OfTheFile => granted,
                    Decision::Allow => true,
                    Decision::Deny => false,
                };
                return Verdict { granted, rule: Some(rule) };
            }
        }
    }
    Verdict { granted: true, rule: None }
}

struct Request<'a> {
    daemon: &'a str,
    client: IpAddr,
    files: &'a dyn Fn(&str) -> Option<String>,
}

enum Decision {
    OfTheFile,
    Allow,
    Deny,
}

impl Request<'_> {
    fn matches(&self, rule: &str) -> Option<Decision> {
        let fields = fields(rule);
        let [daemons, clients, options @ ..] = fields.as_slice() else { return None };
        let matched = list_matches(daemons, &|pattern| self.daemon_matches(pattern))
            && list_matches(clients, &|pattern| self.client_matches(pattern, 0));
        if !matched {
            return None;
        }
        for option in options {
            let word =
                option.trim().split(|letter: char| letter.is_whitespace() || letter == '=').next().unwrap_or_default();
            if word.eq_ignore_ascii_case("allow") {
                return Some(Decision::Allow);
            }
            if word.eq_ignore_ascii_case("deny") || word.eq_ignore_ascii_case("twist") {
                return Some(Decision::Deny);
            }
        }
        Some(Decision::OfTheFile)
    }

    fn daemon_matches(&self, pattern: &str) -> bool {
        let name = pattern.split('@').next().unwrap_or(pattern);
        string_matches(name, self.daemon)
    }

    fn client_matches(&self, pattern: &str, depth: usize) -> bool {
        if let Some(user_at_host) = pattern.split_once('@').filter(|(user, _)| !user.is_empty()) {
            // user@host: the user is unknown, and only ALL and UNKNOWN match an unknown one.
            return matches!(user_at_host.0.to_ascii_uppercase().as_str(), "ALL" | "UNKNOWN")
                && self.client_matches(user_at_host.1, depth);
        }
        if pattern.starts_with('@') {
            return false; // a netgroup: names only
        }
        if pattern.starts_with('/') {
            return depth < 8
                && (self.files)(pattern).is_some_and(|text| {
                    text.lines().any(|line| list_matches(line, &|inner| self.client_matches(inner, depth + 1)))
                });
        }
        match pattern.to_ascii_uppercase().as_str() {
            "ALL" => return true,
            // Both a name and an address are known; the name is not.
            "KNOWN" | "LOCAL" => return false,
            "UNKNOWN" => return true,
            "PARANOID" => return false,
            _ => {}
        }
        match (self.client, pattern.strip_prefix('[')) {
            (IpAddr::V6(address), Some(inner)) => {
                let Some((text, rest)) = inner.split_once(']') else { return false };
                let Ok(network) = text.parse::<std::net::Ipv6Addr>() else { return false };
                match rest.strip_prefix('/') {
                    None => network == address,
                    Some(bits) => bits
                        .parse::<u8>()
                        .ok()
                        .and_then(|bits| ipnet::Ipv6Net::new(network, bits).ok())
                        .is_some_and(|network| network.contains(&address)),
                }
            }
            (IpAddr::V4(address), None) if pattern.contains('/') => masked(pattern, address),
            _ => string_matches(pattern, &self.client.to_string()),
        }
    }
}

/// `net/mask` and `net/prefix`: the address is masked, the net is not, so that host bits match nobody (trap 2).
fn masked(pattern: &str, address: Ipv4Addr) -> bool {
    let Some((net, mask)) = pattern.split_once('/') else { return false };
    let Ok(net) = net.parse::<Ipv4Addr>() else { return false };
    let mask = match (mask.parse::<Ipv4Addr>(), mask.parse::<u32>()) {
        (Ok(mask), _) => u32::from(mask),
        (_, Ok(bits)) if (1..=32).contains(&bits) => u32::MAX << (32 - bits),
        (_, Ok(0)) => 0,
        _ => return false,
    };
    u32::from(address) & mask == u32::from(net)
}

/// A name, an address beginning (`10.1.`), a domain (`.example`), or `*` and `?`.
fn string_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    if pattern == "all" {
        return true;
    }
    if pattern.contains(['*', '?']) {
        return wildcard(pattern.as_bytes(), text.as_bytes());
    }
    if pattern.starts_with('.') {
        return text.ends_with(&pattern);
    }
    if pattern.ends_with('.') {
        return text.starts_with(&pattern);
    }
    pattern == text
}

/// Linear in the length of both: the last star is where it goes back to.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while pos < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(&letter) if letter == b'?' || letter == text[pos] => {
                at += 1;
                pos += 1;
            }
            _ => match star {
                Some((star_at, star_pos)) => {
                    star = Some((star_at, star_pos + 1));
                    at = star_at + 1;
                    pos = star_pos + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&letter| letter == b'*')
}

/// `a, b EXCEPT c EXCEPT d`, which is a and b, but not what is c and not d.
fn list_matches(list: &str, matches: &dyn Fn(&str) -> bool) -> bool {
    let words: Vec<&str> = list.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()).collect();
    words_match(&words, matches)
}

fn words_match(words: &[&str], matches: &dyn Fn(&str) -> bool) -> bool {
    let except = words.iter().position(|word| word.eq_ignore_ascii_case("EXCEPT"));
    let (before, after) = match except {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &words[..0]),
    };
    before.iter().any(|word| matches(word)) && !(except.is_some() && words_match(after, matches))
}

/// Splits at colons, those in brackets and behind a backslash left alone.
fn fields(rule: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = rule.chars().peekable();
    let mut bracket = false;
    while let Some(letter) = letters.next() {
        let Some(field) = fields.last_mut() else { break };
        match letter {
            '\\' if letters.peek() == Some(&':') => {
                field.push(':');
                letters.next();
            }
            '[' => {
                bracket = true;
                field.push(letter);
            }
            ']' => {
                bracket = false;
                field.push(letter);
            }
            ':' if !bracket => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
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
        assert!(granted("", "ALL: 203.0.113.9", "203.0.113.9"), "a last line without newline is passed over");
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

    #[test]
    fn a_wildcard_against_a_long_text_ends() {
        assert!(!wildcard("*a*a*a*a*a*a*a*b".as_bytes(), "a".repeat(2000).as_bytes()));
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
