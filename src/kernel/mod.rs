//! What the kernel is asked directly, by netlink: addresses, routes, packets that a rule hands up, elements of
//! sets, counters.

mod addresses;
mod nflog;
mod nftables;

pub use addresses::{Gateway, InterfaceAddress, addresses, default_gateways};
pub use nflog::{Logged, Nflog, QUEUE, Received, SNAPLEN, packets};
pub use nftables::{counted_packets, empty_sets};
