//! The addresses that must never be blocked and can be read off the machine: its own, its gateways,
//! resolvers and DHCP servers.

use std::net::IpAddr;

use crate::kernel::{self, Gateway, InterfaceAddress};

use super::Host;

/// An address and where it was found, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedAddress {
    pub address: IpAddr,
    pub from: String,
}

/// What this host's network looks like.
#[derive(Debug, Clone, Default)]
pub struct Network {
    pub addresses: Vec<InterfaceAddress>,
    pub gateways: Vec<Gateway>,
    pub resolvers: Vec<SourcedAddress>,
    pub dhcp_servers: Vec<SourcedAddress>,
}

impl Network {
    /// Reads it; in an image only what its files say, for its addresses are not the builder's.
    pub fn read(host: &Host) -> Network {
        let (addresses, gateways) = if host.is_live() {
            (kernel::addresses().unwrap_or_default(), kernel::default_gateways().unwrap_or_default())
        } else {
            Default::default()
        };
        Network { addresses, gateways, resolvers: resolvers(host), dhcp_servers: dhcp_servers(host) }
    }
}

fn resolvers(host: &Host) -> Vec<SourcedAddress> {
    // systemd-resolved puts itself into resolv.conf; the servers that it asks stand in its own file.
    let mut found = Vec::new();
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        for line in host.text(path).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            // fe80::1%eth0 names its interface; the address is what packets come from.
            let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
            if let Some(address) = address.filter(|address| !address.is_loopback()) {
                push(&mut found, address, path);
            }
        }
    }
    found
}

/// Leases of dhclient, systemd-networkd, NetworkManager and dhcpcd, as they stand in their files.
fn dhcp_servers(host: &Host) -> Vec<SourcedAddress> {
    let mut found = Vec::new();
    for directory in
        ["/var/lib/dhcp", "/run/systemd/netif/leases", "/var/lib/NetworkManager", "/run/NetworkManager/devices"]
    {
        for name in host.list(directory) {
            let path = format!("{directory}/{name}");
            for line in host.text(&path).unwrap_or_default().lines() {
                let line = line.trim();
                let value = line
                    .strip_prefix("option dhcp-server-identifier ")
                    .map(|rest| rest.trim_end_matches(';'))
                    .or_else(|| line.strip_prefix("SERVER_ADDRESS="))
                    .or_else(|| line.strip_prefix("dhcp_server_identifier="));
                if let Some(address) = value.and_then(|text| text.trim().parse().ok()) {
                    push(&mut found, address, &path);
                }
            }
        }
    }
    found
}

fn push(found: &mut Vec<SourcedAddress>, address: IpAddr, from: &str) {
    if !found.iter().any(|known| known.address == address) {
        found.push(SourcedAddress { address, from: from.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_and_dhcp_servers_come_from_the_files_that_hold_them() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path()).unwrap();
        let write = |path: &str, text: &str| host.write(path.as_ref(), text.as_bytes(), 0o644).unwrap();
        write("/etc/resolv.conf", "nameserver 127.0.0.53\nnameserver fe80::1%eth0\n");
        write("/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\n");
        write("/var/lib/dhcp/dhclient.eth0.leases", "lease {\n  option dhcp-server-identifier 192.0.2.67;\n}\n");
        write("/run/systemd/netif/leases/2", "ADDRESS=192.0.2.9\nSERVER_ADDRESS=192.0.2.68\n");
        let network = Network::read(&host);
        let shown = |list: &[SourcedAddress]| list.iter().map(|one| one.address.to_string()).collect::<Vec<_>>();
        assert_eq!(shown(&network.resolvers), ["fe80::1", "192.0.2.53"]);
        assert_eq!(shown(&network.dhcp_servers), ["192.0.2.67", "192.0.2.68"]);
    }
}
