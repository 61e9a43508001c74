//! Who is never blocked, whoever asks for it: whom the ignore list and policy.toml name, and what this host cannot do
//! without. A packet in the name of its gateway must not cut it off.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::ignore::IgnoreList;
use crate::host::{Host, Network};
use crate::settings::Policy;

/// Addresses that are safe, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    found: HashMap<IpAddr, String>,
    named: Vec<(IpNet, String)>,
    ignored: IgnoreList,
    ignore_file: String,
}

impl Guard {
    /// Reads this host's addresses, gateways, resolvers and DHCP servers; `policy` and the ignore list name others.
    ///
    /// # Errors
    /// The kernel does not tell the addresses and routes.
    pub fn read(policy: &Policy, ignored: IgnoreList, ignore_file: &Path) -> Result<Guard> {
        let network = Network::read(&Host::new(Path::new("/"))?)?;
        let mut found = HashMap::new();
        let mut add = |address: IpAddr, why: String| {
            found.entry(address.to_canonical()).or_insert(why);
        };
        for one in &network.addresses {
            add(one.address, format!("it is this host's own address ({})", one.interface));
        }
        for one in &network.gateways {
            add(one.address, format!("it is this host's gateway ({})", one.interface));
        }
        for one in &network.resolvers {
            add(one.address, format!("it is this host's resolver ({})", one.from));
        }
        for one in &network.dhcp_servers {
            add(one.address, format!("it is this host's DHCP server ({})", one.from));
        }
        let policies = policy.safe.iter().map(|one| (one.value, format!("it is safe ({})", one.origin)));
        let clients = policy.ssh_clients.iter();
        let clients = clients.map(|one| (one.address.into(), "it is an ssh client of apply (policy.toml)".to_owned()));
        Ok(Guard {
            found,
            named: policies.chain(clients).map(|(network, why)| (plain(network), why)).collect(),
            ignored,
            ignore_file: ignore_file.display().to_string(),
        })
    }

    /// Why `address` must not be blocked, if it must not.
    pub fn objects(&self, address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        let special = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_multicast(),
        };
        if special {
            return Some("it is no host's address".to_owned());
        }
        if let Some(why) = self.found.get(&address) {
            return Some(why.clone());
        }
        if let Some((network, why)) = self.named.iter().find(|(network, _)| network.contains(&address)) {
            return Some(format!("{why}: {network}"));
        }
        self.ignored.contains(address).then(|| format!("it is in the ignore list {}", self.ignore_file))
    }
}

/// An IPv4 network, also where it was written as `::ffff:198.51.100.0/120`.
fn plain(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(address, length)| Some(Ipv4Net::new(address, length).ok()?.into())).unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_and_whom_somebody_named_are_safe() {
        let policy = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(policy.path(), "safe = [\"198.51.100.0/24\", \"::ffff:203.0.113.200\"]\n").unwrap();
        let policy = Policy::read(policy.path()).unwrap();
        let ignored = IgnoreList::of(vec!["192.0.2.0/24".parse().unwrap()]);
        let guard = Guard::read(&policy, ignored, Path::new("/etc/ignore")).unwrap();
        let objects = |address: &str| guard.objects(address.parse().unwrap()).unwrap_or_default();
        assert_eq!(objects("203.0.113.9"), "");
        assert_eq!(objects("192.0.2.7"), "it is in the ignore list /etc/ignore");
        assert!(objects("::ffff:198.51.100.7").ends_with("line 1): 198.51.100.0/24"), "{}", objects("198.51.100.7"));
        assert!(objects("203.0.113.200").contains("it is safe"));
        for none in ["127.0.0.2", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert_eq!(objects(none), "it is no host's address", "{none}");
        }
    }
}
