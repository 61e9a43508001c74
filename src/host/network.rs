//! The addresses that must never be blocked and can be read off the machine: its own, its gateways,
//! resolvers and DHCP servers.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

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
    ///
    /// # Errors
    /// The kernel does not tell the addresses and routes.
    pub fn read(host: &Host) -> Result<Network> {
        let mut network = Network::in_files(host);
        if host.is_live() {
            network.addresses = kernel::addresses()?;
            network.gateways = kernel::default_gateways()?;
        }
        Ok(network)
    }

    /// What files say of it.
    pub fn in_files(host: &Host) -> Network {
        Network { resolvers: resolvers(host), dhcp_servers: dhcp_servers(host), ..Network::default() }
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
    for directory in [
        "/var/lib/dhcp",
        "/run/systemd/netif/leases",
        "/var/lib/NetworkManager",
        "/run/NetworkManager/devices",
        "/var/lib/dhcpcd",
    ] {
        for name in host.list(directory) {
            let path = format!("{directory}/{name}");
            let bytes = host.read(path.as_ref()).ok().flatten().map(|file| file.bytes).unwrap_or_default();
            for address in server_of_packet(&bytes).map_or_else(|| servers_in_text(&bytes), |server| vec![server]) {
                push(&mut found, address, &path);
            }
        }
    }
    found
}

fn servers_in_text(bytes: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(bytes);
    let values = text.lines().filter_map(|line| {
        let line = line.trim();
        line.strip_prefix("option dhcp-server-identifier ")
            .map(|rest| rest.trim_end_matches(';'))
            .or_else(|| line.strip_prefix("SERVER_ADDRESS="))
            .or_else(|| line.strip_prefix("dhcp_server_identifier="))
    });
    values.filter_map(|value| value.trim().parse().ok()).collect()
}

/// The server identifier (option 54) of a DHCP packet as it was received, which is what dhcpcd keeps (RFC 2131, 2132).
fn server_of_packet(bytes: &[u8]) -> Option<IpAddr> {
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    let mut options = bytes.get(236..)?.strip_prefix(&COOKIE)?;
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [54, 4, a, b, c, d, ..] => return Some(Ipv4Addr::new(a, b, c, d).into()),
            [code, length, ref rest @ ..] if code != 255 => options = rest.get(usize::from(length)..)?,
            _ => return None,
        }
    }
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
        let packet = [&[2; 236][..], &[99, 130, 83, 99, 53, 1, 5, 0, 54, 4, 192, 0, 2, 69, 255]].concat();
        host.write("/var/lib/dhcpcd/eth0.lease".as_ref(), &packet, 0o644).unwrap();
        let network = Network::in_files(&host);
        let shown = |list: &[SourcedAddress]| list.iter().map(|one| one.address.to_string()).collect::<Vec<_>>();
        assert_eq!(shown(&network.resolvers), ["fe80::1", "192.0.2.53"]);
        assert_eq!(shown(&network.dhcp_servers), ["192.0.2.67", "192.0.2.68", "192.0.2.69"]);
    }
}
