//! A datagram of NFLOG: no panic, and what is handed out lies within it.
#![no_main]

use harden_portsentry::kernel::packets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let handed: usize = packets(datagram).map(|logged| logged.packet.len() + logged.prefix.len()).sum();
    assert!(handed <= datagram.len());
});
