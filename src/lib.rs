//! Provisions, checks and takes back portsentry on Debian.
pub mod host;
pub mod kernel;
pub mod syntax;
