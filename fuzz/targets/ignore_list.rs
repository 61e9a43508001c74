//! An ignore list, as each generation reads it: no panic.
#![no_main]

use harden_portsentry::daemon::IgnoreList;
use harden_portsentry::syntax::Dialect;
use harden_portsentry::syntax::address_list::AddressList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let list = AddressList::parse(bytes);
    for dialect in [Dialect::V1, Dialect::V2] {
        let networks = list.honoured(dialect);
        let ignore = IgnoreList::of(networks.clone());
        for network in networks {
            assert!(ignore.contains(network.addr()) && ignore.contains(network.broadcast()));
        }
        let _ = list.not_honoured(dialect);
    }
    assert_eq!(list.to_bytes(), bytes);
});
