//! Taking runs back: files byte for byte, shared lists entry by entry, blocks made since, services, packages.

mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::history;
use crate::host::{
    BLOCKS_UNIT, CHAOS_RULE, CHAOS_UNIT, EMBEDDED_UNIT, EMBEDDED_USER, Host, KEEPER_UNIT, Packages, RESPONDER_SOCKETS,
    RuleList, SYSUSERS, ServiceManager, is_block,
};
use crate::syntax::hosts_access::denied_address;

use super::change::{FileChange, FileKind};
use super::execute::Event;
use super::journal::{Journal, Kept, Record};
use super::runs::{Run, Runs};
use entries::{added_lines, merged, with_hosts_entries_of, with_list_entries_of, without_blocks};

/// A file that somebody edited after apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    pub path: PathBuf,
    /// As apply left it; `None`: apply had removed it.
    pub applied: Option<Vec<u8>>,
    pub now: Option<Vec<u8>>,
}

/// What an undo would do, and then does.
pub struct Undo<'a> {
    host: &'a Host,
    runs: Vec<&'a Run>,
    /// No earlier run stays in force: what was blocked since goes as well.
    complete: bool,
    files: Vec<FileChange>,
    edited: Vec<Edited>,
    directories: Vec<PathBuf>,
    blocked: BTreeSet<IpAddr>,
    rules: Vec<(bool, String)>,
    units: Vec<(String, String, bool)>,
    packages: Vec<String>,
}

/// What an undo did.
#[derive(Debug, Default)]
pub struct UndoOutcome {
    pub files: usize,
    pub rules: usize,
    pub services: Vec<String>,
    pub purged: Vec<String>,
    /// What could not be put back and why; the rest was.
    pub problems: Vec<String>,
}

/// What the runs say of one path, together: as it was before the oldest, as the newest left it.
struct Trace {
    kind: FileKind,
    before: Option<(Kept, PathBuf)>,
    after: Option<Vec<u8>>,
}

impl<'a> Undo<'a> {
    /// Finds out what has to be done to have `host` as before run `number` (or before the last one).
    /// Changes nothing.
    ///
    /// # Errors
    /// There is no such run, or its journal or copies cannot be read.
    pub fn plan(host: &'a Host, runs: &'a Runs, number: Option<u32>) -> Result<Undo<'a>> {
        let selected = runs.to_undo(number)?;
        let oldest = selected.last().map_or(0, |run| run.number);
        let complete = !runs.0.iter().any(|run| run.number < oldest && run.state() != super::RunState::Undone);
        let mut undo = Undo {
            host,
            runs: selected,
            complete,
            files: Vec::new(),
            edited: Vec::new(),
            directories: Vec::new(),
            blocked: BTreeSet::new(),
            rules: Vec::new(),
            units: Vec::new(),
            packages: Vec::new(),
        };
        undo.find_blocks()?;
        undo.find_files()?;
        undo.find_units_and_packages()?;
        Ok(undo)
    }

    /// The numbers of the runs that it takes back, newest first.
    pub fn numbers(&self) -> Vec<u32> {
        self.runs.iter().map(|run| run.number).collect()
    }

    /// The files that it changes.
    pub fn files(&self) -> &[FileChange] {
        &self.files
    }

    /// The files that it will not overwrite unless forced.
    pub fn edited(&self) -> &[Edited] {
        &self.edited
    }

    /// Keeps what somebody made of the edited files, for an undo that overwrites them unasked; a sentence for each.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn keep_edits(&self) -> Result<Vec<String>> {
        let Some(run) = self.runs.first().filter(|_| !self.edited.is_empty()) else { return Ok(Vec::new()) };
        let mut journal = Journal::open(&run.directory)?;
        let texts = self.edited.iter().filter_map(|one| Some((one.path.display(), one.now.as_ref()?)));
        texts
            .map(|(path, text)| {
                let copy = run.directory.join(journal.keep("edited", text)?);
                Ok(format!("{path} was edited after apply; the edited one is kept as {}", copy.display()))
            })
            .collect()
    }

    /// The packages that these runs brought and that are still there, dependencies included.
    pub fn packages(&self) -> &[String] {
        &self.packages
    }

    /// Whether no earlier run stays in force, so that whoever was blocked since is freed.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The firewall rules of blocks made since.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(_, rule)| rule.as_str())
    }

    /// The services that will be put back, with what they will be; those of packages that came with these runs only
    /// if the packages stay (not `purge`).
    pub fn services(&self, purge: bool) -> impl Iterator<Item = (&str, &'static str)> {
        self.units.iter().filter_map(move |(unit, _, active)| {
            let came = self.came_with_its_package(unit);
            match (active, came) {
                (_, true) if purge => None,
                (true, true) => Some((unit.as_str(), "running, as its package starts it")),
                (true, false) => Some((unit.as_str(), "running, as before")),
                (false, _) => Some((unit.as_str(), "stopped, as before")),
            }
        })
    }

    fn came_with_its_package(&self, unit: &str) -> bool {
        let name = unit.trim_end_matches(".service");
        let package = name.split('@').next().unwrap_or(name);
        self.packages.iter().any(|known| known == package)
    }

    fn records(&self) -> impl Iterator<Item = (&'a Run, &'a Record)> {
        // Oldest first, so that the first word about a thing is how it was.
        self.runs.iter().rev().flat_map(|run| run.records.iter().map(move |record| (*run, record)))
    }

    fn find_files(&mut self) -> Result<()> {
        let mut traces: BTreeMap<PathBuf, Trace> = BTreeMap::new();
        for (run, record) in self.records().collect::<Vec<_>>() {
            let Record::File { path, kind, before, after, new_directories } = record else { continue };
            self.directories.extend(new_directories.iter().cloned());
            let after = after.as_ref().map(|name| run.copy(name)).transpose()?;
            match traces.get_mut(path) {
                Some(trace) => {
                    trace.after = after;
                    trace.kind = *kind;
                }
                None => {
                    let before = before.clone().map(|kept| (kept, run.directory.clone()));
                    traces.insert(path.clone(), Trace { kind: *kind, before, after });
                }
            }
        }
        for (path, trace) in traces {
            self.find_file(&path, &trace)?;
        }
        Ok(())
    }

    fn find_file(&mut self, path: &Path, trace: &Trace) -> Result<()> {
        let mode = trace.before.as_ref().map_or(0o644, |(kept, _)| kept.mode);
        let before = match &trace.before {
            Some((kept, directory)) => {
                let copy = directory.join(&kept.copy);
                Some(std::fs::read(&copy).with_context(|| format!("cannot read the copy {}", copy.display()))?)
            }
            None => None,
        };
        let state = self.host.read(path)?;
        let now = state.map(|state| state.bytes);
        let target = match trace.kind {
            FileKind::Whole if now == trace.after || now == before => before,
            FileKind::Whole => {
                self.edited.push(Edited { path: path.to_owned(), applied: trace.after.clone(), now: now.clone() });
                before
            }
            FileKind::HostsAccess | FileKind::AddressList if now == trace.after => before,
            FileKind::HostsAccess => merged(now.as_deref(), before, with_hosts_entries_of)?,
            FileKind::AddressList => merged(now.as_deref(), before, with_list_entries_of)?,
            FileKind::Blocks if now == trace.after => before,
            FileKind::Blocks if self.complete => match &now {
                Some(text) => without_blocks(text, before.as_deref(), &self.blocked),
                None => None,
            },
            FileKind::Blocks => merged(now.as_deref(), before, with_hosts_entries_of)?,
            FileKind::Log if before.is_none() && now.as_ref().is_some_and(Vec::is_empty) => None,
            FileKind::Log => now.clone(),
            FileKind::Generated if before.is_none() => None,
            FileKind::Generated => now.clone(),
        };
        if target != now {
            self.files.push(FileChange {
                path: path.to_owned(),
                before: now,
                after: target,
                mode,
                kind: trace.kind,
                why: "as before".to_owned(),
                follows_link_to: None,
            });
        }
        Ok(())
    }

    /// Whom the daemon blocked since the oldest of these runs: from hosts.deny, the history and the jail.
    fn find_blocks(&mut self) -> Result<()> {
        if !self.complete {
            return Ok(());
        }
        let mut rules_before = (RuleList::default(), RuleList::default());
        for (run, record) in self.records().collect::<Vec<_>>().into_iter().rev() {
            match record {
                Record::Started { rules_v4, rules_v6, .. } => {
                    rules_before = (RuleList::from_text(rules_v4), RuleList::from_text(rules_v6));
                }
                Record::File { path, kind: FileKind::Blocks, before, .. } => {
                    let before = before.as_ref().map(|kept| run.copy(&kept.copy)).transpose()?.unwrap_or_default();
                    let now = self.host.read(path)?.map(|state| state.bytes).unwrap_or_default();
                    self.blocked.extend(added_lines(&now, &before).iter().filter_map(|line| denied_address(line)));
                }
                Record::History { path, length } => {
                    // Who watched may have put anything there.
                    let Some(state) = self.host.read(path).ok().flatten() else { continue };
                    // A shorter file was rotated since; all of it is new then.
                    let from = usize::try_from(*length).unwrap_or(0);
                    let since = state.bytes.get(from..).unwrap_or(&state.bytes);
                    self.blocked.extend(String::from_utf8_lossy(since).lines().filter_map(history::address));
                }
                _ => {}
            }
        }
        for (ipv6, before) in [(false, &rules_before.0), (true, &rules_before.1)] {
            let now = RuleList::read(self.host, ipv6);
            for &address in self.blocked.iter().filter(|address| address.is_ipv6() == ipv6) {
                let ours = now.about(address).filter(|rule| is_block(rule) && !before.contains(rule));
                self.rules.extend(ours.map(|rule| (ipv6, rule.to_owned())));
            }
        }
        Ok(())
    }

    fn find_units_and_packages(&mut self) -> Result<()> {
        let mut before: Option<Vec<String>> = None;
        for (_, record) in self.records().collect::<Vec<_>>() {
            match record {
                Record::Unit { unit, enabled, active, new_directories } => {
                    self.directories.extend(new_directories.iter().cloned());
                    if !self.units.iter().any(|(known, ..)| known == unit) {
                        self.units.push((unit.clone(), enabled.clone(), *active));
                    }
                }
                Record::Packages { before: list, .. } if before.is_none() => before = Some(list.clone()),
                Record::PackagesDone { installed } => {
                    self.packages.extend(
                        installed.iter().filter(|name| !self.packages.contains(name)).cloned().collect::<Vec<_>>(),
                    );
                }
                _ => {}
            }
        }
        if let Some(before) = before {
            let now = Packages::all(self.host)?;
            // A run that was killed inside dpkg never wrote down what came; then it is what was not there before.
            if self.packages.is_empty() {
                self.packages = now.iter().filter(|name| !before.contains(name)).cloned().collect();
            }
            self.packages.retain(|name| now.contains(name));
        }
        Ok(())
    }

    /// Refuses if purging would take packages along that these runs did not bring.
    ///
    /// # Errors
    /// Names them.
    pub fn check_purge(&self) -> Result<()> {
        if self.packages.is_empty() {
            return Ok(());
        }
        let others = self.host.simulate_purge(&self.packages)?;
        if !others.is_empty() {
            bail!(
                "purging {} would also remove {}, installed by somebody since; remove these first, or undo without --purge-packages",
                self.packages.join(" "),
                others.join(" ")
            );
        }
        Ok(())
    }

    /// Does it. `end_blocks` frees whom the built-in portsentry blocks, and forgets them. Every part is tried, and what could
    /// not be put back is in the outcome; the runs count as taken back only if nothing is.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn carry_out(
        self,
        force: bool,
        purge: bool,
        end_blocks: impl FnOnce() -> Result<()>,
        tell: &mut dyn FnMut(Event),
    ) -> Result<UndoOutcome> {
        let mut outcome = UndoOutcome::default();
        let live = self.host.is_live();
        let try_to = |result: Result<()>, problems: &mut Vec<String>| {
            if let Err(error) = result {
                problems.push(format!("{error:#}"));
            }
        };
        if live {
            if self.complete {
                self.host.release_bans();
            }
            // Nothing may block anybody while blocks are being lifted: first who catches, then who keeps, and would put back
            // what the last ones take away.
            let ours = [&[EMBEDDED_UNIT, KEEPER_UNIT, BLOCKS_UNIT, CHAOS_UNIT][..], &RESPONDER_SOCKETS].concat();
            let units = || self.units.iter().map(|(unit, ..)| unit.as_str());
            let catch = units().filter(|unit| unit.starts_with("portsentry"));
            for unit in catch.chain(ours.into_iter().filter(|unit| units().any(|known| known == *unit))) {
                try_to(self.host.stop(unit), &mut outcome.problems);
            }
            // While there is an nft to do it with. What brings them back at boot goes.
            let ends_blocks = self.files.iter().any(|file| file.path.ends_with(BLOCKS_UNIT) && file.after.is_none());
            if self.complete || ends_blocks {
                try_to(end_blocks(), &mut outcome.problems);
            }
        }
        let kept: BTreeSet<&Path> =
            if force { BTreeSet::new() } else { self.edited.iter().map(|one| one.path.as_path()).collect() };
        for change in self.files.iter().filter(|change| !kept.contains(change.path.as_path())) {
            let done = match &change.after {
                Some(bytes) => self.host.write(&change.path, bytes, change.mode),
                None => self.host.remove(&change.path),
            };
            outcome.files += usize::from(done.is_ok());
            try_to(done, &mut outcome.problems);
        }
        // Of a file whose write was cut off nothing else is to be put back.
        for (_, record) in self.records() {
            if let Record::File { path, .. } = record {
                self.host.remove_leftover(path);
            }
        }
        for (ipv6, rule) in &self.rules {
            let done = self.host.delete_rule(*ipv6, rule);
            outcome.rules += usize::from(done.is_ok());
            try_to(done, &mut outcome.problems);
        }
        // Where no unit put it there, a command did.
        let copies = if live && self.complete { RuleList::read(self.host, false).chaos_rules() } else { 0 };
        for _ in 0..copies {
            let done = self.host.delete_rule(false, &format!("-A {CHAOS_RULE}"));
            outcome.rules += usize::from(done.is_ok());
            try_to(done, &mut outcome.problems);
        }
        for (unit, enabled, _) in &self.units {
            match enabled.as_str() {
                "enabled" => try_to(self.host.set_enabled(unit, true), &mut outcome.problems),
                "generated" => try_to(self.host.turn_sysv_links(unit, true), &mut outcome.problems),
                "disabled" | "" => try_to(self.host.set_enabled(unit, false), &mut outcome.problems),
                _ => {}
            }
        }
        for directory in self.directories.iter().rev() {
            self.host.remove_if_empty(directory);
        }
        if purge && !self.packages.is_empty() {
            tell(Event::Begun(format!("purging {} packages", self.packages.len())));
            let done = self.host.purge(&self.packages);
            tell(Event::Ended(format!("purging {} packages", self.packages.len())));
            if done.is_ok() {
                outcome.purged.clone_from(&self.packages);
            }
            try_to(done, &mut outcome.problems);
        }
        // The unit made it, and so it is in no record.
        if live && self.complete && !self.host.exists(SYSUSERS) {
            try_to(self.host.remove_user(EMBEDDED_USER), &mut outcome.problems);
        }
        if live {
            try_to(self.host.reload_units(), &mut outcome.problems);
            self.restore_services(purge, &mut outcome, tell);
        }
        for path in &kept {
            outcome
                .problems
                .push(format!("{} was edited after apply and is left as it is; --force overwrites it", path.display()));
        }
        if outcome.problems.is_empty() {
            for run in &self.runs {
                Journal::open(&run.directory)?.add(&Record::Undone { at: jiff::Timestamp::now().to_string() })?;
            }
        }
        Ok(outcome)
    }

    fn restore_services(&self, purge: bool, outcome: &mut UndoOutcome, tell: &mut dyn FnMut(Event)) {
        for (unit, _, active) in &self.units {
            let name = unit.trim_end_matches(".service");
            if purge && self.came_with_its_package(unit) {
                continue;
            }
            // An upgrade may have taken the unit away or masked it since; then there is nothing to put back.
            let manager = self.host.service_manager();
            let state = self.host.units(&manager, &[unit.as_str()]).ok().and_then(|mut units| units.remove(unit));
            let forbidden = matches!(manager, ServiceManager::Forbidden(_));
            if forbidden || state.is_some_and(|state| matches!(state.load.as_str(), "masked" | "not-found")) {
                continue;
            }
            let done = if *active {
                tell(Event::Begun(format!("restarting {name}")));
                let done = self.host.restart(unit);
                tell(Event::Ended(format!("restarting {name}")));
                done
            } else {
                self.host.stop(unit)
            };
            match done {
                Ok(()) => outcome.services.push(name.to_owned()),
                Err(error) => outcome.problems.push(format!("{error:#}")),
            }
        }
    }
}
