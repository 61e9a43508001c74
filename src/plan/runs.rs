//! The applies of this machine, each a numbered directory with a journal.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::Host;

use super::confirmation::Confirmation;
use super::journal::{self, Record};

const DIRECTORY: &str = "/var/lib/harden-portsentry/runs";

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It has no end: stopped, killed or under way.
    Unfinished,
    Applied,
    Undone,
}

/// One apply.
#[derive(Debug, Clone)]
pub struct Run {
    pub number: u32,
    /// Where its journal and copies are, as seen from outside.
    pub directory: PathBuf,
    pub records: Vec<Record>,
}

/// All of them, oldest first.
#[derive(Debug, Clone)]
pub struct Runs(pub Vec<Run>);

impl Runs {
    /// Reads those of `host`.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn read(host: &Host) -> Result<Runs> {
        let mut numbers: Vec<u32> = host.list(DIRECTORY).iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let runs = numbers
            .into_iter()
            .map(|number| {
                let directory = host.outside(&Path::new(DIRECTORY).join(number.to_string()));
                let records = journal::read(&directory).with_context(|| format!("cannot read run {number}"))?;
                Ok(Run { number, directory, records })
            })
            .collect::<Result<Vec<Run>>>()?;
        // A directory whose first record never came to be did nothing.
        Ok(Runs(runs.into_iter().filter(|run| !run.records.is_empty()).collect()))
    }

    /// The run to write to: the last one, if it was cut short, so that its originals stay the originals; else
    /// a new one.
    pub fn next(&self, host: &Host) -> Run {
        if let Some(last) = self.0.last().filter(|run| run.state() == RunState::Unfinished) {
            return last.clone();
        }
        let number = self.0.last().map_or(1, |run| run.number + 1);
        Run { number, directory: host.outside(&Path::new(DIRECTORY).join(number.to_string())), records: Vec::new() }
    }

    /// The last run that is not taken back.
    pub fn last_in_force(&self) -> Option<&Run> {
        self.0.iter().rev().find(|run| run.state() != RunState::Undone)
    }

    /// The run that somebody has to confirm, or that nobody did and that is not yet taken back.
    pub fn unconfirmed(&self) -> Option<&Run> {
        self.0.iter().rev().find(|run| {
            let open = matches!(run.confirmation(), Confirmation::Awaited { .. } | Confirmation::Missed);
            open && run.state() != RunState::Undone
        })
    }

    /// The runs to take back so that the machine is as before `number` (or before the last): newest first.
    ///
    /// # Errors
    /// There is none, no such one, or it is taken back already.
    pub fn to_undo(&self, number: Option<u32>) -> Result<Vec<&Run>> {
        let Some(last) = self.last_in_force() else {
            bail!(
                "there is nothing to undo: no apply of this machine is in force (`harden-portsentry runs` lists them)"
            );
        };
        let number = number.unwrap_or(last.number);
        match self.0.iter().find(|run| run.number == number) {
            None => bail!("there is no run {number}; `harden-portsentry runs` lists them"),
            Some(run) if run.state() == RunState::Undone => bail!("run {number} was already taken back"),
            Some(_) => {}
        }
        Ok(self.0.iter().rev().filter(|run| run.number >= number && run.state() != RunState::Undone).collect())
    }
}

impl Run {
    /// How far it came.
    pub fn state(&self) -> RunState {
        let has = |wanted: fn(&Record) -> bool| self.records.iter().any(wanted);
        if has(|record| matches!(record, Record::Undone { .. })) {
            RunState::Undone
        } else if has(|record| matches!(record, Record::Finished { .. })) {
            RunState::Applied
        } else {
            RunState::Unfinished
        }
    }

    /// The same run, with what its journal says by now.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn read_again(&self) -> Result<Run> {
        Ok(Run { records: journal::read(&self.directory)?, ..self.clone() })
    }

    /// When it started, as written in its journal (RFC 3339).
    pub fn started(&self) -> &str {
        self.records
            .iter()
            .find_map(|record| match record {
                Record::Started { at, .. } => Some(at.as_str()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// A copy that it kept.
    ///
    /// # Errors
    /// The copy cannot be read.
    pub fn copy(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read the copy {}", path.display()))
    }
}
