//! Where a value came from, in words that a person can follow.

use std::fmt;
use std::path::PathBuf;

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that nobody set.
    pub fn default(value: T) -> Sourced<T> {
        Sourced { value, origin: Origin::Default }
    }
}

/// The place a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    /// A line of config.env or policy.toml, counted from 1.
    Line(PathBuf, usize),
    Environment(String),
    /// Read off the machine; from what, in words.
    Detected(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => write!(out, "{name}"),
            Origin::Line(path, line) => write!(out, "{}, line {line}", path.display()),
            Origin::Environment(name) => write!(out, "environment variable {name}"),
            Origin::Detected(what) => write!(out, "read off this host: {what}"),
            Origin::Default => write!(out, "default"),
        }
    }
}
