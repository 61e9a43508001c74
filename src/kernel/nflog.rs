//! Packets that a rule of ours hands up: NFLOG, by netlink (linux/netfilter/nfnetlink_log.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, ConfigNla, Timeout, config_request};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

/// Bytes of a packet that are copied: the largest IPv4 header and a TCP header, or IPv6 with some extension headers.
pub const SNAPLEN: u32 = 128;
/// The kernel gathers as many bytes at most before it hands them up.
const GATHERED: u32 = 64 << 10;
/// What the socket may hold: half a second of a flood whose every packet is handed up.
const SOCKET_BUFFER: usize = 16 << 20;
/// So many bytes of packets do not fit into it, with what the kernel takes for itself.
pub const QUEUE: usize = 2 * SOCKET_BUFFER;

/// A reader of one NFLOG group of this network namespace. There is one reader a group.
pub struct Nflog {
    socket: Socket,
    group: u16,
    buffer: Vec<u8>,
}

/// A packet that a rule handed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged<'a> {
    /// The rule's `log prefix`.
    pub prefix: &'a [u8],
    /// From its network header on, at most [`SNAPLEN`] bytes.
    pub packet: &'a [u8],
}

/// What came of one try to read.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes are in the buffer: [`Nflog::packets`].
    Bytes(usize),
    Nothing,
    /// The socket was full, and the kernel threw packets away.
    Lost,
}

impl Nflog {
    /// Binds the first of `groups` that nobody else reads.
    ///
    /// # Errors
    /// All are taken, or this process has no CAP_NET_ADMIN.
    pub fn bind(groups: std::ops::RangeInclusive<u16>) -> Result<Nflog> {
        let mut refusal = None;
        for group in groups {
            let mut socket = Socket::new(NETLINK_NETFILTER).context("cannot open a netlink socket for NFLOG")?;
            socket.bind_auto().context("cannot bind a netlink socket for NFLOG")?;
            socket.connect(&SocketAddr::new(0, 0)).context("cannot reach the kernel by netlink")?;
            // Best effort: without CAP_NET_ADMIN the bind below says so.
            let _ = sockopt::set_socket_recv_buffer_size_force(socket_fd(&socket), SOCKET_BUFFER);
            let log = Nflog { socket, group, buffer: vec![0; 2 * GATHERED as usize] };
            match log.configure(vec![
                ConfigCmd::Bind.into(),
                ConfigMode::new_packet(SNAPLEN).into(),
                ConfigNla::NlBufSiz(GATHERED),
                ConfigNla::QThresh(1),
            ]) {
                Ok(()) => {
                    log.socket.set_non_blocking(true).context("cannot make the NFLOG socket non-blocking")?;
                    return Ok(log);
                }
                Err(error) => refusal = Some(error),
            }
        }
        let error = refusal.map_or_else(String::new, |error| format!("{error:#}"));
        bail!(
            "cannot receive packets from the kernel (NFLOG): {error}; this takes CAP_NET_ADMIN in this network namespace"
        )
    }

    /// The group that rules have to name.
    pub fn group(&self) -> u16 {
        self.group
    }

    /// How many packets the kernel gathers before it wakes this process, and for how many hundredths of a second at
    /// most.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn gather(&self, packets: u32, hundredths: u32) -> Result<()> {
        // Its answer comes among the packets and is passed over there.
        self.send(vec![ConfigNla::QThresh(packets), ConfigNla::Timeout(Timeout::new(hundredths))])
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Anything but that nothing is there or that something was lost.
    pub fn receive(&mut self) -> io::Result<Received> {
        match recv(socket_fd(&self.socket), &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => Ok(Received::Bytes(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(Errno::NOBUFS) => Ok(Received::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// The packets among the first `bytes` of what was read last.
    pub fn packets(&self, bytes: usize) -> impl Iterator<Item = Logged<'_>> {
        packets(&self.buffer[..bytes.min(self.buffer.len())])
    }

    fn send(&self, settings: Vec<ConfigNla>) -> Result<()> {
        let request = config_request(NetfilterProtoFamily::Unspec, self.group, settings);
        let mut bytes = vec![0; request.header.length as usize];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("cannot set up NFLOG")?;
        Ok(())
    }

    /// The same, and waits for the kernel's answer; only while no packets can come.
    fn configure(&self, settings: Vec<ConfigNla>) -> Result<()> {
        self.send(settings)?;
        let (answer, _) = self.socket.recv_from_full().context("the kernel did not answer about NFLOG")?;
        let answer =
            NetlinkMessage::<NetfilterMessage>::deserialize(&answer).context("cannot read the kernel's answer")?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
            _ => Ok(()),
        }
    }
}

impl AsFd for Nflog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        socket_fd(&self.socket)
    }
}

impl AsRawFd for Nflog {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn socket_fd(socket: &Socket) -> BorrowedFd<'_> {
    socket.as_fd()
}

/// The packets of one datagram of NFLOG; whatever else or broken stands in it is passed over.
pub fn packets(datagram: &[u8]) -> impl Iterator<Item = Logged<'_>> {
    /// Subsystem ULOG, message PACKET.
    const PACKET: u16 = 4 << 8;
    const HEADERS: usize = 16 + 4;
    let mut rest = datagram;
    std::iter::from_fn(move || {
        while rest.len() >= HEADERS {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if length < 16 || length > rest.len() {
                break;
            }
            let (message, after) = rest.split_at(length);
            rest = after.get(length.next_multiple_of(4) - length..).unwrap_or_default();
            if kind == PACKET && length >= HEADERS {
                return Some(attributes(&message[HEADERS..]));
            }
        }
        None
    })
}

fn attributes(mut rest: &[u8]) -> Logged<'_> {
    const PAYLOAD: u16 = 9;
    const PREFIX: u16 = 10;
    let mut found = Logged { prefix: &[], packet: &[] };
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        // The two topmost bits are flags.
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        if length < 4 || length > rest.len() {
            break;
        }
        match kind {
            PAYLOAD => found.packet = &rest[4..length],
            PREFIX => found.prefix = rest[4..length].strip_suffix(b"\0").unwrap_or(&rest[4..length]),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let mut bytes = (20 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 14]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn several_packets_of_one_datagram_are_told_apart() {
        let first = message(0x400, &[attribute(1, &[8, 0, 1, 0]), attribute(10, b"new\0"), attribute(9, &[0x45; 41])]);
        let other = message(2, &[vec![0; 16]]);
        let last = message(0x400, &[attribute(9, &[0x60]), attribute(10, b"again\0")]);
        let datagram = [first, other, last].concat();
        let found: Vec<Logged> = packets(&datagram).collect();
        assert_eq!(
            found,
            [Logged { prefix: b"new", packet: &[0x45; 41] }, Logged { prefix: b"again", packet: &[0x60] }]
        );
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u32..80) {
            let odd = [&length.to_ne_bytes()[..], &[0, 4], &bytes].concat();
            for datagram in [&bytes, &odd] {
                prop_assert!(packets(datagram).count() <= datagram.len());
            }
        }
    }
}
