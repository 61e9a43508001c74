//! A blocked file of 2.0: no panic; what is read is written the same.
#![no_main]

use harden_portsentry::daemon::blocked_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hosts) = blocked_file::read(bytes) {
        let written: Vec<u8> = hosts.iter().flat_map(|host| blocked_file::record(*host)).collect();
        assert_eq!(blocked_file::read(&written).expect("what was written"), hosts);
    }
});
