//! Provisions, checks and takes back portsentry on Debian.
pub mod syntax;
