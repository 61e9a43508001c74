//! Signals, heard where everything else is waited for.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signals that a daemon hears, each by a socket that becomes readable.
pub struct Signals {
    pub end: UnixStream,
    pub reload: UnixStream,
}

impl Signals {
    /// Hears them from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Signals> {
        let pipe = |signals: &[i32]| -> Result<UnixStream> {
            let (read, write) = UnixStream::pair().context("cannot make a pipe for signals")?;
            read.set_nonblocking(true).context("cannot make a pipe for signals")?;
            for signal in signals {
                signal_hook::low_level::pipe::register(*signal, write.try_clone()?).context("cannot hear signals")?;
            }
            Ok(read)
        };
        Ok(Signals { end: pipe(&[SIGTERM, SIGINT])?, reload: pipe(&[SIGHUP])? })
    }
}

/// Waits until one of these can be read, a signal comes, or `limit` is over.
///
/// # Errors
/// The kernel refuses.
pub fn wait(these: &mut [PollFd<'_>], limit: Duration) -> Result<(), Errno> {
    match poll(these, limit.try_into().ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads all that is there.
pub fn drain(stream: &UnixStream) {
    use std::io::Read;
    let mut stream = stream;
    let mut bytes = [0; 64];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
}
