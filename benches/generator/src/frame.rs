//! A TCP SYN in an Ethernet frame.

pub const LENGTH: usize = 14 + 20 + 24;
pub type Frame = [u8; LENGTH];

/// A SYN to `to`, everything but the source and the ports filled in.
pub fn template(mac: [u8; 6], to: u32) -> Frame {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    let ip = &mut frame[14..34];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&44_u16.to_be_bytes());
    ip[6] = 0x40; // do not fragment
    ip[8] = 64;
    ip[9] = 6;
    ip[16..20].copy_from_slice(&to.to_be_bytes());
    let tcp = &mut frame[34..];
    tcp[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    tcp[12] = 6 << 4;
    tcp[13] = 2; // SYN
    tcp[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    tcp[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]); // MSS 1460
    frame
}

/// Fills in who asks what, and both checksums.
pub fn address(frame: &mut Frame, from: u32, source_port: u16, port: u16) {
    frame[26..30].copy_from_slice(&from.to_be_bytes());
    frame[34..36].copy_from_slice(&source_port.to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[24..26].fill(0);
    let header = folded(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[50..52].fill(0);
    let segment = folded(sum(&frame[26..58]) + 6 + 24); // the addresses belong to it, with protocol and length
    frame[50..52].copy_from_slice(&segment.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
