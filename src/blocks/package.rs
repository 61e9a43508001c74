//! What Debian's portsentry blocks by, beside our own sets: a rule of iptables, a line of hosts.deny, and its memory, for
//! whom it remembers it does not block again (traps 7 and 18).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::control::KILL_ROUTE;
use super::record::cleaned;
use crate::history;
use crate::host::{CHAOS_RULE, Generation, Host, JAIL_FILE, Packages, Process, RuleList, is_block};
use crate::syntax::hosts_access::denied_address;
use crate::syntax::portsentry_conf::PortsentryConf;

/// TCP wrappers' file.
pub const HOSTS_DENY: &str = "/etc/hosts.deny";
/// Where 1.2 notes whom it blocked, a file a mode.
const FILES_OF_1_2: [&str; 2] =
    ["/var/lib/portsentry/portsentry.blocked.atcp", "/var/lib/portsentry/portsentry.blocked.audp"];

/// What somebody was freed of.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Of iptables.
    pub rules: usize,
    /// Of hosts.deny.
    pub lines: usize,
    /// The portsentry that remembered them was started anew.
    pub restarted: bool,
}

/// What became of a portsentry's memory of somebody. Whom it remembers it does not block again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It remembered nobody of them.
    Clear,
    /// They were taken out of 1.2's files, which it reads with each hit.
    Edited,
    /// 2.0 was restarted, for it reads its file as it starts.
    Restarted,
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
    let texts = FILES_OF_1_2.iter().filter_map(|path| host.text(path));
    Ok(texts.flat_map(|text| text.lines().filter_map(history::address).collect::<Vec<_>>()).collect())
}

/// Has `generation` forget whom it remembers and `is_blocked` does not name, so that it blocks them when they come back.
///
/// # Errors
/// Its file cannot be read or written, or it cannot be restarted; the error says what is left to do.
pub fn forget(host: &Host, generation: Generation, is_blocked: impl Fn(IpAddr) -> bool) -> Result<Memory> {
    if remembered(host, generation)?.into_iter().all(&is_blocked) {
        return Ok(Memory::Clear);
    }
    if generation.is_1_2() {
        edit_files_of_1_2(host, is_blocked)?;
        return Ok(Memory::Edited);
    }
    restart(host, generation)?;
    Ok(Memory::Restarted)
}

/// Takes out of them whom `is_remembered` does not name.
fn edit_files_of_1_2(host: &Host, is_remembered: impl Fn(IpAddr) -> bool) -> Result<()> {
    let is_kept = |line: &[u8]| history::address(String::from_utf8_lossy(line).trim_end()).is_none_or(&is_remembered);
    FILES_OF_1_2.iter().try_for_each(|path| keep_lines(host, Path::new(path), is_kept).map(drop))
}

/// Has it forget everybody, as far as it runs; whether it does.
fn restart(host: &Host, generation: Generation) -> Result<bool> {
    let runs = !Process::named(&["portsentry"]).is_empty();
    for unit in generation.units() {
        host.restart_if_it_runs(unit, runs).with_context(|| {
            format!("portsentry remembers it, and blocks it no more until it is restarted: systemctl restart {unit}")
        })?;
    }
    Ok(runs)
}

/// Takes the lines out of a file that are not to be kept; how many these were.
fn keep_lines(host: &Host, path: &Path, is_kept: impl Fn(&[u8]) -> bool) -> Result<usize> {
    let Some(state) = host.read(path)? else { return Ok(0) };
    let lines: Vec<&[u8]> = state.bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let kept: Vec<&[u8]> = lines.iter().copied().filter(|line| is_kept(line)).collect();
    let taken = lines.len() - kept.len();
    if taken > 0 {
        host.write(path, &kept.concat(), state.mode)?;
    }
    Ok(taken)
}

/// So much of a history's end is looked through for names.
const LOOKED_THROUGH: usize = 4 << 20;

/// The names that caught hosts had, as far as the history of `generation` has any, without what a terminal would obey: they are
/// the attackers' own words.
pub fn names(host: &Host, generation: Generation) -> HashMap<IpAddr, String> {
    let bytes = host.read(Path::new(generation.history())).ok().flatten().map(|state| state.bytes).unwrap_or_default();
    let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOOKED_THROUGH)..]).into_owned();
    end.lines().filter_map(history::name).map(|(address, name)| (address, cleaned(name))).collect()
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

/// Whom rules of iptables and lines of hosts.deny shut out of whom a portsentry's own files, or the `banned` of fail2ban's jail,
/// say that it blocked them; another rule, and another line, is somebody else's.
///
/// # Errors
/// A file of theirs cannot be read.
pub fn blocked_by_rules(host: &Host, banned: &[IpAddr]) -> Result<BTreeSet<IpAddr>> {
    let wanted = Wanted::read(host);
    let denied = host.text(HOSTS_DENY).filter(|_| !wanted.lines).unwrap_or_default();
    let mut found: BTreeSet<IpAddr> = denied.lines().filter_map(denied_address).collect();
    for ipv6 in [false, true].into_iter().filter(|_| !wanted.rules) {
        found.extend(RuleList::read(host, ipv6).text().lines().filter(|rule| is_block(rule)).filter_map(source));
    }
    if found.is_empty() {
        return Ok(found);
    }
    let mut known: BTreeSet<IpAddr> = banned.iter().copied().collect();
    for generation in [Generation::SysvModes, Generation::OneProcess, Generation::Embedded] {
        known.extend(everybody(host, generation, &[])?);
    }
    found.retain(|address| known.contains(address));
    Ok(found)
}

/// What somebody has beside our blocks on purpose: an applied configuration has commands of his own.
#[derive(Default)]
struct Wanted {
    /// KILL_HOSTS_DENY, or an action of fail2ban's.
    lines: bool,
    /// KILL_ROUTE, likewise.
    rules: bool,
}

impl Wanted {
    fn read(host: &Host) -> Wanted {
        let of = |generation: Generation| {
            let text = host.text(generation.conf())?;
            let conf = PortsentryConf::parse(text.as_bytes()).ok()?;
            let get = |key: &str| conf.get(key, generation.dialect());
            let route = get("KILL_ROUTE");
            let hands_over = route.as_ref().is_some_and(|command| command.contains(KILL_ROUTE));
            let is_applied = hands_over || get("KILL_NFT").is_some();
            let is_own = route.is_some_and(|command| !hands_over && !command.contains(CHAOS_RULE));
            Some(Wanted { lines: is_applied && get("KILL_HOSTS_DENY").is_some(), rules: is_applied && is_own })
        };
        let (embedded, package) = (of(Generation::Embedded), of(Generation::OneProcess));
        let conf = embedded.or(package).unwrap_or_default();
        let jail = host.text(JAIL_FILE).unwrap_or_default();
        let bans = jail.lines().any(|line| line.starts_with("banaction = "));
        Wanted { lines: conf.lines || bans, rules: conf.rules || bans }
    }
}

/// Whom a rule as `iptables -S` prints it is about.
pub fn source(rule: &str) -> Option<IpAddr> {
    let network = rule.split_once(" -s ")?.1.split_whitespace().next()?;
    network.split('/').next()?.parse().ok()
}

/// Frees `addresses` of all by which `generation` blocks them.
///
/// # Errors
/// iptables refuses, hosts.deny cannot be written, or portsentry cannot be restarted; the error says what is left to do.
pub fn free(host: &Host, generation: Generation, addresses: &BTreeSet<IpAddr>) -> Result<Freed> {
    let mut freed = Freed { rules: free_of_rules(host, addresses)?, ..Freed::default() };
    freed.lines = keep_lines(host, Path::new(HOSTS_DENY), |line| {
        denied_address(&String::from_utf8_lossy(line)).is_none_or(|address| !addresses.contains(&address))
    })?;
    if remembered(host, generation)?.iter().any(|address| addresses.contains(address)) {
        if generation.is_1_2() {
            edit_files_of_1_2(host, |address| !addresses.contains(&address))?;
        }
        // Also 1.2, which may have packets of the scan waiting behind a name server that does not answer.
        freed.restarted = restart(host, generation)?;
    }
    Ok(freed)
}

/// Takes away the rules of iptables that block `addresses`; how many these were.
///
/// # Errors
/// iptables refuses.
pub fn free_of_rules(host: &Host, addresses: &BTreeSet<IpAddr>) -> Result<usize> {
    let mut taken = 0;
    for ipv6 in [false, true] {
        let rules = RuleList::ask(host, ipv6)?;
        let family = addresses.iter().filter(|address| address.is_ipv6() == ipv6);
        for rule in family.flat_map(|&address| rules.about(address)).filter(|rule| is_block(rule)) {
            host.delete_rule(ipv6, rule)?;
            taken += 1;
        }
    }
    Ok(taken)
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
    fn a_rules_source() {
        assert_eq!(source("-A INPUT -s 203.0.113.9/32 -j DROP"), Some([203, 0, 113, 9].into()));
        assert_eq!(source("-A INPUT -s fd66::9/128 -j DROP"), "fd66::9".parse().ok());
        assert_eq!(source("-A INPUT -j DROP"), None);
    }

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
