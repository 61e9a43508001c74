//! A packet from the network: no panic, and a cut one is the same probe or none.
#![no_main]

use harden_portsentry::daemon::Probe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let whole = Probe::of(packet);
    let cut = Probe::of(&packet[..packet.len() / 2]);
    assert!(cut.is_none() || cut == whole);
    if let Some(probe) = whole {
        let _ = probe.kind.to_string();
    }
});
