//! A packet as a probe: who asked for which port, and how.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP's flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
const XMAS: u8 = FIN | PSH | URG;
const MAIMON: u8 = FIN | ACK;
const FLAGS: u8 = FIN | SYN | RST | PSH | ACK | URG;

/// How a port was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// These flags of TCP, without ECE and CWR.
    Tcp(u8),
    Udp,
    /// A connection that a socket of ours took.
    ConnectTcp,
    ConnectUdp,
}

impl Kind {
    /// All names that a kind can have.
    pub const NAMES: [&str; 10] =
        ["syn", "null", "fin", "xmas", "ack", "maimon", "other", "udp", "connect_tcp", "connect_udp"];

    pub fn is_tcp(self) -> bool {
        matches!(self, Kind::Tcp(_) | Kind::ConnectTcp)
    }

    /// `TCP` or `UDP`, as every line has it.
    pub fn protocol(self) -> &'static str {
        if self.is_tcp() { "TCP" } else { "UDP" }
    }

    /// One word for it, for journals and metrics.
    pub fn name(self) -> &'static str {
        Kind::NAMES[self.index()]
    }

    /// Its place in [`Kind::NAMES`].
    pub fn index(self) -> usize {
        match self {
            Kind::Tcp(SYN) => 0,
            Kind::Tcp(0) => 1,
            Kind::Tcp(FIN) => 2,
            Kind::Tcp(XMAS) => 3,
            Kind::Tcp(ACK) => 4,
            Kind::Tcp(MAIMON) => 5,
            Kind::Tcp(_) => 6,
            Kind::Udp => 7,
            Kind::ConnectTcp => 8,
            Kind::ConnectUdp => 9,
        }
    }

    /// Whether a host with a connection that died may send such a packet as well.
    pub fn is_ambiguous(self) -> bool {
        matches!(self, Kind::Tcp(flags) if flags & ACK != 0)
    }
}

/// As portsentry 2.0 names it; it has no names for ACK and Maimon.
impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind::Tcp(flags) = *self else {
            return out.write_str(if *self == Kind::Udp { "UDP" } else { "Connect" });
        };
        let bit = |flag: u8| u8::from(flags & flag != 0);
        match flags {
            SYN => out.write_str("TCP SYN/Normal scan"),
            0 => out.write_str("TCP NULL scan"),
            FIN => out.write_str("TCP FIN scan"),
            XMAS => out.write_str("TCP XMAS scan"),
            ACK => out.write_str("TCP ACK scan"),
            MAIMON => out.write_str("TCP Maimon scan"),
            _ => write!(
                out,
                "Unknown Type: TCP Packet Flags: SYN: {} FIN: {} ACK: {} PSH: {} URG: {} RST: {}",
                bit(SYN),
                bit(FIN),
                bit(ACK),
                bit(PSH),
                bit(URG),
                bit(RST)
            ),
        }
    }
}

/// Whether the IP header had options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpOptions {
    Set,
    NotSet,
    /// IPv6, and connections: nobody looked.
    Unknown,
}

impl fmt::Display for IpOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            IpOptions::Set => "set",
            IpOptions::NotSet => "not set",
            IpOptions::Unknown => "unknown",
        })
    }
}

/// Somebody asked for a port of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub kind: Kind,
    pub ip_options: IpOptions,
}

impl Probe {
    /// Reads a packet from its network header on; it may be cut, but the ports and TCP's flags have to be there.
    /// `None` for anything else.
    pub fn of(packet: &[u8]) -> Option<Probe> {
        match packet.first()? >> 4 {
            4 => ipv4(packet),
            6 => ipv6(packet),
            _ => None,
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// RFC 791.
fn ipv4(packet: &[u8]) -> Option<Probe> {
    let header = packet.get(..20)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    // A later fragment has no ports; the kernel puts fragments together before it looks for a socket.
    if length < 20 || offset != 0 {
        return None;
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    let ip_options = if length > 20 { IpOptions::Set } else { IpOptions::NotSet };
    let (port, kind) = transport(header[9], packet.get(length..)?)?;
    Some(Probe { source: address(12), destination: address(16), port, kind, ip_options })
}

/// RFC 8200. Extension headers are passed over, as many as fit.
fn ipv6(packet: &[u8]) -> Option<Probe> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let header = packet.get(..40)?;
    let address = |at: usize| {
        let bytes: [u8; 16] = header[at..at + 16].try_into().unwrap_or_default();
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    let (mut next, mut rest) = (header[6], &packet[40..]);
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(*rest.get(1)?) + 1) * 8,
            AUTHENTICATION => (usize::from(*rest.get(1)?) + 2) * 4,
            FRAGMENT if u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) & 0xfff8 == 0 => 8,
            FRAGMENT => return None,
            _ => break,
        };
        next = rest[0];
        rest = rest.get(length..)?;
    }
    let (port, kind) = transport(next, rest)?;
    Some(Probe { source: address(8), destination: address(24), port, kind, ip_options: IpOptions::Unknown })
}

fn transport(protocol: u8, segment: &[u8]) -> Option<(u16, Kind)> {
    let port = u16::from_be_bytes([*segment.get(2)?, *segment.get(3)?]);
    match protocol {
        TCP => Some((port, Kind::Tcp(segment.get(13)? & FLAGS))),
        UDP => Some((port, Kind::Udp)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp4(flags: u8, options: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options + 20];
        packet[0] = 0x40 | (5 + options as u8 / 4);
        packet[9] = TCP;
        packet[12..16].copy_from_slice(&[203, 0, 113, 9]);
        packet[16..20].copy_from_slice(&[192, 168, 66, 1]);
        packet[20 + options + 2..][..2].copy_from_slice(&111u16.to_be_bytes());
        packet[20 + options + 13] = flags;
        packet
    }

    fn tcp6(extensions: &[&[u8]], next: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet[8] = 0xfd;
        extensions.iter().for_each(|extension| packet.extend_from_slice(extension));
        packet.extend_from_slice(&tcp4(SYN, 0)[20..]);
        packet
    }

    #[test]
    fn every_kind_by_its_flags() {
        for (flags, name) in [
            (SYN, "TCP SYN/Normal scan"),
            (0, "TCP NULL scan"),
            (FIN, "TCP FIN scan"),
            (FIN | PSH | URG, "TCP XMAS scan"),
            (0xc0 | SYN, "TCP SYN/Normal scan"),
            (SYN | FIN, "Unknown Type: TCP Packet Flags: SYN: 1 FIN: 1 ACK: 0 PSH: 0 URG: 0 RST: 0"),
        ] {
            let probe = Probe::of(&tcp4(flags, 0)).unwrap();
            assert_eq!((probe.kind.to_string().as_str(), probe.port), (name, 111));
            assert_eq!((probe.source.to_string(), probe.ip_options), ("203.0.113.9".to_owned(), IpOptions::NotSet));
        }
        assert_eq!(Probe::of(&tcp4(SYN, 8)).unwrap().ip_options, IpOptions::Set);
    }

    #[test]
    fn extension_headers_first_fragments_and_cuts() {
        let hop = [60, 0, 0, 0, 0, 0, 0, 0];
        let options = [44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first = [TCP, 0, 0, 1, 0, 0, 0, 1];
        let later = [TCP, 0, 0, 9, 0, 0, 0, 1];
        assert_eq!(Probe::of(&tcp6(&[], TCP)).unwrap().kind, Kind::Tcp(SYN));
        assert_eq!(Probe::of(&tcp6(&[&hop, &options, &first], 0)).unwrap().port, 111);
        assert_eq!(Probe::of(&tcp6(&[&later], 44)), None);
        let whole = tcp4(SYN, 0);
        assert!(Probe::of(&whole[..34]).is_some(), "cut behind the flags");
        assert_eq!(Probe::of(&whole[..33]), None);
        let mut fragment = whole;
        fragment[7] = 1;
        assert_eq!(Probe::of(&fragment), None);
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd(mut bytes in proptest::collection::vec(any::<u8>(), 0..128), version in prop_oneof![Just(4u8), Just(6)]) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0x0f);
            }
            let _ = Probe::of(&bytes);
        }
    }
}
