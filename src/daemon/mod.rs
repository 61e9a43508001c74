//! The embedded portsentry: sees scans as Debian's does, and what that misses.
//!
//! The kernel picks the packets (`table`: those for ports without a socket, once or a few times a source, port and kind)
//! and hands them up by NFLOG; `probe` reads them, `decide` decides, `lines` words it, `output` writes it, `reactions` has done
//! what the configuration says (`commands`). `blocking` has the kernel block, `keeper` writes down whom, and `lookout` looks
//! who must not be. `metrics` counts.
//! `invocation` and `config` take portsentry's own command lines and files.
//!
//! Who watches may do little (`cage`); what takes more is done by another process (`responder`), which systemd starts, or,
//! where there is none, `split`.

mod alarms;
mod background;
pub mod blocked_file;
mod blocking;
mod cage;
mod commands;
mod config;
mod connect;
mod decide;
mod invocation;
mod journal;
mod keep;
mod keeper;
mod lines;
mod log;
mod lookout;
mod metrics;
mod names;
mod output;
mod ports;
mod probe;
mod reactions;
mod release;
pub mod responder;
mod run;
mod signals;
mod sources;
mod split;
mod start;
mod table;
mod telling;
mod threads;

use anyhow::Result;

pub use crate::blocks::IgnoreList;
pub use config::Config;
pub use invocation::{Asked, Interfaces, Invocation, Mode};
pub use keep::keep;
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
    // What is made has the mode that is said there, whoever starts this: node_exporter has to reach what it reads.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if !invocation.background {
        return run::run(invocation, None);
    }
    if background::is_child() {
        return run::run(invocation, Some(background::detach()?));
    }
    background::start(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a comma, as people read them.
    fn grouped(thousands: usize) -> String {
        format!("{},{:03}", thousands / 1000, thousands % 1000)
    }

    #[test]
    fn the_man_page_has_the_bounds() {
        let page = include_str!("../../docs/man/harden-portsentry-daemon.8").replace("\\-", "-");
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        for says in [
            format!("{} lines in {} minutes", grouped(decide::LINES as usize), decide::LINES_WINDOW / 60),
            format!(
                "{} lines at once and {} a second",
                grouped(decide::STRANGERS as usize),
                decide::STRANGERS_A_SECOND
            ),
            format!(
                "{} sources are remembered with their hits, in {} buckets of {}",
                grouped(sources::SOURCES),
                sources::BUCKETS,
                sources::BUCKET
            ),
            format!("{} triples", grouped(table::SIZE as usize)),
            format!("a socket of {} MiB", crate::kernel::QUEUE >> 21),
            format!("{} hosts wait to be blocked", grouped(reactions::WAITING)),
            format!("longer than {} seconds is killed", commands::LIMIT.as_secs()),
            format!("{} wait for their names", grouped(names::WAITING)),
            format!(
                "Lines wait in {} MiB of memory, and for the log in {} MiB more",
                output::WAITING_BYTES >> 20,
                log::WAITING_BYTES >> 20
            ),
        ] {
            assert!(page.contains(&says), "{says}");
        }
        assert_eq!(
            (names::PATIENCE.as_secs(), table::WINDOW_SECONDS, decide::AMBIGUOUS_PORTS),
            (2, 600, 3),
            "in words"
        );
    }
}
