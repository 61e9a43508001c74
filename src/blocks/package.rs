//! What Debian's portsentry blocks by, beside our own sets: a rule of iptables, a line of hosts.deny, and its memory, for
//! whom it remembers it does not block again (traps 7 and 18).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::history;
use crate::host::{Generation, Host, Packages, RuleList, is_block};
use crate::syntax::hosts_access::denied_address;

const HOSTS_DENY: &str = "/etc/hosts.deny";

/// What somebody was freed of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Freed {
    pub rules: usize,
    /// Of hosts.deny.
    pub lines: usize,
    /// The portsentry that remembered them was started anew.
    pub restarted: bool,
}

impl Freed {
    /// Whether there was nothing to free anybody of.
    pub fn is_nothing(&self) -> bool {
        *self == Freed::default()
    }

    /// Of what, in words.
    pub fn in_words(&self) -> String {
        let many = |count: usize, one: &str, more: &str| match count {
            0 => None,
            1 => Some(one.to_owned()),
            count => Some(format!("{count} {more}")),
        };
        let taken = [
            many(self.rules, "a rule of the firewall", "rules of the firewall"),
            many(self.lines, "a line of hosts.deny", "lines of hosts.deny"),
        ];
        let taken: Vec<String> = taken.into_iter().flatten().collect();
        let mut words = Vec::new();
        if !taken.is_empty() {
            words.push(format!("{} taken away", taken.join(" and ")));
        }
        if self.restarted {
            words.push("portsentry was restarted, which remembered it".to_owned());
        }
        words.join("; ")
    }
}

/// The portsentry that Debian's package installed here, if any did.
///
/// # Errors
/// dpkg cannot be asked, or it is of a generation that nobody knows yet.
pub fn installed(host: &Host) -> Result<Option<Generation>> {
    let packages = Packages::ask(host, &["portsentry"])?;
    packages.get("portsentry").map(|package| Generation::of(&package.version)).transpose()
}

/// Whom `generation` remembers: 1.2 in text, a file a mode, emptied at its start; 2.0 in binary.
///
/// # Errors
/// Its file cannot be read.
pub fn remembered(host: &Host, generation: Generation) -> Result<BTreeSet<IpAddr>> {
    if let Some(path) = generation.blocked_file() {
        let bytes = host.read(Path::new(path))?.map(|state| state.bytes).unwrap_or_default();
        return Ok(binary(&bytes).into_iter().collect());
    }
    let text = |mode: &&str| host.text(&format!("/var/lib/portsentry/portsentry.blocked.{mode}"));
    let texts = ["atcp", "audp"].iter().filter_map(text);
    Ok(texts.flat_map(|text| text.lines().filter_map(history::address).collect::<Vec<_>>()).collect())
}

/// Whom `generation` ever blocked here, as far as its history, its memory and the `banned` of fail2ban's jail go.
///
/// # Errors
/// As [`remembered`].
pub fn everybody(host: &Host, generation: Generation, banned: &[IpAddr]) -> Result<BTreeSet<IpAddr>> {
    let mut all = remembered(host, generation)?;
    let history = host.read(Path::new(generation.history()))?.map(|state| state.bytes).unwrap_or_default();
    all.extend(String::from_utf8_lossy(&history).lines().filter_map(history::address));
    all.extend(banned);
    Ok(all)
}

/// Frees `addresses` of all by which `generation` blocks them.
///
/// # Errors
/// iptables refuses, hosts.deny cannot be written, or portsentry cannot be restarted; the error says what is left to do.
pub fn free(host: &Host, generation: Generation, addresses: &BTreeSet<IpAddr>) -> Result<Freed> {
    let mut freed = Freed::default();
    for ipv6 in [false, true] {
        let rules = RuleList::ask(host, ipv6)?;
        let family = addresses.iter().filter(|address| address.is_ipv6() == ipv6);
        for rule in family.flat_map(|&address| rules.about(address)).filter(|rule| is_block(rule)) {
            host.delete_rule(ipv6, rule)?;
            freed.rules += 1;
        }
    }
    let path = Path::new(HOSTS_DENY);
    if let Some(state) = host.read(path)? {
        let is_theirs = |line: &[u8]| {
            denied_address(&String::from_utf8_lossy(line)).is_some_and(|address| addresses.contains(&address))
        };
        let lines: Vec<&[u8]> = state.bytes.split_inclusive(|&byte| byte == b'\n').collect();
        let kept: Vec<&[u8]> = lines.iter().copied().filter(|line| !is_theirs(line)).collect();
        freed.lines = lines.len() - kept.len();
        if freed.lines > 0 {
            host.write(path, &kept.concat(), state.mode)?;
        }
    }
    if remembered(host, generation)?.iter().any(|address| addresses.contains(address)) {
        for unit in generation.units() {
            host.restart(unit).with_context(|| {
                format!(
                    "portsentry remembers it, and blocks it no more until it is restarted: systemctl restart {unit}"
                )
            })?;
        }
        freed.restarted = true;
    }
    Ok(freed)
}

/// 2.0.7: the family as a native u16 (2: IPv4, 10: IPv6), then the address.
fn binary(bytes: &[u8]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let [low, high, tail @ ..] = rest {
        match u16::from_ne_bytes([*low, *high]) {
            2 => match tail.split_first_chunk::<4>() {
                Some((address, tail)) => {
                    found.push(IpAddr::from(*address));
                    rest = tail;
                }
                None => break,
            },
            10 => match tail.split_first_chunk::<16>() {
                Some((address, tail)) => {
                    found.push(IpAddr::from(*address));
                    rest = tail;
                }
                None => break,
            },
            _ => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_blocked_file_is_read_and_a_torn_end_left_out() {
        let mut bytes = Vec::new();
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend([203, 0, 113, 9]);
        bytes.extend(10u16.to_ne_bytes());
        bytes.extend("fd66::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes.extend(2u16.to_ne_bytes());
        bytes.push(1);
        let wanted: Vec<IpAddr> = vec!["203.0.113.9".parse().unwrap(), "fd66::9".parse().unwrap()];
        assert_eq!(binary(&bytes), wanted);
    }
}
