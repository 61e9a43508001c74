//! One change at a time: the lock that apply and undo hold.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Host;
use super::packages::INSTALL_LIMIT;

const PATH: &str = "/var/lib/harden-portsentry/lock";
/// How long one change waits for another: as long as what installs packages may take.
const LIMIT: Duration = INSTALL_LIMIT;
/// After how long it is told without a name that somebody holds it.
const UNNAMED: Duration = Duration::from_secs(2);

/// Held while it lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `host` for `purpose` (such as `apply`), waiting half an hour at most; `waiting` is told
    /// once who holds it, if somebody does.
    ///
    /// # Errors
    /// Somebody held it for all of that time, or the lock file cannot be made.
    pub fn take(host: &Host, purpose: &str, waiting: impl FnOnce(&str)) -> Result<Lock> {
        let path = host.outside(Path::new(PATH));
        let doing = || format!("cannot take the lock {PATH}");
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(doing)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(doing)?;
        let start = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(doing),
            }
            let name = holder(&mut file);
            let holder = name.as_deref().unwrap_or("another process");
            // Who has just taken it has not written its name yet.
            if (name.is_some() || start.elapsed() >= UNNAMED)
                && let Some(tell) = waiting.take()
            {
                tell(holder);
            }
            if start.elapsed() >= LIMIT {
                bail!("{holder} is still changing this host after {} minutes", LIMIT.as_secs() / 60);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        file.set_len(0).with_context(doing)?;
        file.rewind().with_context(doing)?;
        write!(file, "{purpose} (process {})", std::process::id()).with_context(doing)?;
        Ok(Lock { _file: file })
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(200).read_to_string(&mut text)).ok()?;
    (!text.is_empty()).then(|| format!("another {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_just_taken_it_is_waited_for_until_it_says_its_name() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path()).unwrap();
        let first = Lock::take(&host, "apply", |_| {}).unwrap();
        first._file.set_len(0).unwrap();
        let (tells, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| Lock::take(&host, "apply", |holder| tells.send(holder.to_owned()).unwrap()).unwrap());
            assert!(told.recv_timeout(Duration::from_millis(500)).is_err(), "told without a name");
            (&first._file).rewind().unwrap();
            (&first._file).write_all(b"apply (process 7)").unwrap();
            assert_eq!(told.recv_timeout(Duration::from_secs(30)).as_deref(), Ok("another apply (process 7)"));
            drop(first);
        });
    }
}
