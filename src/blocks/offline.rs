//! What is done where no daemon runs: the lock, a look, the end of it all.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::clock::Now;
use super::control::Listed;
use super::denied::DENIED;
use super::state::State;
use super::table;
use super::{Busy, DIRECTORY, ledger, listed, own_files};

/// Where the daemon's unit lets it write its metrics.
pub const METRICS: &str = "/var/lib/harden-portsentry/metrics";

/// Who is blocked; changes nothing.
///
/// # Errors
/// The ledger cannot be read, or the kernel refuses.
pub fn look() -> Result<Vec<Listed>> {
    let records = ledger::load(&Path::new(DIRECTORY).join("ledger"))?.records;
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let now = Now::read();
    Ok(listed(&State::of(&records, now), &table::blocked_by_any()?, now))
}

/// Whether anybody was ever blocked, or could have been: there is a ledger, or something in the kernel.
///
/// # Errors
/// The kernel refuses to tell.
pub fn is_begun() -> Result<bool> {
    Ok(Path::new(DIRECTORY).join("ledger").exists() || table::any_is_there()?)
}

/// Takes out of the kernel what blocks: everybody is free until it is loaded again.
///
/// # Errors
/// The kernel refuses.
pub fn unload() -> Result<()> {
    table::remove_all()
}

/// Frees everybody and forgets all: what is in the kernel, the ledger, the file that hosts.deny named.
///
/// # Errors
/// A daemon runs ([`Busy`]), the kernel refuses, or a file cannot be removed.
pub fn end() -> Result<()> {
    let directory = Path::new(DIRECTORY);
    if directory.exists() {
        let _lock = lock(directory)?;
        table::remove_all()?;
        gone(std::fs::remove_dir_all(directory), directory)?;
    }
    for denied in [Path::new(DENIED), &Path::new(DENIED).with_extension("new")] {
        gone(std::fs::remove_file(denied), denied)?;
    }
    end_metrics()
}

/// Removes the metrics of a daemon that is not there any more.
///
/// # Errors
/// They cannot be removed.
pub fn end_metrics() -> Result<()> {
    gone(std::fs::remove_dir_all(METRICS), Path::new(METRICS))
}

/// What came of removing `path`, where it need not be there.
fn gone(result: std::io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The lock of `directory`, which is made where it is missing. `None` where there can be none, on a disk that is
/// read-only: a host that scans is blocked all the same, and the ledger complains.
///
/// # Errors
/// [`Busy`], or it cannot be taken for another reason.
pub fn lock(directory: &Path) -> Result<Option<File>> {
    let path = directory.join("lock");
    let doing = || format!("cannot take the lock {}", path.display());
    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let opened = made.and_then(|()| own_files::open(&path, &mut options)).or_else(|error| match error.kind() {
        // One that is there can be locked all the same.
        ErrorKind::ReadOnlyFilesystem => match own_files::open(&path, File::options().read(true)) {
            Err(missing) if missing.kind() == ErrorKind::NotFound => Err(error),
            other => other,
        },
        _ => Err(error),
    });
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => return Ok(None),
        Err(error) => return Err(error).with_context(doing),
    };
    own_files::give_to_owner_of_directory(&path, &file);
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Busy.into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_no_file_is_an_error_and_no_licence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(directory.path()).unwrap();
        assert!(held.is_some() && lock(directory.path()).unwrap_err().is::<Busy>());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(lock(directory.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(directory.path().join("other"), "").unwrap();
        std::fs::hard_link(directory.path().join("other"), &path).unwrap();
        assert!(lock(directory.path()).is_err());
    }
}
