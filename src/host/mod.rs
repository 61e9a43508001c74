//! The only code that touches this machine: files, commands, packages, units, and facts read off it.
//!
//! A [`Host`] has a root directory, so that the same code serves `/`, a mounted image and a fixture.

mod age;
mod bans;
mod chain_name;
mod chaos;
mod commands;
mod deadline;
mod dpkg_archive;
mod facts;
mod fail2ban_server;
mod files;
mod firewall;
mod kept_table;
mod lock;
mod network;
mod nflog;
mod packages;
mod processes;
mod ssh_client;
mod units;
mod users;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use age::{age, local};
pub use bans::{JAIL, JAIL_FILE};
pub use chain_name::ChainName;
pub use chaos::{CHAOS_MARK, CHAOS_RULE, ChaosSupport, kernel_release, secure_boot};
pub use commands::{CommandOutput, Detached, Invocation, start_detached, start_with_stdin};
pub use deadline::uptime;
pub use facts::{BLOCKS_UNIT, CHAOS_UNIT, EMBEDDED_UNIT, Facts, Generation, KEEPER_UNIT, RESPONDER_SOCKETS, Release};
pub use files::{FileState, Link, sibling_for_writing};
pub use firewall::{Backend, Firewall, RuleList, blocking_tables, is_block, program as iptables, tracks_connections};
pub use kept_table::{Again, KeptTable, Text};
pub use lock::Lock;
pub use network::{Network, SourcedAddress};
pub use nflog::{hears_nothing, nflog_groups};
pub use packages::{Candidate, Installed, Packages, Simulation, no_such_package};
pub use processes::Process;
pub use ssh_client::ssh_clients;
pub use units::{ServiceManager, UnitState, Units};
pub use users::{EMBEDDED_USER, SYSUSERS};

/// A Debian to look at and to change: the running one, or a root directory that is not running.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The Debian below `root`; `/` is the running one.
    ///
    /// # Errors
    /// `root` does not exist or is no directory.
    pub fn new(root: &Path) -> Result<Host> {
        let root = std::fs::canonicalize(root).with_context(|| format!("cannot use --root {}", root.display()))?;
        if !root.is_dir() {
            bail!("cannot use --root {}: it is not a directory", root.display());
        }
        Ok(Host { root })
    }

    /// Whether this is the running system: services can be started, the kernel can be asked.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory that stands for `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How this program is called with `command` for this Debian, for a person to type.
    pub fn command_line(&self, command: &str) -> String {
        if self.is_live() {
            format!("harden-portsentry {command}")
        } else {
            format!("harden-portsentry {command} --root {}", self.root.display())
        }
    }

    /// Where `path`, absolute within this Debian, is seen from outside; links are not followed.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
