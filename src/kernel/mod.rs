//! What the kernel is asked directly, by netlink: addresses, routes, packets that a rule hands up, elements of sets.

mod addresses;
mod nflog;
mod sets;

pub use addresses::{Gateway, InterfaceAddress, addresses, default_gateways};
pub use nflog::{Logged, Nflog, Received, SNAPLEN, packets};
pub use sets::empty_sets;
