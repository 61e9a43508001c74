//! Doing what the plan says, each step written to the journal before it is taken.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{Facts, Host, Packages, RuleList, Simulation, no_such_package};

use super::change::{FileChange, FileKind, PackageChange, Plan, ProgramChange, UnitAction, UnitChange};
use super::confirmation::awaiting;
use super::journal::{Journal, Kept, Record};
use super::runs::Run;

/// What happens, for a person to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something that takes a while begins.
    Begun(String),
    /// It ended.
    Ended(String),
}

/// Somebody asked to stop (Ctrl-C, SIGTERM); the step under way was finished.
#[derive(Debug, thiserror::Error)]
#[error(
    "stopped between two steps, as asked; `harden-portsentry apply` goes on from here, `harden-portsentry undo` takes it back"
)]
pub struct Stopped;

/// A run under way.
pub struct Execution<'a> {
    host: &'a Host,
    journal: Journal,
    /// Files and units whose first state this run has already recorded.
    known: HashSet<PathBuf>,
    observed: bool,
    packages_before: Option<Vec<String>>,
    stop: &'a AtomicBool,
    tell: &'a mut dyn FnMut(Event),
}

/// Opens the journal of `run`, new or cut short, ready to carry out a plan.
///
/// # Errors
/// The journal cannot be written; then nothing may be changed.
pub fn execute<'a>(
    host: &'a Host,
    run: &Run,
    stop: &'a AtomicBool,
    tell: &'a mut dyn FnMut(Event),
) -> Result<Execution<'a>> {
    let mut journal = Journal::open(&run.directory)?;
    if run.records.is_empty() {
        journal.add(&Record::Started {
            format: 1,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at: jiff::Timestamp::now().to_string(),
            rules_v4: RuleList::read(host, false).text(),
            rules_v6: RuleList::read(host, true).text(),
        })?;
    }
    let mut known = HashSet::new();
    let mut observed = false;
    let mut packages_before = None;
    for record in &run.records {
        match record {
            Record::File { path, .. } => drop(known.insert(path.clone())),
            Record::Unit { unit, .. } => drop(known.insert(PathBuf::from(unit))),
            Record::History { .. } => observed = true,
            Record::Packages { before, .. } if packages_before.is_none() => packages_before = Some(before.clone()),
            _ => {}
        }
    }
    Ok(Execution { host, journal, known, observed, packages_before, stop, tell })
}

impl Execution<'_> {
    /// Notes that somebody has to confirm this run `within` that time. Before the first change, so that nothing is changed
    /// that would not be taken back.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn await_confirmation(&mut self, within: Duration) -> Result<()> {
        self.journal.add(&awaiting(within))
    }

    /// Puts this program where it stays.
    ///
    /// # Errors
    /// The file system refuses, or somebody asked to stop.
    pub fn program(&mut self, change: &ProgramChange) -> Result<()> {
        let bytes = std::fs::read(&change.from).with_context(|| format!("cannot read {}", change.from.display()))?;
        let before = self.host.read(&change.to)?.map(|state| state.bytes);
        self.file(&FileChange {
            path: change.to.clone(),
            before,
            after: Some(bytes),
            mode: 0o755,
            kind: FileKind::Whole,
            why: String::new(),
            follows_link_to: None,
        })
    }

    /// Installs and mends packages. Returns the names that came new.
    ///
    /// # Errors
    /// apt's or dpkg's own words, or somebody asked to stop.
    pub fn packages(&mut self, change: &PackageChange) -> Result<Vec<String>> {
        self.pause()?;
        let before = match &self.packages_before {
            Some(before) => before.clone(),
            None => Packages::all(self.host)?,
        };
        self.packages_before = Some(before.clone());
        let wanted = change.install.iter().chain(&change.reinstall).cloned().collect();
        self.journal.add(&Record::Packages { before: before.clone(), wanted })?;
        if change.finish_configuring {
            self.long("finishing an interrupted installation (dpkg --configure -a)", |host| host.finish_configuring())?;
        }
        if change.update_first {
            self.long("fetching the package lists (apt-get update)", Host::update_package_lists)?;
            if let Simulation::Unknown(name) = self.host.simulate_install(&change.install)? {
                return Err(no_such_package(&name));
            }
        }
        if let Some(answers) = &change.preseed {
            self.host.preseed(answers)?;
        }
        if !change.install.is_empty() {
            let names = change.install.join(" ");
            self.long(&format!("installing {names}"), |host| host.install(&change.install, false))?;
        }
        if !change.reinstall.is_empty() {
            let names = change.reinstall.join(" ");
            self.long(&format!("bringing back deleted conffiles of {names}"), |host| {
                host.install(&change.reinstall, true)
            })?;
        }
        let installed: Vec<String> =
            Packages::all(self.host)?.into_iter().filter(|name| !before.contains(name)).collect();
        self.journal.add(&Record::PackagesDone { installed: installed.clone() })?;
        Ok(installed)
    }

    /// Writes those files of the plan that `paths` name; [`Execution::files`] writes the rest.
    ///
    /// # Errors
    /// As there.
    pub fn files_of(&mut self, plan: &Plan, paths: &[&str]) -> Result<()> {
        let files = plan.files();
        files
            .iter()
            .filter(|change| paths.iter().any(|path| change.path == Path::new(path)))
            .try_for_each(|change| self.file(change))
    }

    /// Writes every file of the plan.
    ///
    /// # Errors
    /// The file system refuses, or somebody asked to stop.
    pub fn files(&mut self, plan: &Plan) -> Result<()> {
        let files = plan.files();
        for change in &files {
            self.file(change)?;
        }
        if files.iter().any(|change| change.path.starts_with("/etc/systemd")) {
            self.host.reload_units()?;
        }
        Ok(())
    }

    /// Notes, once a run and before anything else, what `observed` hold, files that the daemon or its package write, and
    /// how long its `history` is, so that an undo can tell what came since.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn observe(&mut self, observed: &[(&Path, FileKind)], history: &Path) -> Result<()> {
        if self.observed {
            return Ok(());
        }
        for &(path, kind) in observed {
            let before = self.keep_before(path)?;
            let path = path.to_owned();
            self.journal.add(&Record::File { path, kind, before, after: None, new_directories: Vec::new() })?;
        }
        // Who watches may have put anything there.
        let length = self.host.read(history).ok().flatten().map_or(0, |state| state.bytes.len() as u64);
        self.journal.add(&Record::History { path: history.to_owned(), length })?;
        self.observed = true;
        Ok(())
    }

    fn file(&mut self, change: &FileChange) -> Result<()> {
        self.pause()?;
        // What this run found first is what an undo restores, however often the run was cut short.
        let before = if self.known.contains(&change.path) { None } else { self.keep_before(&change.path)? };
        let after = change.after.as_ref().map(|bytes| self.journal.keep("after", bytes)).transpose()?;
        let first = self.known.insert(change.path.clone());
        let new_directories = if first { self.missing_directories(&change.path)? } else { Vec::new() };
        self.journal.add(&Record::File {
            path: change.path.clone(),
            kind: change.kind,
            before,
            after,
            new_directories,
        })?;
        match &change.after {
            Some(_) if change.kind == FileKind::Log => self.host.create(&change.path, change.mode),
            Some(bytes) => self.host.write(&change.path, bytes, change.mode),
            None => self.host.remove(&change.path),
        }
    }

    fn keep_before(&mut self, path: &Path) -> Result<Option<Kept>> {
        let Some(state) = self.host.read(path)? else { return Ok(None) };
        let copy = self.journal.keep("before", &state.bytes)?;
        Ok(Some(Kept { copy, mode: state.mode, uid: state.uid, gid: state.gid }))
    }

    fn missing_directories(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let real = self.host.real_path(path)?;
        let mut missing: Vec<PathBuf> = real
            .ancestors()
            .skip(1)
            .take_while(|place| !self.host.outside(place).exists())
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        Ok(missing)
    }

    /// Enables, disables, restarts and stops. `facts` were read after the packages came and before this.
    ///
    /// # Errors
    /// The service manager's own words, or somebody asked to stop.
    pub fn units(&mut self, changes: &[UnitChange], facts: &Facts) -> Result<()> {
        for change in changes {
            self.pause()?;
            if self.known.insert(PathBuf::from(&change.unit)) {
                let state = facts.units.get(&change.unit).cloned().unwrap_or_default();
                let active = match state.active.as_str() {
                    "active" | "activating" => true,
                    "" => facts
                        .processes
                        .iter()
                        .any(|process| change.unit.starts_with(process.program().trim_end_matches("-server"))),
                    _ => false,
                };
                let link = self.host.wants_link(&change.unit).path;
                let new_directories = match change.action {
                    UnitAction::Enable => self.missing_directories(&link)?,
                    _ => Vec::new(),
                };
                let unit = change.unit.clone();
                self.journal.add(&Record::Unit { unit, enabled: state.enabled, active, new_directories })?;
            }
            match change.action {
                UnitAction::Enable => self.host.set_enabled(&change.unit, true)?,
                UnitAction::Disable => self.host.set_enabled(&change.unit, false)?,
                UnitAction::Stop => self.host.stop(&change.unit)?,
                UnitAction::Restart => {
                    self.long(&format!("restarting {}", change.unit.trim_end_matches(".service")), |host| {
                        host.restart(&change.unit)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Writes that the run came to its end.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.journal.add(&Record::Finished { at: jiff::Timestamp::now().to_string() })
    }

    fn long(&mut self, what: &str, work: impl FnOnce(&Host) -> Result<()>) -> Result<()> {
        (self.tell)(Event::Begun(what.to_owned()));
        let done = work(self.host);
        (self.tell)(Event::Ended(what.to_owned()));
        done
    }

    fn pause(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Stopped.into()) } else { Ok(()) }
    }
}
