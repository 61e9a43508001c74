//! What the kernel is asked directly, by netlink: addresses and routes.

mod addresses;

pub use addresses::{Gateway, InterfaceAddress, addresses, default_gateways};
