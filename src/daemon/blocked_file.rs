//! BLOCKED_FILE: whom the daemon has blocked, as each generation keeps it.
//!
//! 2.0: per host the address family as a native u16 and the address, 6 or 18 bytes, kept over restarts. 1.2: its
//! history lines, in `BLOCKED_FILE.MODE`, emptied at each start.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

/// Linux's numbers of address families.
const INET: u16 = 2;
const INET6: u16 = 10;

/// One record of 2.0.
pub fn record(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => [&INET.to_ne_bytes()[..], &v4.octets()].concat(),
        IpAddr::V6(v6) => [&INET6.to_ne_bytes()[..], &v6.octets()].concat(),
    }
}

/// The records of a file of 2.0.
///
/// # Errors
/// It holds something else; `InvalidData` says from which byte on.
pub fn read(bytes: &[u8]) -> io::Result<HashSet<IpAddr>> {
    let mut found = HashSet::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("byte {}", bytes.len() - rest.len()));
        let (family, address) = rest.split_first_chunk::<2>().ok_or_else(broken)?;
        rest = match u16::from_ne_bytes(*family) {
            INET => {
                let (address, after) = address.split_first_chunk::<4>().ok_or_else(broken)?;
                found.insert(IpAddr::from(*address));
                after
            }
            INET6 => {
                let (address, after) = address.split_first_chunk::<16>().ok_or_else(broken)?;
                found.insert(IpAddr::from(*address));
                after
            }
            _ => return Err(broken()),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_portsentry_2_0_7_wrote_it() {
        let written = [2, 0, 0xcb, 0, 0x71, 9, 10, 0, 0xfd, 0x66, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let hosts: [IpAddr; 2] = ["203.0.113.9".parse().unwrap(), "fd66::9".parse().unwrap()];
        assert_eq!(read(&written).unwrap(), HashSet::from(hosts));
        if cfg!(target_endian = "little") {
            assert_eq!(hosts.map(record).concat(), written);
        }
        assert_eq!(read(&written[..20]).unwrap_err().to_string(), "byte 6");
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(bytes in proptest::collection::vec(0u8..12, 0..60)) {
            let _ = read(&bytes);
        }
    }
}
