//! Whom the daemon ignores: IGNORE_FILE, looked up at the same cost however long it is.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::syntax::Dialect;
use crate::syntax::address_list::AddressList;

/// Networks, in order and without overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreList {
    networks: Vec<IpNet>,
}

impl IgnoreList {
    /// What the file at `path` names, as a daemon of `dialect` reads it; with its complaints about lines that it does
    /// not honour.
    ///
    /// # Errors
    /// The file cannot be read, or has a line with which 2.0 does not start.
    pub fn read(path: &Path, dialect: Dialect) -> Result<(IgnoreList, Vec<String>)> {
        let bytes = std::fs::read(path).with_context(|| format!("Unable to open ignore file: {}", path.display()))?;
        let list = AddressList::parse(&bytes);
        let mut complaints = Vec::new();
        for line in list.not_honoured(dialect) {
            let text = format!("{}, line {}: {}; {}", path.display(), line.line, line.why, line.remedy);
            if line.fatal {
                bail!("Error initializing ignore file: {text}");
            }
            complaints.push(text);
        }
        Ok((IgnoreList::of(list.honoured(dialect)), complaints))
    }

    /// These networks.
    pub fn of(networks: Vec<IpNet>) -> IgnoreList {
        let mut networks = IpNet::aggregate(&networks);
        networks.sort_unstable_by_key(|network| (network.addr().is_ipv6(), network.network()));
        IgnoreList { networks }
    }

    /// Whether `address` is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self
            .networks
            .partition_point(|network| (network.addr().is_ipv6(), network.network()) <= (address.is_ipv6(), address));
        after.checked_sub(1).is_some_and(|at| self.networks[at].contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_families_and_overlaps() {
        let networks = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd66::/64", "::/128"];
        let list = IgnoreList::of(networks.iter().map(|text| text.parse().unwrap()).collect());
        for inside in ["10.255.0.1", "10.1.2.3", "192.0.2.1", "fd66::9", "::"] {
            assert!(list.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.2", "fd66:0:0:1::", "::1"] {
            assert!(!list.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!IgnoreList::default().contains("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn as_a_walk_through_all_of_them(nets in proptest::collection::vec((0u32..4096, 20u8..=32), 0..40), ask in 0u32..4096) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(bits, prefix)| IpNet::new(IpAddr::V4(bits.into()), prefix).unwrap().trunc()).collect();
            let ask = IpAddr::V4(ask.into());
            prop_assert_eq!(IgnoreList::of(nets.clone()).contains(ask), nets.iter().any(|net| net.contains(&ask)));
        }
    }
}
