//! Packets of real scans, as they stood on a wire: nmap 7.93 from 192.0.2.2 or fd77::2 asking 192.0.2.1 or fd77::1 for the
//! ports 7, 9 and 11, taken by tcpdump (Ethernet, 128 bytes of each).

use std::collections::BTreeSet;
use std::fs;

use harden_portsentry::daemon::Probe;

/// The packets of a capture, from their network header on (pcap, as `tcpdump -w` writes it on a little-endian machine).
fn packets(name: &str) -> Vec<Vec<u8>> {
    const HEADER: usize = 24;
    const ETHERNET: usize = 14;
    let bytes = fs::read(format!("{}/fixtures/captures/{name}.pcap", env!("CARGO_MANIFEST_DIR"))).expect("a fixture");
    assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1], "{name}: no pcap of microseconds");
    let mut found = Vec::new();
    let mut rest = &bytes[HEADER..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        found.push(rest[16 + ETHERNET..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    assert!(!found.is_empty(), "{name} is empty");
    found
}

/// What the probes of a capture are called; the RST by which nmap's own kernel answers an answer is none.
fn kinds(name: &str) -> BTreeSet<(u16, String)> {
    let probes = packets(name).into_iter().filter_map(|packet| Probe::of(&packet));
    let asked = probes.filter(|probe| [7, 9, 11].contains(&probe.port));
    asked.map(|probe| (probe.port, probe.kind.to_string())).filter(|(_, kind)| !kind.contains("RST: 1")).collect()
}

#[test]
fn every_kind_of_scan_is_told_by_its_name_in_both_families() {
    for (name, kind) in [
        ("syn", "TCP SYN/Normal scan"),
        ("syn6", "TCP SYN/Normal scan"),
        ("options", "TCP SYN/Normal scan"),
        ("fin", "TCP FIN scan"),
        ("fin6", "TCP FIN scan"),
        ("null", "TCP NULL scan"),
        ("xmas", "TCP XMAS scan"),
        ("ack", "TCP ACK scan"),
        ("maimon", "TCP Maimon scan"),
        ("udp", "UDP"),
        ("udp6", "UDP"),
    ] {
        let wanted = [7, 9, 11].map(|port| (port, kind.to_owned()));
        assert_eq!(kinds(name), BTreeSet::from(wanted), "{name}");
    }
}

#[test]
fn ip_options_are_noticed() {
    let options = |name: &str| -> BTreeSet<String> {
        packets(name).iter().filter_map(|packet| Probe::of(packet)).map(|probe| probe.ip_options.to_string()).collect()
    };
    assert_eq!(options("options"), BTreeSet::from(["set".to_owned()]));
    assert_eq!(options("fin"), BTreeSet::from(["not set".to_owned()]));
    assert_eq!(options("fin6"), BTreeSet::from(["unknown".to_owned()]));
}

/// nmap -f sends eight bytes of TCP at a time. The kernel puts fragments together before it looks for a socket, so what
/// is handed up is whole; a piece by itself is never taken for a probe of a kind that nobody sent.
#[test]
fn a_piece_of_a_packet_is_no_probe() {
    assert_eq!(kinds("fragments"), BTreeSet::new());
}

/// Cut anywhere, a packet is the same probe or none.
#[test]
fn a_cut_packet_is_the_same_probe_or_none() {
    for name in ["syn", "syn6", "options", "xmas", "udp", "udp6", "null"] {
        for packet in packets(name) {
            let whole = Probe::of(&packet);
            for end in 0..packet.len() {
                let cut = Probe::of(&packet[..end]);
                assert!(cut.is_none() || cut == whole, "{name} cut at {end}: {cut:?}, {whole:?}");
            }
        }
    }
}
