//! What a start takes: the ignore list, whom an earlier run blocked, and that no other one watches already.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, TryLockError};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::blocked_file;
use super::config::Config;
use super::invocation::Mode;
use super::split::RUNTIME_DIRECTORY;
use super::table::Table;
use crate::blocks::{IgnoreList, own_files};
use crate::syntax::Dialect;

/// The ignore list, with its complaints; an empty one where the configuration names none.
pub fn ignore_list(config: &Config, dialect: Dialect) -> Result<(IgnoreList, Vec<String>)> {
    match &config.ignore_file {
        Some(path) => IgnoreList::read(path, dialect),
        None => Ok((IgnoreList::default(), Vec::new())),
    }
}

/// 1.2 has a file a mode.
pub fn blocked_path(config: &Config, mode: Mode) -> Option<PathBuf> {
    let path = config.blocked_file.clone()?;
    Some(match mode.dialect() {
        Dialect::V1 => PathBuf::from(format!("{}.{}", path.display(), mode.name())),
        Dialect::V2 => path,
    })
}

/// Whom an earlier run blocked; 1.2 forgets them.
pub fn blocked_hosts(config: &Config, mode: Mode) -> Result<HashSet<IpAddr>> {
    let Some(path) = blocked_path(config, mode) else { return Ok(HashSet::new()) };
    if mode.dialect() == Dialect::V1 {
        if path.exists() {
            std::fs::write(&path, b"").with_context(|| format!("cannot empty {}", path.display()))?;
        }
        return Ok(HashSet::new());
    }
    match std::fs::read(&path) {
        Ok(bytes) => blocked_file::read(&bytes).with_context(|| {
            format!(
                "{} is no list of blocked hosts; remove it, and the hosts in it can be blocked again",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A lock that one process of this network namespace can hold, whoever it runs as, and that is free again when it ends,
/// however it ends. `None` where this process may not make one: without that right it could load no table either.
pub fn only_one(mode: Mode) -> Result<Option<File>> {
    let namespace =
        std::fs::metadata("/proc/self/ns/net").context("cannot tell this network namespace from others")?.ino();
    // That of the unit, which keeps it when it stops (RuntimeDirectoryPreserve=).
    let _ = DirBuilder::new().mode(0o700).create(RUNTIME_DIRECTORY);
    let path = Path::new(RUNTIME_DIRECTORY).join(format!("{}-{namespace}.lock", Table::name(mode)));
    let mut options = File::options();
    let opened = own_files::open(&path, options.write(true).create(true).truncate(false).mode(0o600));
    let file = match opened {
        Ok(file) => file,
        Err(_) if mode.connects() => return Ok(None),
        Err(error) => {
            let path = path.display();
            return Err(error).with_context(|| format!("cannot make sure that no other one is watching: {path}"));
        }
    };
    own_files::give_to_owner_of_directory(&path, &file);
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("another one is watching already, in mode {} in this network namespace; stop it first", mode.name())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
