//! Into the background, as 1.2 goes by itself and 2.0 with -D: the caller gets its shell back once the daemon watches.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, bail};

use crate::host::start_detached;

/// Names the socket by which the daemon says that it watches.
const READY: &str = "HARDEN_PORTSENTRY_READY";
/// What it says there.
const WATCHING: &str = "watching\n";

/// Whether this process is the one in the background.
pub fn is_child() -> bool {
    std::env::var_os(READY).is_some()
}

/// Starts this program again with the same words, in a session of its own, and waits until it watches.
///
/// # Errors
/// It cannot be started, or ended before it watched; why, it has said on stderr.
pub fn start(words: &[String]) -> Result<()> {
    let directory = tempfile::tempdir().context("cannot make a private directory")?;
    let path = directory.path().join("ready");
    let listener = UnixListener::bind(&path).context("cannot make a socket")?;
    listener.set_nonblocking(true).context("cannot make a socket")?;
    let mut child = start_detached(words, (READY, &path.to_string_lossy()))?;
    loop {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut word = String::new();
            let _ = stream.set_nonblocking(false).and_then(|()| stream.read_to_string(&mut word).map(drop));
            if word == WATCHING {
                return Ok(());
            }
        }
        if let Some(status) = child.try_wait().context("cannot wait for the daemon")? {
            bail!("the daemon ended before it watched ({status})");
        }
        let mut waiting = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut waiting, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
    }
}

/// Whoever started the daemon, and waits.
pub struct Caller(UnixStream);

/// In the background: leaves the caller's session and terminal, and connects to it, for the socket is the caller's, and
/// this process is going to be another user.
///
/// # Errors
/// The caller is gone.
pub fn detach() -> Result<Caller> {
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    let path = std::env::var_os(READY).unwrap_or_default();
    UnixStream::connect(path).map(Caller).context("whoever started this does not wait for it")
}

impl Caller {
    /// Says that it watches.
    pub fn tell_ready(mut self) {
        let _ = self.0.write_all(WATCHING.as_bytes());
        // Until now it had the caller's stderr, to say what is wrong; held on to, the caller's pipe would never end.
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stderr(&null);
        }
    }
}
