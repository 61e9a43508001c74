//! The kinds of change, and the plan that holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::blocks::Difference;
use crate::host::Candidate;

/// Everything that apply would do, in the order of the article.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
}

/// One section of the article.
#[derive(Debug, Clone)]
pub struct Step {
    /// Short and stable, for JSON: `listening`.
    pub id: &'static str,
    pub title: &'static str,
    /// The end state in one line.
    pub summary: String,
    /// The article's own heading, in French as it stands there.
    pub section: &'static str,
    pub changes: Vec<Change>,
    pub notes: Vec<Note>,
}

/// Something to know about a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Good to know.
    Info(String),
    /// It weakens the end state, and somebody should decide about it.
    Warning(String),
}

/// One change of the machine.
#[derive(Debug, Clone)]
pub enum Change {
    Packages(PackageChange),
    File(FileChange),
    Program(ProgramChange),
    Unit(UnitChange),
    /// Whom others block, by rules and lines of their own, comes into the ledger.
    Blocks(BTreeSet<IpAddr>),
    /// Lists that say otherwise than the ledger who is blocked follow it.
    Lists(BTreeMap<IpAddr, BTreeSet<Difference>>),
    Later(Later),
}

/// Packages to be installed or mended.
#[derive(Debug, Clone, Default)]
pub struct PackageChange {
    /// For debconf-set-selections, before the installation.
    pub preseed: Option<String>,
    /// Names, as given to apt-get install.
    pub install: Vec<String>,
    /// What apt would bring, dependencies included; empty while apt does not know them.
    pub candidates: Vec<Candidate>,
    /// Packages that are there, but whose deleted conffiles have to come back.
    pub reinstall: Vec<String>,
    /// apt does not know a name yet: its lists are to be fetched first.
    pub update_first: bool,
    /// dpkg was interrupted: `dpkg --configure -a` first.
    pub finish_configuring: bool,
    pub why: String,
}

/// How a file of ours is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Restored byte for byte.
    Whole,
    /// hosts.allow: our marked entries go, foreign lines stay.
    HostsAccess,
    /// The ignore list: our marked entries go, foreign lines stay.
    AddressList,
    /// hosts.deny: what the daemon added and our marked entry go, foreign lines stay.
    Blocks,
    /// Records of what happened: removed only if still empty.
    Log,
    /// Rebuilt by the package from another file: removed if it was not there.
    Generated,
}

/// A file's content, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    pub path: PathBuf,
    /// `None`: there was none.
    pub before: Option<Vec<u8>>,
    /// `None`: it goes.
    pub after: Option<Vec<u8>>,
    /// Permission bits of a new file.
    pub mode: u32,
    pub kind: FileKind,
    pub why: String,
    /// Where the bytes really are, if `path` is a link.
    pub follows_link_to: Option<PathBuf>,
}

/// This program, put where it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramChange {
    pub from: PathBuf,
    pub to: PathBuf,
    /// In bytes.
    pub size: u64,
    pub replaces: bool,
}

/// What is done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitAction {
    Enable,
    Disable,
    Restart,
    Stop,
}

/// One change of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitChange {
    pub unit: String,
    pub action: UnitAction,
    pub why: String,
}

/// A change that is sure to come and cannot be shown yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    pub path: PathBuf,
    pub why: String,
}

impl UnitAction {
    /// The verb, for `systemctl VERB UNIT`.
    pub fn verb(self) -> &'static str {
        match self {
            UnitAction::Enable => "enable",
            UnitAction::Disable => "disable",
            UnitAction::Restart => "restart",
            UnitAction::Stop => "stop",
        }
    }
}

impl Step {
    /// A step without changes yet.
    pub fn new(id: &'static str, title: &'static str, section: &'static str) -> Step {
        Step { id, title, section, summary: String::new(), changes: Vec::new(), notes: Vec::new() }
    }

    /// Adds a file change, if there is one.
    pub fn file(&mut self, change: Option<FileChange>) {
        self.changes.extend(change.map(Change::File));
    }

    /// Adds a change of a service.
    pub fn unit(&mut self, unit: &str, action: UnitAction, why: impl Into<String>) {
        self.changes.push(Change::Unit(UnitChange { unit: unit.to_owned(), action, why: why.into() }));
    }

    /// Adds something good to know.
    pub fn info(&mut self, text: impl Into<String>) {
        self.notes.push(Note::Info(text.into()));
    }

    /// Adds something to decide about.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.notes.push(Note::Warning(text.into()));
    }
}

impl Plan {
    /// Every change, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.steps.iter().flat_map(|step| &step.changes)
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes().next().is_none()
    }

    /// The file changes as they will be written: one a path, from what is there to the last step's word.
    pub fn files(&self) -> Vec<FileChange> {
        let mut merged: Vec<FileChange> = Vec::new();
        for change in self.changes() {
            let Change::File(change) = change else { continue };
            match merged.iter_mut().find(|known| known.path == change.path) {
                Some(known) => {
                    known.after.clone_from(&change.after);
                    if !known.why.contains(&change.why) {
                        known.why = format!("{}; {}", known.why, change.why);
                    }
                }
                None => merged.push(change.clone()),
            }
        }
        merged
    }

    /// The unit changes, in order, each once.
    pub fn units(&self) -> Vec<UnitChange> {
        let mut found: Vec<UnitChange> = Vec::new();
        for change in self.changes() {
            if let Change::Unit(change) = change
                && !found.iter().any(|known| known.unit == change.unit && known.action == change.action)
            {
                found.push(change.clone());
            }
        }
        found
    }

    /// The package changes, in order.
    pub fn packages(&self) -> impl Iterator<Item = &PackageChange> {
        self.changes().filter_map(|change| match change {
            Change::Packages(change) => Some(change),
            _ => None,
        })
    }

    /// The program, if it has to be put in place.
    pub fn program(&self) -> Option<&ProgramChange> {
        self.changes().find_map(|change| match change {
            Change::Program(change) => Some(change),
            _ => None,
        })
    }

    /// Whose blocks come into the ledger.
    pub fn blocks(&self) -> BTreeSet<IpAddr> {
        self.changes()
            .filter_map(|change| match change {
                Change::Blocks(addresses) => Some(addresses),
                _ => None,
            })
            .flatten()
            .copied()
            .collect()
    }

    /// Whether lists are to follow the ledger.
    pub fn mends_lists(&self) -> bool {
        self.changes().any(|change| matches!(change, Change::Lists(_)))
    }

    /// The paths whose changes are only known after the installation.
    pub fn later(&self) -> impl Iterator<Item = &Path> {
        self.changes().filter_map(|change| match change {
            Change::Later(later) => Some(later.path.as_path()),
            _ => None,
        })
    }
}
