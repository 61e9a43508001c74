//! Files that several hands write, taken back entry by entry: ours go, everybody else's stay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;

use crate::syntax::address_list::AddressList;
use crate::syntax::hosts_access::{HostsAccess, denied_address};

/// `now` with our entries as `before` had them; gone if it was not there and nothing else stands in it.
pub(super) fn merged(
    now: Option<&[u8]>,
    before: Option<Vec<u8>>,
    merge: fn(&[u8], &[u8]) -> Result<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    let Some(now) = now else { return Ok(None) };
    let result = merge(now, before.as_deref().unwrap_or_default())?;
    Ok((before.is_some() || !result.is_empty()).then_some(result))
}

pub(super) fn with_hosts_entries_of(now: &[u8], before: &[u8]) -> Result<Vec<u8>> {
    let mut document = HostsAccess::parse(now);
    document.set_marked(&HostsAccess::parse(before).marked())?;
    Ok(document.to_bytes())
}

pub(super) fn with_list_entries_of(now: &[u8], before: &[u8]) -> Result<Vec<u8>> {
    let mut document = AddressList::parse(now);
    document.set_marked(&AddressList::parse(before).marked())?;
    Ok(document.to_bytes())
}

/// The lines of `now` that `before` has not, or not as often.
pub(super) fn added_lines(now: &[u8], before: &[u8]) -> Vec<String> {
    let mut old: BTreeMap<&[u8], usize> = BTreeMap::new();
    for line in before.split(|&byte| byte == b'\n') {
        *old.entry(line).or_default() += 1;
    }
    now.split(|&byte| byte == b'\n')
        .filter(|line| match old.get_mut(line) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// hosts.deny without the lines about `blocked` that `before` had not; gone if it was not there and nothing
/// else stands in it.
pub(super) fn without_blocks(now: &[u8], before: Option<&[u8]>, blocked: &BTreeSet<IpAddr>) -> Option<Vec<u8>> {
    // Our own entry as it was, which is not there in the first place.
    let now = &with_hosts_entries_of(now, before.unwrap_or_default()).unwrap_or_else(|_| now.to_vec())[..];
    let mut extra = added_lines(now, before.unwrap_or_default());
    extra.retain(|line| denied_address(line).is_some_and(|address| blocked.contains(&address)));
    let mut kept = Vec::new();
    for line in now.split_inclusive(|&byte| byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\n');
        match extra.iter().position(|known| known == text) {
            Some(at) => drop(extra.swap_remove(at)),
            None => kept.extend_from_slice(line),
        }
    }
    (before.is_some() || !kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_blocks_made_since_leave_hosts_deny() {
        let before = b"# mine\nALL: 198.51.100.1 : DENY\n";
        let now =
            b"# mine\nALL: 198.51.100.1 : DENY\nALL: 203.0.113.9 : DENY\nALL: [fd66::9] : DENY\nsshd: 192.0.2.1\n";
        let blocked: BTreeSet<IpAddr> =
            ["203.0.113.9", "fd66::9", "198.51.100.1"].iter().map(|text| text.parse().unwrap()).collect();
        let left = without_blocks(now, Some(before), &blocked).unwrap();
        assert_eq!(String::from_utf8(left).unwrap(), "# mine\nALL: 198.51.100.1 : DENY\nsshd: 192.0.2.1\n");
        assert_eq!(without_blocks(b"ALL: 203.0.113.9 : DENY\n", None, &blocked), None);
        let mut ours = HostsAccess::parse(before);
        ours.set_marked(&[crate::syntax::hosts_access::MarkedEntry::File("/var/lib/denied".to_owned())]).unwrap();
        assert_ne!(ours.to_bytes(), before);
        assert_eq!(without_blocks(&ours.to_bytes(), Some(before), &blocked).unwrap(), before);
    }
}
