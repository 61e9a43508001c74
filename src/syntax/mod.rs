//! Lossless documents: parse, edit one key, print; an unedited document prints as it was read.
//!
//! Everything here is pure: bytes go in, bytes and values come out. No clock, no file, no process. The bytes may be
//! hand-edited or hostile; nothing panics on them.

use std::fmt;

pub mod address_list;
mod c_text;
pub mod hosts_access;
pub mod ini;
mod lines;
mod marker;
pub mod portsentry_conf;
pub mod shell_vars;

/// Which portsentry reads a file. The two programs share file names and key names, and disagree on nearly every
/// detail of how they read them. The installed package's version decides which one it is, never the file (trap 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// portsentry 1.2, on Debian 11 to 13.
    V1,
    /// portsentry 2.0, on Debian 14. Measured with 2.0.7.
    V2,
}

/// A line that cannot be used as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl SyntaxError {
    fn new(line: usize, message: impl fmt::Display) -> Self {
        Self { line, message: message.to_string() }
    }
}

/// A value that the destination would not read back as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct ValueError {
    /// The key or entry that was to be written.
    pub key: String,
    /// Why it was refused, and what to do instead.
    pub message: String,
}

impl ValueError {
    fn new(key: &str, message: impl fmt::Display) -> Self {
        Self { key: key.to_owned(), message: message.to_string() }
    }
}
