//! The embedded portsentry: sees scans as Debian's does, and what that misses.
//!
//! The kernel picks the packets (`table`: those for ports without a socket, once or a few times a source, port and kind)
//! and hands them up by NFLOG; `probe` reads them, `decide` decides, `lines` words it, `output` writes it, `respond` runs
//! what the configuration says. `invocation` and `config` take portsentry's own command lines and files.

mod background;
pub mod blocked_file;
mod config;
mod connect;
mod decide;
mod ignore;
mod invocation;
mod lines;
mod names;
mod output;
mod ports;
mod probe;
mod respond;
mod run;
mod table;

use anyhow::Result;

pub use config::Config;
pub use ignore::IgnoreList;
pub use invocation::{Asked, Interfaces, Invocation, Mode};
pub use probe::Probe;
pub use table::ruleset_for;

/// What `-V` says, and the first line of a start.
pub fn version() -> String {
    format!("Portsentry 2.0.7 (harden-portsentry {})", env!("CARGO_PKG_VERSION"))
}

/// Runs it; in the background, if that was asked for. `words` are those of the command line, to start it again with.
///
/// # Errors
/// It cannot watch.
pub fn run(invocation: Invocation, words: &[String]) -> Result<()> {
    if !invocation.background {
        return run::run(invocation);
    }
    if background::is_child() {
        background::detach();
        return run::run(invocation);
    }
    background::start(words)
}
