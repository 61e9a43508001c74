//! Addresses that are blocked already when a program starts, as it finds them.

use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;

use crate::{Settings, usage};

pub fn run(settings: &Settings) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let form = settings.need("form");
    let first = settings.address("from");
    let addresses = (0..settings.number("count", 1)).map(|number| Ipv4Addr::from(first.wrapping_add(number as u32)));
    match form {
        // src/blocks/record.rs
        "ledger" => {
            let (at, until) = (settings.need("at"), settings.need("until"));
            for address in addresses {
                let line = format!("{at} block {address} {until} 1 daemon probed tcp/23");
                writeln!(out, "{:08x} {line}", crc32(line.as_bytes()))?;
            }
        }
        // src/daemon/blocked_file.rs
        "portsentry" => {
            for address in addresses {
                out.write_all(&(libc::AF_INET as u16).to_ne_bytes())?;
                out.write_all(&address.octets())?;
            }
        }
        // iptables-restore(8)
        "iptables" => {
            writeln!(out, "*filter")?;
            for address in addresses {
                writeln!(out, "-A INPUT -s {address}/32 -j DROP")?;
            }
            writeln!(out, "COMMIT")?;
        }
        _ => usage(&format!("form={form}")),
    }
    out.flush()
}

/// CRC-32 as ISO 3309 has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}
