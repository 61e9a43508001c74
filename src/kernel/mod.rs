//! What the kernel is asked directly, by netlink: addresses, routes, packets that a rule hands up, elements of
//! sets, counters; and in /proc who listens.

mod addresses;
mod listening;
mod nflog;
mod nftables;

pub use addresses::{Gateway, InterfaceAddress, addresses, default_gateways};
pub use listening::listening_ports;
pub use nflog::{Logged, Nflog, QUEUE, Received, SNAPLEN, packets};
pub use nftables::{TableChanges, counted_packets, empty_sets, has_table};
