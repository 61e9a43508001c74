//! What the LAN could be, read off the machine's interfaces and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::{Host, Network};

/// One interface that could be the LAN, as the four variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub interface: String,
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
}

/// Interfaces that containers and virtual machines bring along: no one's LAN.
const VIRTUAL: [&str; 9] = ["docker", "br-", "virbr", "veth", "podman", "cni", "lxcbr", "lxdbr", "flannel"];

/// The IPv4 networks that could be the LAN: the private ones, or, where there is none, all.
pub fn propose(network: &Network) -> Vec<Proposal> {
    let all: Vec<Proposal> = network
        .addresses
        .iter()
        .filter(|one| one.address.is_ipv4() && !one.address.is_loopback() && one.interface != "lo")
        .filter(|one| !is_virtual(&one.interface))
        .map(|one| Proposal {
            interface: one.interface.clone(),
            address: one.address,
            prefix: one.prefix,
            // The article's own server is its LAN's gateway; so is one whose LAN has no other.
            gateway: network
                .gateways
                .iter()
                .find(|gateway| gateway.interface == one.interface && gateway.address.is_ipv4())
                .map_or(one.address, |gateway| gateway.address),
        })
        .collect();
    let private: Vec<Proposal> = all.iter().filter(|one| is_private(one.address)).cloned().collect();
    if private.is_empty() { all } else { private }
}

/// What this host offers where nobody chose a LAN, and how to choose; the end of a sentence.
pub fn offers(host: &Host, network: &Network) -> String {
    let proposals = propose(network);
    let mut text = match proposals.len() {
        0 if !host.is_live() => "an image tells nothing of its networks.\n".to_owned(),
        0 => "no interface has an address that could be the LAN's.\n".to_owned(),
        1 => "this could be the LAN:\n".to_owned(),
        _ => "more than one network could be the LAN:\n".to_owned(),
    };
    for one in &proposals {
        text.push_str(&format!(
            "  --lan-if {} --lan-ip {} --lan-nm {} --lan-gw {}\n",
            one.interface, one.address, one.prefix, one.gateway
        ));
    }
    text.push_str("Run `harden-portsentry init` on a terminal, or give ");
    text.push_str(match proposals.len() {
        0 => "--lan-if, --lan-ip, --lan-nm and --lan-gw",
        1 => "this line",
        _ => "one of these lines",
    });
    text
}

/// Whether containers or virtual machines bring this interface along.
pub fn is_virtual(interface: &str) -> bool {
    VIRTUAL.iter().any(|start| interface.starts_with(start))
}

/// RFC 1918, RFC 4193 and link-local addresses.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

impl Proposal {
    /// The network that it names.
    pub fn network(&self) -> Option<IpNet> {
        IpNet::new(self.address, self.prefix).ok().map(|net| net.trunc())
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::{Gateway, InterfaceAddress};

    use super::*;

    fn address(interface: &str, address: &str, prefix: u8) -> InterfaceAddress {
        InterfaceAddress { interface: interface.to_owned(), address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn a_private_network_wins_over_a_public_one_and_containers_are_left_out() {
        let network = Network {
            addresses: vec![
                address("lo", "127.0.0.1", 8),
                address("eth0", "198.51.100.7", 24),
                address("eth1", "10.1.2.3", 24),
                address("docker0", "172.17.0.1", 16),
            ],
            gateways: vec![Gateway { interface: "eth0".into(), address: "198.51.100.1".parse().unwrap() }],
            ..Network::default()
        };
        let found = propose(&network);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].interface.as_str(), found[0].gateway), ("eth1", "10.1.2.3".parse().unwrap()));
    }
}
