//! One change at a time: the lock that apply and undo hold.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Host;

const PATH: &str = "/var/lib/harden-portsentry/lock";

/// Held while it lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `host` for `purpose` (such as `apply`), waiting `limit` at most; `waiting` is told
    /// once who holds it, if somebody does.
    ///
    /// # Errors
    /// Somebody held it for all of `limit`, or the lock file cannot be made.
    pub fn take(host: &Host, purpose: &str, limit: Duration, waiting: impl FnOnce(&str)) -> Result<Lock> {
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
            let holder = holder(&mut file);
            if let Some(tell) = waiting.take() {
                tell(&holder);
            }
            if start.elapsed() >= limit {
                bail!("{holder} is still changing this host after {} s; try again when it is done", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        file.set_len(0).with_context(doing)?;
        file.rewind().with_context(doing)?;
        write!(file, "{purpose} (process {})", std::process::id()).with_context(doing)?;
        Ok(Lock { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(200).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => format!("another {text}"),
        _ => "another process".to_owned(),
    }
}
