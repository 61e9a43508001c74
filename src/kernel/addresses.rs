//! The addresses and default routes of this network namespace (rtnetlink(7)).

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::nftables::messages;

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub interface: String,
    pub address: IpAddr,
    /// Length of the network's prefix, in bits.
    pub prefix: u8,
}

/// A default route's next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub interface: String,
    pub address: IpAddr,
}

/// Every address of every interface, IPv4 and IPv6, loopback included.
///
/// # Errors
/// The kernel refuses or answers what cannot be read.
pub fn addresses() -> Result<Vec<InterfaceAddress>> {
    let names = InterfaceNames::open()?;
    let mut found = Vec::new();
    for answer in dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        // On a point-to-point link `Address` is the peer's and `Local` ours.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        if let Some(address) = local.or(any) {
            found.push(InterfaceAddress {
                interface: names.of(message.header.index),
                address,
                prefix: message.header.prefix_len,
            });
        }
    }
    Ok(found)
}

/// The next hops of the default routes of the main table.
///
/// # Errors
/// The kernel refuses or answers what cannot be read.
pub fn default_gateways() -> Result<Vec<Gateway>> {
    const MAIN: u8 = 254;
    let names = InterfaceNames::open()?;
    let mut found = Vec::new();
    for answer in dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        if message.header.destination_prefix_length != 0 || message.header.table != MAIN {
            continue;
        }
        let here = next_hop(0, &message.attributes);
        let several = message.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        let several = several.flatten().filter_map(|hop| next_hop(hop.interface_index, &hop.attributes));
        for (interface, address) in here.into_iter().chain(several) {
            found.push(Gateway { interface: names.of(interface), address });
        }
    }
    Ok(found)
}

/// The interface, `interface` if nothing else is said, and the gateway.
fn next_hop(mut interface: u32, attributes: &[RouteAttribute]) -> Option<(u32, IpAddr)> {
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
                gateway = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                gateway = Some(IpAddr::V6(*address));
            }
            _ => {}
        }
    }
    gateway.map(|gateway| (interface, gateway))
}

/// Hears when an address of this network namespace, or a default route, comes or goes.
pub struct NetworkChanges {
    socket: Socket,
    buffer: Vec<u8>,
}

impl NetworkChanges {
    /// From now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch() -> Result<NetworkChanges> {
        /// RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE (linux/rtnetlink.h).
        const GROUPS: [u32; 4] = [5, 7, 9, 11];
        let socket = open()?;
        for group in GROUPS {
            socket.add_membership(group).context("cannot hear of changes to addresses and routes")?;
        }
        Ok(NetworkChanges { socket, buffer: vec![0; 16 << 10] })
    }

    /// Reads what was told; whether any of it was about an address or a default route.
    pub fn happened(&mut self) -> bool {
        /// RTM_NEWADDR, RTM_DELADDR; RTM_NEWROUTE, RTM_DELROUTE.
        const ADDRESSES: [u16; 2] = [20, 21];
        const ROUTES: [u16; 2] = [24, 25];
        let mut happened = false;
        loop {
            match recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    happened |= messages(&self.buffer[..length.min(self.buffer.len())]).any(|message| {
                        // The second byte of struct rtmsg is the length of the destination's prefix.
                        ADDRESSES.contains(&message.kind)
                            || ROUTES.contains(&message.kind) && message.body.get(1) == Some(&0)
                    });
                }
                Err(Errno::INTR) => {}
                // More was told than the socket holds.
                Err(Errno::NOBUFS) => happened = true,
                Err(_) => return happened,
            }
        }
    }
}

impl AsFd for NetworkChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The names of interfaces, asked of the kernel: /sys may show another namespace's. Any socket can ask; one of no network
/// is what the watcher may open.
struct InterfaceNames(std::os::unix::net::UnixDatagram);

impl InterfaceNames {
    fn open() -> Result<InterfaceNames> {
        let socket =
            std::os::unix::net::UnixDatagram::unbound().context("cannot open a socket to ask for interface names")?;
        Ok(InterfaceNames(socket))
    }

    fn of(&self, index: u32) -> String {
        rustix::net::netdevice::index_to_name(&self.0, index).unwrap_or_else(|_| format!("interface {index}"))
    }
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
    Ok(socket)
}

fn dump(request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    let socket = open()?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot ask the kernel by netlink")?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().context("the kernel did not answer by netlink")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .context("the kernel's netlink answer cannot be read")?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => bail!("the kernel refused a netlink question: {error}"),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
            if length == 0 {
                bail!("the kernel's netlink answer has a message of length 0");
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_seen() {
        let found = addresses().unwrap();
        let loopback = found.iter().find(|one| one.address == IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!((loopback.interface.as_str(), loopback.prefix), ("lo", 8));
    }

    #[test]
    fn asking_for_gateways_ends() {
        default_gateways().unwrap();
    }
}
