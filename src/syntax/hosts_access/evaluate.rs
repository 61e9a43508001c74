//! The question "is this address let in?", answered as libwrap answers it for a client whose name nobody knows.

use std::net::{IpAddr, Ipv6Addr};

use super::super::c_text;
use super::HostsAccess;
use super::options::{Decision, decide};
use super::rules::{End, Logical, list_matches, split_at, split_host};

/// What libwrap takes for a name or an address that it does not know.
const UNKNOWN: &str = "unknown";

/// What the two files say of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub granted: bool,
    pub because: Because,
}

/// What decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// No rule matched, and everybody is let in.
    NoRule,
    /// A rule matched: the number of its last line, and its text.
    Rule { file: File, line: usize, text: String },
    /// hosts.deny has a line without newline, or one that is too long, and libwrap then shuts out everybody whom no
    /// rule above it matches.
    Unreadable { line: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Allow,
    Deny,
}

/// Whether `daemon` serves `client`, an address whose name nobody knows. `files` gives the text of a file that a
/// rule names. `user@` and `@server` are unknown too; what `aclexec` runs is taken to allow it.
pub fn evaluate(
    allow: &HostsAccess,
    deny: &HostsAccess,
    daemon: &str,
    client: IpAddr,
    files: &dyn Fn(&str) -> Option<String>,
) -> Verdict {
    let request = Request { daemon, client: client.to_canonical().to_string(), files };
    for (lines, file) in [(allow, File::Allow), (deny, File::Deny)] {
        for line in lines.logical() {
            if line.end != End::Newline {
                if file == File::Deny {
                    return Verdict { granted: false, because: Because::Unreadable { line: line.line } };
                }
                break;
            }
            if let Some(decision) = request.decided_by(&line) {
                let granted = match decision {
                    Decision::OfTheFile => file == File::Allow,
                    Decision::Allow => true,
                    Decision::Deny => false,
                };
                let text = String::from_utf8_lossy(&line.text).into_owned();
                return Verdict { granted, because: Because::Rule { file, line: line.line, text } };
            }
        }
    }
    Verdict { granted: true, because: Because::NoRule }
}

struct Request<'a> {
    daemon: &'a str,
    client: String,
    files: &'a dyn Fn(&str) -> Option<String>,
}

impl Request<'_> {
    fn decided_by(&self, line: &Logical) -> Option<Decision> {
        if !line.is_rule() {
            return None;
        }
        let rule = format!("{}\n", String::from_utf8_lossy(&line.text));
        let (daemons, rest) = split_at(&rule, b':')?;
        let (clients, options) = split_at(rest, b':').map_or((rest, None), |(list, options)| (list, Some(options)));
        let matched = list_matches(daemons, &|word| self.daemon_matches(word))
            && list_matches(clients, &|word| self.client_matches(word));
        matched.then(|| options.map_or(Decision::OfTheFile, decide))
    }

    fn daemon_matches(&self, word: &str) -> bool {
        let (daemon, server) = split_host(word).map_or((word, None), |(daemon, server)| (daemon, Some(server)));
        string_matches(daemon, self.daemon) && server.is_none_or(|server| self.host_matches(server, UNKNOWN))
    }

    fn client_matches(&self, word: &str) -> bool {
        let (user, host) = split_host(word).map_or((None, word), |(user, host)| (Some(user), host));
        self.host_matches(host, &self.client) && user.is_none_or(|user| string_matches(user, UNKNOWN))
    }

    fn host_matches(&self, pattern: &str, address: &str) -> bool {
        if pattern.starts_with('@') {
            return false; // a netgroup: names only
        }
        if pattern.starts_with('/') {
            // Words, neither comments nor EXCEPT; a file may name another one, and so on.
            return self.file_matches(pattern, address, &mut Vec::new());
        }
        if ["KNOWN", "LOCAL"].iter().any(|word| pattern.eq_ignore_ascii_case(word)) {
            return false; // its name would have to be known
        }
        if let Some((net, mask)) = split_at(pattern, b'/') {
            return masked(net, mask, address);
        }
        string_matches(pattern, address) || (could_be_a_name(pattern) && string_matches(pattern, UNKNOWN))
    }

    fn file_matches(&self, path: &str, address: &str, opened: &mut Vec<String>) -> bool {
        if opened.iter().any(|earlier| earlier == path) {
            return false;
        }
        opened.push(path.to_owned());
        let Some(text) = (self.files)(path) else { return false };
        text.split_ascii_whitespace().any(|word| match word.starts_with('/') {
            true => self.file_matches(word, address, opened),
            false => self.host_matches(word, address),
        })
    }
}

fn could_be_a_name(pattern: &str) -> bool {
    pattern.bytes().any(|byte| !b"0123456789./".contains(&byte))
}

/// `net/mask` and `net/prefix`: the address is masked, an IPv4 net is not, so that host bits match nobody (trap 2).
/// An IPv4 net with prefix length 0 or mask 255.255.255.255 matches nobody either.
fn masked(net: &str, mask: &str, address: &str) -> bool {
    let bits = c_text::integer(mask);
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            let mask = match (dotted(mask), bits) {
                (Some(mask), _) => mask,
                (None, 1..=32) => u32::MAX << (32 - bits),
                _ => return false,
            };
            dotted(net).is_some_and(|net| u32::from(address) & mask == net)
        }
        Ok(IpAddr::V6(address)) => {
            let mask = match bits {
                0 => 0,
                1..=128 => u128::MAX << (128 - bits),
                _ => return false,
            };
            bracketed(net).is_some_and(|net| u128::from(address) & mask == u128::from(net) & mask)
        }
        Err(_) => false,
    }
}

/// An address of four parts; all ones is the value by which C reports an error.
fn dotted(text: &str) -> Option<u32> {
    c_text::address(text.as_bytes(), 4).map(u32::from).filter(|&address| address != u32::MAX)
}

fn bracketed(text: &str) -> Option<Ipv6Addr> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// `*` and `?`, a domain (`.example`), an address's beginning (`10.1.`), or the text itself.
fn string_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    if pattern.contains(['*', '?']) {
        return wildcard(pattern.as_bytes(), text.as_bytes());
    }
    if pattern.starts_with('.') {
        return text.ends_with(&pattern);
    }
    match pattern.as_str() {
        "all" => true,
        "known" => text != UNKNOWN,
        _ if pattern.ends_with('.') => text.starts_with(&pattern),
        _ => match (bracketed(&pattern), text.parse::<Ipv6Addr>()) {
            (Some(pattern), Ok(text)) => pattern == text,
            _ => pattern == text,
        },
    }
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

#[cfg(test)]
mod tests {
    use super::wildcard;

    #[test]
    fn a_wildcard_against_a_long_text_ends() {
        assert!(!wildcard("*a*a*a*a*a*a*a*b".as_bytes(), "a".repeat(2000).as_bytes()));
        assert!(wildcard(b"1?2.*.*", b"192.0.2.1") && !wildcard(b"1?2.*.3", b"192.0.2.1") && wildcard(b"*", b""));
    }
}
