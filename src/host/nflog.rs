//! Which groups of NFLOG a process listens to: packets that the ruleset logs to a group reach whoever bound it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::kernel::has_table;

/// Of NETLINK_NETFILTER, in the second column of /proc/net/netlink.
const NETFILTER: &str = "12";

/// The groups that a socket of process `pid` has bound, in our network namespace.
///
/// # Errors
/// The kernel's lists cannot be read: they are root's, and not there where nothing ever used NFLOG.
pub fn nflog_groups(pid: u32) -> Result<Vec<u16>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let groups = read("/proc/net/netfilter/nfnetlink_log")?;
    let sockets = read("/proc/net/netlink")?;
    Ok(bound(&groups, &ports(&sockets, &inodes(pid)?)))
}

/// Why no packet reaches the embedded portsentry `pid`, if none does: whoever flushes the whole ruleset takes its table
/// away with the rest, and its process does not notice.
///
/// # Errors
/// It cannot be found out.
pub fn hears_nothing(pid: u32) -> Result<Option<String>> {
    if nflog_groups(pid)?.is_empty() {
        return Ok(Some(format!("process {pid} has bound no group in /proc/net/netfilter/nfnetlink_log")));
    }
    let is_there = has_table("harden_portsentry")?;
    Ok((!is_there).then(|| "nftables has no table inet harden_portsentry, which picks its packets".to_owned()))
}

/// The inodes of the sockets that `pid` has open.
fn inodes(pid: u32) -> Result<BTreeSet<String>> {
    let directory = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect())
}

/// The netlink addresses of those sockets: the process's number for its first one, any number for the others.
/// Columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
fn ports(sockets: &str, inodes: &BTreeSet<String>) -> BTreeSet<u32> {
    sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|cells| cells.get(1) == Some(&NETFILTER))
        .filter(|cells| cells.get(9).is_some_and(|inode| inodes.contains(*inode)))
        .filter_map(|cells| cells[2].parse().ok())
        .collect()
}

/// The groups whose listener is one of `ports`. Columns: group, listener, queued, mode, range, timeout, uses.
fn bound(groups: &str, ports: &BTreeSet<u32>) -> Vec<u16> {
    groups
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|cells| cells.get(1).and_then(|port| port.parse().ok()).is_some_and(|port| ports.contains(&port)))
        .filter_map(|cells| cells[0].parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   812        00000440 0        0        0     2        0        1001
0000000000000000 12  812        00000000 0        0        0     2        0        1002
0000000000000000 12  3160158208 00000000 0        0        0     2        0        1003
0000000000000000 12  900        00000000 0        0        0     2        0        1004
";

    #[test]
    fn a_group_belongs_to_whoever_has_its_listeners_socket() {
        let groups = "    5 3160158208 0 2 65535 100 1\n   27 900 0 2 65535 100 1\n";
        let of = |inodes: &[&str]| {
            let inodes = inodes.iter().map(|&inode| inode.to_owned()).collect();
            bound(groups, &ports(SOCKETS, &inodes))
        };
        assert_eq!(of(&["1001", "1002", "1003"]), [5]);
        assert_eq!(of(&["1004"]), [27]);
        assert_eq!(of(&["1001", "1002"]), [] as [u16; 0], "its routing socket is no listener");
    }
}
