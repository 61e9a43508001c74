//! Who is blocked until when, and who never is.
//!
//! The ledger (`ledger`, `record`) is what counts: it outlives restarts, boots and kills. What it says is held in memory
//! (`state`), where `terms` says how long a block lasts; the kernel's sets (`table`) and the file that hosts.deny names
//! (`denied`) follow. Either the daemon keeps all of it, and is asked by a socket (`control`), or, where none runs, whoever
//! holds the lock does. `guard` knows who must not be blocked.

mod clock;
pub mod control;
mod denied;
mod guard;
mod ignore;
mod ledger;
pub mod own_files;
mod record;
mod state;
mod table;
mod terms;

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, TryLockError};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Again;
use crate::kernel::Gone;
pub use clock::{Instant, Now};
use control::{Listed, Request, Wanted};
use denied::Denied;
pub use denied::publish_denied;
pub use guard::Guard;
pub use ignore::IgnoreList;
use ledger::Ledger;
use record::What;
pub use record::{By, Record, cleaned};
use state::State;
pub use state::{Limit, Outcome};
use table::Table;
pub use table::{Answer, TABLE, ruleset};
pub use terms::{Evidence, Length, Terms};

/// Where the ledger and its like are.
pub const DIRECTORY: &str = "/var/lib/harden-portsentry/blocks";
/// The file that hosts.deny names: a link to the one in [`DIRECTORY`].
pub const DENIED: &str = "/var/lib/harden-portsentry/denied";
/// Where the daemon's unit lets it write its metrics.
pub const METRICS: &str = "/var/lib/harden-portsentry/metrics";
/// The kernel's clock and ours may differ by so much.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Who is blocked, in memory and in the kernel.
pub struct Blocks {
    state: State,
    table: Table,
    guard: Guard,
    offset: i64,
    /// Freed when dropped.
    _lock: Option<File>,
}

/// Who is blocked, on the disk. A disk can be slow, so the daemon gives this to a thread of its own.
pub struct Book {
    ledger: Ledger,
    denied: Denied,
}

/// Somebody else keeps the blocks just now.
#[derive(Debug, thiserror::Error)]
#[error("another process keeps the blocks")]
pub struct Busy;

/// Whoever it is must not be blocked, for this reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Safe(String);

impl Blocks {
    /// Takes over: reads the ledger and makes the kernel block whom it says. Also returned: what is to be told.
    ///
    /// # Errors
    /// [`Busy`]; the ledger cannot be read; the kernel refuses.
    pub fn open(terms: Terms, answer: Answer, guard: Guard) -> Result<(Blocks, Book, Vec<String>)> {
        let directory = Path::new(DIRECTORY);
        // Where it cannot be made, or written in, a host that scans is blocked all the same; the ledger complains.
        let _ = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        let lock = lock(&directory.join("lock"))?;
        let mut table = Table::open(answer)?;
        // Both take their time: nft has to be started, and waits for the kernel.
        let (begun, read) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| Ledger::open(&directory.join("ledger")));
            (table.begin(&terms), reading.join())
        });
        let (ledger, found) = read.map_err(|_| anyhow::anyhow!("the ledger cannot be read"))??;
        begun?;
        let now = Now::read();
        let mut state = State::new(terms, now.boot);
        state.restore(&found.records, now);
        let mut blocks = Blocks { state, table, guard, offset: now.offset(), _lock: lock };
        let adopted = blocks.make_the_kernel_follow(&found.records, now)?;
        let safe = blocks.free_the_safe(now)?;
        let mut told = found.complaints;
        told.extend(safe.iter().map(|record| format!("{} is free again: {}", record.address, record.why)));
        let is_behind = !told.is_empty();
        let denied = Denied::new(&directory.join("denied"), blocks.state.live(now.boot).map(|(address, _)| address));
        link_to_denied(&directory.join("denied"));
        let mut book = Book { ledger, denied };
        if !adopted.is_empty() {
            told.push(format!("the kernel blocked whom the ledger does not know, as it does now: {}", adopted.len()));
        }
        if let Err(error) = book.write(&[adopted, safe].concat(), &[])
            && !is_behind
        {
            told.push(format!("{error:#}"));
        }
        Ok((blocks, book, told))
    }

    /// Keeps the kernel's table as it is, to have it back at once if somebody takes it away; for whoever stays.
    pub fn keep_table(&mut self) {
        self.table.keep();
    }

    /// The kernel's sets as the ledger has them; whom the kernel blocks and the ledger does not know is blocked in both
    /// from now on, and returned.
    fn make_the_kernel_follow(&mut self, known: &[Record], now: Now) -> Result<Vec<Record>> {
        if !self.table.is_current(self.state.terms())? {
            let elements = self.elements(now.boot);
            return self.table.load(self.state.terms(), &elements).map(|()| Vec::new());
        }
        let in_kernel = self.table.list()?;
        let differs = |address: &IpAddr, stay: &Length| match (in_kernel.get(address), stay) {
            (Some(Some(known)), Some(stay)) => known.abs_diff(*stay) > TOLERANCE,
            (known, stay) => known != Some(stay),
        };
        let mut wanted = self.elements(now.boot);
        wanted.retain(|(address, stay)| differs(address, stay));
        self.table.block(&wanted)?;
        let mut adopted = Vec::new();
        for (address, stay) in in_kernel {
            let was_freed = || known.iter().any(|record| record.address == address && record.what == What::Freed);
            if self.is_blocked(address, now) {
                continue;
            }
            if was_freed() || self.guard.objects(address).is_some() {
                self.table.free(&[address])?;
            } else {
                adopted.push(self.state.adopt(address, stay, now));
            }
        }
        Ok(adopted)
    }

    /// Mends the kernel's table if somebody took it away or took something out of it; whether that was so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(&mut self, gone: &Gone, now: Now) -> Result<bool> {
        if !gone.has(TABLE) {
            return Ok(false);
        }
        let elements = self.elements(now.boot);
        if self.table.load_again(self.state.terms(), &elements)? != Again::Whole {
            return Ok(true);
        }
        // Somebody may have saved it long ago, and loaded it now: then its sets are those of that time.
        let strangers: Vec<IpAddr> =
            self.table.list()?.into_keys().filter(|&address| !self.is_blocked(address, now)).collect();
        self.table.free(&strangers)?;
        self.make_the_kernel_follow(&[], now)?;
        Ok(false)
    }

    fn is_blocked(&self, address: IpAddr, now: Now) -> bool {
        self.state.get(address).is_some_and(|entry| entry.is_live(now.boot))
    }

    /// A source that was caught. If it is to be blocked the kernel blocks it now, and the record is to be written down.
    ///
    /// # Errors
    /// It must not be blocked, or the kernel refuses.
    pub fn catch(&mut self, address: IpAddr, evidence: Evidence, why: &str, now: Now) -> Result<Outcome> {
        if let Some(why) = self.guard.objects(address) {
            return Err(Safe(why).into());
        }
        let outcome = self.state.catch(address, evidence, why, now);
        self.in_kernel_too(address, outcome, now)
    }

    /// Has the kernel do what was decided, or takes it back where it refuses.
    fn in_kernel_too(&mut self, address: IpAddr, outcome: Outcome, now: Now) -> Result<Outcome> {
        if let Outcome::Block(length, _) = &outcome
            && let Err(error) = self.table.block(&[(address, *length)])
        {
            self.state.free(address, "", now);
            return Err(error);
        }
        Ok(outcome)
    }

    /// Puts those of `addresses` that are blocked into the kernel's sets again: they are heard all the same, so they were
    /// just put in, or somebody took them out. Which it is is asked first, for the kernel takes milliseconds to renew one
    /// that is there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn block_again(&mut self, addresses: &HashSet<IpAddr>, now: Now) -> Result<()> {
        let known = if addresses.is_empty() { HashMap::new() } else { self.table.list()? };
        let missing = addresses.iter().filter(|address| !known.contains_key(address));
        let entries = missing.filter_map(|&address| Some((address, self.state.get(address)?)));
        let live = entries.filter(|(_, entry)| entry.is_live(now.boot));
        let elements: Vec<(IpAddr, Length)> = live.map(|(address, entry)| (address, entry.stay(now.boot))).collect();
        self.table.block(&elements)
    }

    /// Does what somebody asked for, in memory and in the kernel; what is to be written down comes with the answer.
    pub fn serve(&mut self, request: Request, now: Now) -> (control::Answer, Vec<Record>) {
        let refused = |error: anyhow::Error| (control::Answer::Refused(format!("{error:#}")), Vec::new());
        match request {
            Request::Block { address, length, by, why } => {
                self.block(address, (length, by), &why, now).unwrap_or_else(refused)
            }
            Request::Unblock { address, why } => self.unblock(&[address], &why, now).unwrap_or_else(refused),
            Request::UnblockAll { why } => {
                let all: Vec<IpAddr> = self.state.live(now.boot).map(|(address, _)| address).collect();
                self.unblock(&all, &why, now).unwrap_or_else(refused)
            }
            Request::List => (self.list(now).map_or_else(|error| refused(error).0, control::Answer::List), Vec::new()),
        }
    }

    fn block(
        &mut self,
        address: IpAddr,
        (length, by): (Wanted, By),
        why: &str,
        now: Now,
    ) -> Result<(control::Answer, Vec<Record>)> {
        let address = address.to_canonical();
        if let Some(why) = self.guard.objects(address) {
            anyhow::bail!("{address} must not be blocked: {why}");
        }
        let length = match length {
            Wanted::Earned => None,
            Wanted::Seconds(seconds) => Some(Some(Duration::from_secs(seconds))),
            Wanted::Ever => Some(None),
        };
        let outcome = self.state.ask(address, length, by, &cleaned(why), now);
        Ok(match self.in_kernel_too(address, outcome, now)? {
            Outcome::Block(_, record) => {
                let What::Blocked { until, .. } = record.what else { anyhow::bail!("it was freed") };
                (control::Answer::Blocked { until, already: false }, vec![record])
            }
            Outcome::Already(until) => {
                let until = until.map(|until| now.calendar_at(until));
                (control::Answer::Blocked { until, already: true }, Vec::new())
            }
            Outcome::Limited(limit) => anyhow::bail!("{address} is not blocked: {limit}"),
        })
    }

    fn unblock(&mut self, addresses: &[IpAddr], why: &str, now: Now) -> Result<(control::Answer, Vec<Record>)> {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        self.table.free(&addresses)?;
        let why = cleaned(why);
        let freed: Vec<Record> = addresses.iter().filter_map(|&address| self.state.free(address, &why, now)).collect();
        Ok((control::Answer::Freed(freed.iter().map(|record| record.address).collect()), freed))
    }

    fn list(&mut self, now: Now) -> Result<Vec<Listed>> {
        Ok(listed(&self.state, &self.table.list()?, now))
    }

    /// When somebody is to be freed next.
    pub fn next_end(&self) -> Option<Instant> {
        self.state.next_end()
    }

    /// Whose time is over by now; the kernel has freed them by itself.
    pub fn pass(&mut self, now: Now) -> Vec<IpAddr> {
        self.state.pass(now.boot)
    }

    /// What is to be written down because somebody has set the clock: all of it.
    pub fn after_the_clock_was_set(&mut self, now: Now) -> Vec<Record> {
        if (now.offset() - self.offset).abs() < i64::try_from(TOLERANCE.as_millis()).unwrap_or(i64::MAX) {
            return Vec::new();
        }
        self.offset = now.offset();
        self.state.records(now)
    }

    /// Frees whom this guard objects to, and takes it; what is to be written down.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch_over(&mut self, guard: Guard, now: Now) -> Result<Vec<Record>> {
        self.guard = guard;
        self.free_the_safe(now)
    }

    fn free_the_safe(&mut self, now: Now) -> Result<Vec<Record>> {
        let safe: Vec<(IpAddr, String)> = self
            .state
            .live(now.boot)
            .filter_map(|(address, _)| Some((address, self.guard.objects(address)?)))
            .collect();
        self.table.free(&safe.iter().map(|(address, _)| *address).collect::<Vec<_>>())?;
        Ok(safe.into_iter().filter_map(|(address, why)| self.state.free(address, &why, now)).collect())
    }

    /// Takes new terms.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn configure(&mut self, terms: Terms, answer: Answer, now: Now) -> Result<()> {
        self.state.configure(terms);
        self.table.answer(answer);
        if !self.table.is_current(self.state.terms())? {
            let elements = self.elements(now.boot);
            self.table.load(self.state.terms(), &elements)?;
            self.table.keep();
        }
        Ok(())
    }

    /// How many are blocked.
    pub fn len(&self) -> usize {
        self.state.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn elements(&self, now: Instant) -> Vec<(IpAddr, Length)> {
        self.state.live(now).map(|(address, entry)| (address, entry.stay(now))).collect()
    }
}

/// Who is blocked, where no daemon runs; changes nothing.
///
/// # Errors
/// The ledger cannot be read, or the kernel refuses.
pub fn look() -> Result<Vec<Listed>> {
    let path = Path::new(DIRECTORY).join("ledger");
    let bytes = own_files::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let now = Now::read();
    let mut state = State::new(Terms::default(), now.boot);
    state.restore(&ledger::read(&bytes, &path).records, now);
    let in_kernel = if Table::is_there()? { Table::open(Answer::Drop)?.list()? } else { HashMap::new() };
    Ok(listed(&state, &in_kernel, now))
}

/// Frees everybody and forgets all: the kernel's table, the ledger, the file that hosts.deny named.
///
/// # Errors
/// A daemon runs ([`Busy`]), the kernel refuses, or a file cannot be removed.
pub fn end() -> Result<()> {
    let directory = Path::new(DIRECTORY);
    let gone = |result: std::io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    };
    if directory.exists() {
        let _lock = lock(&directory.join("lock"))?;
        Table::remove()?;
        gone(std::fs::remove_dir_all(directory), directory)?;
    }
    gone(std::fs::remove_dir_all(METRICS), Path::new(METRICS))?;
    gone(std::fs::remove_file(DENIED), Path::new(DENIED))
}

fn listed(state: &State, in_kernel: &HashMap<IpAddr, Length>, now: Now) -> Vec<Listed> {
    let all = state.live(now.boot).map(|(address, entry)| Listed {
        address,
        since: now.calendar_at(entry.since),
        until: entry.until.map(|until| now.calendar_at(until)),
        times: entry.times,
        by: entry.by,
        why: entry.why.clone(),
        in_kernel: in_kernel.contains_key(&address),
    });
    let mut all: Vec<Listed> = all.collect();
    all.sort_by_key(|one| (one.since, one.address));
    all
}

impl Book {
    /// Writes down what happened, and that the time of those in `over` is over. When it returns it is on the disk.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write(&mut self, records: &[Record], over: &[IpAddr]) -> Result<()> {
        self.append(records)?;
        self.deny(records, over)
    }

    /// The first half of it: the ledger.
    ///
    /// # Errors
    /// None of it is in the ledger.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        self.ledger.append(records)?;
        if self.ledger.is_long() {
            let now = Now::read();
            // A long one serves as well; it is tried again when it is twice as long.
            let _ = self.ledger.compact(|record| matters(record, now));
        }
        Ok(())
    }

    /// The other half: the file that hosts.deny names.
    ///
    /// # Errors
    /// It cannot be written; the next time, with or without anything new, makes good for it.
    pub fn deny(&mut self, records: &[Record], over: &[IpAddr]) -> Result<()> {
        let (blocked, freed): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.what != What::Freed);
        let addresses = |records: Vec<&Record>| records.iter().map(|record| record.address).collect::<Vec<_>>();
        let gone = [addresses(freed), over.to_vec()].concat();
        self.denied.change(&addresses(blocked), &gone).with_context(|| format!("cannot write {DENIED}"))
    }
}

/// Whether anything can come of a line: a block that goes on, or a source that would be known again.
fn matters(record: &Record, now: Now) -> bool {
    match record.what {
        What::Freed => false,
        What::Blocked { until: None, .. } => true,
        // Longer than anything is remembered.
        What::Blocked { until: Some(until), .. } => {
            until.as_millisecond() > now.calendar.saturating_sub(400 * 24 * 3_600_000)
        }
    }
}

/// `None` where there can be no lock, on a disk that is read-only.
fn lock(path: &Path) -> Result<Option<File>> {
    let doing = || format!("cannot take the lock {}", path.display());
    let mut options = File::options();
    let opened = own_files::open(path, options.write(true).create(true).truncate(false).mode(0o600));
    let Ok(file) = opened.or_else(|_| own_files::open(path, File::options().read(true))) else { return Ok(None) };
    own_files::give_to_owner_of_directory(path, &file);
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Busy.into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(doing),
    }
}

/// Where root may, and it is not there: a daemon of another user has to find it.
fn link_to_denied(file: &Path) {
    if let Ok(target) = file.strip_prefix(Path::new(DENIED).parent().unwrap_or(Path::new("/"))) {
        let _ = std::os::unix::fs::symlink(target, DENIED);
    }
}
