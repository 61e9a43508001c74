//! Network namespaces: a thread can have sockets of several.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes this thread into the namespace of `path`; returns the one that it was in.
pub fn enter(path: &str) -> io::Result<File> {
    let before = File::open("/proc/thread-self/ns/net")?;
    enter_file(&File::open(path)?)?;
    Ok(before)
}

pub fn enter_file(space: &File) -> io::Result<()> {
    // SAFETY: a plain call with an open file.
    match unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
