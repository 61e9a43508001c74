//! What the kernel is asked directly, by netlink: addresses, routes, packets that a rule hands up, elements of
//! sets of nftables and of ipset, counters; and in /proc who listens.

mod address_sets;
mod addresses;
mod elements;
mod ipset;
mod listening;
mod nflog;
mod nftables;
mod snapshot;

pub use address_sets::{AddressSets, is_full};
pub use addresses::{Gateway, InterfaceAddress, NetworkChanges, addresses, default_gateways};
pub use elements::Stay;
pub use ipset::IpSets;
pub use listening::{is_connected, listening_ports};
pub use nflog::{Logged, Nflog, QUEUE, Received, SNAPLEN, packets};
pub use nftables::{Gone, TableChanges, count_rules, counted_packets, empty_sets, has_chain, has_table};
pub use snapshot::{Snapshot, is_there_already};
