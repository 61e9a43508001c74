//! Who is blocked until when, and who never is.
//!
//! The ledger (`ledger`, `record`) is what counts: it outlives restarts, boots and kills. What it says is held in memory
//! (`state`), where `terms` says how long a block lasts; the kernel's sets (`table`) and the file that hosts.deny names
//! (`denied`) follow. Either the daemon keeps all of it, and is asked by a socket (`control`), or, where none runs, whoever
//! holds the lock does (`offline`). `guard` knows who must not be blocked.

mod clock;
pub mod control;
mod denied;
mod guard;
mod ignore;
mod ledger;
mod lists;
mod offline;
pub mod own_files;
pub mod package;
mod record;
mod state;
mod table;
mod terms;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::host::Again;
use crate::kernel::Gone;
pub use clock::{Now, Uptime};
use control::{Listed, Request, Wanted};
pub use denied::{DENIED, Published, blocked, denied_now, publish_denied};
pub use guard::Guard;
pub use ignore::IgnoreList;
pub use ledger::Ledger;
pub use lists::{Difference, differences};
pub use offline::{METRICS, end, end_metrics, is_begun, look, unload};
use record::What;
pub use record::{By, Record, cleaned};
use state::State;
pub use state::{Limit, Outcome};
use table::Table;
pub use table::{Answer, PacketFilter, TABLE, ruleset};
pub use terms::{Evidence, Length, Terms};

/// What whoever Debian's portsentry catches meets, and who is never blocked; of the same form as portsentry.conf.
pub const CONF: &str = "/etc/harden-portsentry/blocks.conf";
/// Where the ledger and its like are.
pub const DIRECTORY: &str = "/var/lib/harden-portsentry/blocks";
/// What those were too many for who are freed by other terms.
const BEYOND: &str = "in_all of [block] in policy.toml allows";
/// The clock was set where it differs by more from what it was to be.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Who is blocked, in memory and in the kernel.
pub struct Blocks {
    state: State,
    table: Box<dyn Table>,
    guard: Guard,
    offset: i64,
    /// Freed when dropped.
    _lock: Option<File>,
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
    /// Takes over: reads the ledger and makes the kernel block whom it says, by `filter`, and by no other any more. Also
    /// returned: the ledger, for a disk can be slow and the daemon gives it to a thread of its own, and what is to be told.
    ///
    /// # Errors
    /// [`Busy`]; the ledger cannot be read; the kernel refuses.
    pub fn open(
        terms: Terms,
        answer: Answer,
        filter: &PacketFilter,
        guard: Guard,
    ) -> Result<(Blocks, Ledger, Vec<String>)> {
        let directory = Path::new(DIRECTORY);
        let lock = offline::lock(directory)?;
        let mut table = table::open(filter, answer)?;
        // Both take their time: nft has to be started, and waits for the kernel.
        let (begun, read) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| Ledger::open(&directory.join("ledger")));
            (table.begin(&terms), reading.join())
        });
        let (mut ledger, found, refusal) = read.map_err(|_| anyhow::anyhow!("the ledger cannot be read"))??;
        begun?;
        let now = Now::read();
        let mut state = State::new(terms, now.boot);
        state.restore(&found.records, now);
        let beyond = state.beyond(terms.in_all);
        beyond.iter().for_each(|&address| state.put_back(address, None));
        let mut blocks = Blocks { state, table, guard, offset: now.offset(), _lock: lock };
        let known: HashSet<IpAddr> = found.records.iter().map(|record| record.address).collect();
        let adopted = blocks.make_the_kernel_follow(&known, now)?;
        let safe = blocks.free_the_safe(now)?;
        let mut told = found.complaints;
        told.extend(safe.iter().map(|record| format!("{} is free again: {}", record.address, record.why)));
        if !beyond.is_empty() {
            told.push(format!("hosts that are free now, for there were more than {BEYOND}: {}", beyond.len()));
        }
        if let Err(error) = table::remove_others(filter) {
            told.push(format!(
                "{error:#}; whom it blocked by another packet filter before the kernel may go on to block"
            ));
        }
        if adopted > 0 {
            told.push(format!("the kernel blocked whom the ledger does not know, as it does now: {adopted}"));
        }
        let written = match refusal {
            _ if adopted > 0 || !beyond.is_empty() || !safe.is_empty() => ledger.write_anew(&blocks.records(now)),
            Some(refusal) => Err(refusal),
            None => Ok(()),
        };
        if let Err(error) = written {
            told.push(format!("{error:#}; what is to be written there waits until it can be"));
        }
        Ok((blocks, ledger, told))
    }

    /// Keeps the kernel's table as it is, to have it back at once if somebody takes it away; for whoever stays.
    pub fn keep_table(&mut self) {
        self.table.keep();
    }

    /// The kernel's sets as the ledger has them, which says something of those who are `known`. Whom the kernel blocks and
    /// the ledger has never heard of is blocked in both from now on, as far as there is room; how many these are.
    fn make_the_kernel_follow(&mut self, known: &HashSet<IpAddr>, now: Now) -> Result<usize> {
        if !self.table.is_current(self.state.terms())? {
            let elements = self.elements(now.boot);
            return self.table.load(self.state.terms(), &elements).map(|()| 0);
        }
        let in_kernel = self.table.list()?;
        let others = in_kernel
            .iter()
            .filter(|(address, _)| !self.is_blocked(**address, now))
            .map(|(&address, &stay)| (address, stay));
        // One that was freed, or whose time was over, can come from a saved ruleset.
        let may_stay = |address: IpAddr| !known.contains(&address) && self.guard.objects(address).is_none();
        let (mut adopted, mut free): (Vec<_>, Vec<_>) = others.partition(|&(address, _)| may_stay(address));
        adopted.sort_by_key(|(_, stay)| Reverse(stay.unwrap_or(Duration::MAX)));
        let room = self.state.terms().in_all.saturating_sub(self.state.len());
        free.extend(adopted.split_off(room.min(adopted.len())));
        self.table.free(&free.iter().map(|(address, _)| *address).collect::<Vec<_>>())?;
        self.mend(&in_kernel, now)?;
        adopted.iter().for_each(|&(address, stay)| self.state.adopt(address, stay, now));
        Ok(adopted.len())
    }

    /// Blocks whom the kernel, which has these, does not block, or for another time.
    fn mend(&mut self, in_kernel: &HashMap<IpAddr, Length>, now: Now) -> Result<()> {
        let mut wanted = self.elements(now.boot);
        wanted.retain(|(address, stay)| in_kernel.get(address).is_none_or(|&known| !self.table.is_right(known, *stay)));
        self.table.block(&wanted)
    }

    /// Mends the kernel's table if somebody took it away or took something out of it; whether that was so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(&mut self, gone: &Gone, now: Now) -> Result<bool> {
        if gone.has(TABLE) { self.check(now) } else { Ok(false) }
    }

    /// The same, whether anything was told or not: for whoever stays where the kernel tells nothing, as iptables does not.
    /// Once a minute is often enough, and costs milliseconds.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn check(&mut self, now: Now) -> Result<bool> {
        let elements = self.elements(now.boot);
        if self.table.load_again(self.state.terms(), &elements)? != Again::Whole {
            return Ok(true);
        }
        // Somebody may have saved it long ago, and loaded it now: then its sets are those of that time.
        let in_kernel = self.table.list()?;
        let strangers: Vec<IpAddr> =
            in_kernel.keys().copied().filter(|&address| !self.is_blocked(address, now)).collect();
        self.table.free(&strangers)?;
        self.mend(&in_kernel, now)?;
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
        self.in_kernel_too(address, |state| state.catch(address, evidence, why, now))
    }

    /// Has the kernel do what is decided, or takes it back where it refuses.
    fn in_kernel_too(&mut self, address: IpAddr, decide: impl FnOnce(&mut State) -> Outcome) -> Result<Outcome> {
        let before = self.state.get(address).cloned();
        let outcome = decide(&mut self.state);
        if let Outcome::Block(length, _) = &outcome
            && let Err(error) = self.table.block(&[(address, *length)])
        {
            self.state.put_back(address, before);
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
            Request::Restore => self.put_back(now).unwrap_or_else(refused),
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
        let why = cleaned(why);
        Ok(match self.in_kernel_too(address, |state| state.ask(address, length, by, &why, now))? {
            Outcome::Block(_, record) => {
                let What::Blocked { until, .. } = record.what else { anyhow::bail!("it was freed") };
                (control::Answer::Blocked { until, already: false }, vec![record])
            }
            Outcome::Already(until) => {
                self.mend_one(address, by, now)?;
                let until = until.map(|until| now.calendar_at(until));
                (control::Answer::Blocked { until, already: true }, Vec::new())
            }
            Outcome::Limited(limit) => anyhow::bail!("{address} is not blocked: {limit}"),
        })
    }

    /// Debian's portsentry saw somebody who is blocked: it looks before the firewall, or somebody took him out of the sets.
    fn mend_one(&mut self, address: IpAddr, by: By, now: Now) -> Result<()> {
        let entry = self.state.get(address).filter(|entry| by == By::Portsentry && entry.is_live(now.boot));
        match entry.map(|entry| entry.stay(now.boot)) {
            // Asked first, for the kernel takes milliseconds to renew one that is there.
            Some(stay) if !self.table.has(address)? => self.table.block(&[(address, stay)]),
            _ => Ok(()),
        }
    }

    fn unblock(&mut self, addresses: &[IpAddr], why: &str, now: Now) -> Result<(control::Answer, Vec<Record>)> {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        self.table.free(&addresses)?;
        let why = cleaned(why);
        let blocked = addresses.iter().copied().filter(|&address| self.is_blocked(address, now)).collect();
        let records = addresses.iter().filter_map(|&address| self.state.free(address, By::Hand, &why, now)).collect();
        Ok((control::Answer::Freed(blocked), records))
    }

    /// Has the kernel block all who are blocked, and nobody else but those of whom nobody has heard yet: these are blocked from
    /// now on. How many are, and what is to be written down.
    fn put_back(&mut self, now: Now) -> Result<(control::Answer, Vec<Record>)> {
        let is_current = self.table.is_current(self.state.terms())?;
        let known: HashSet<IpAddr> = self.state.known().collect();
        let adopted = self.make_the_kernel_follow(&known, now)?;
        if !is_current {
            self.table.keep();
        }
        let records = if adopted > 0 { self.records(now) } else { Vec::new() };
        Ok((control::Answer::Restored(self.len()), records))
    }

    fn list(&mut self, now: Now) -> Result<Vec<Listed>> {
        Ok(listed(&self.state, &self.table.blocked()?, now))
    }

    /// When somebody is to be freed next.
    pub fn next_end(&self) -> Option<Uptime> {
        self.state.next_end()
    }

    /// Whose time is over by now; the kernel has freed them by itself.
    pub fn pass(&mut self, now: Now) -> Vec<IpAddr> {
        self.state.pass(now.boot)
    }

    /// Whether somebody has set the clock since this was asked last: then all is to be written down anew.
    pub fn clock_was_set(&mut self, now: Now) -> bool {
        let was_set = (now.offset() - self.offset).unsigned_abs() >= TOLERANCE.as_millis() as u64;
        if was_set {
            self.offset = now.offset();
        }
        was_set
    }

    /// All that is to be in the ledger.
    pub fn records(&self, now: Now) -> Vec<Record> {
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
        Ok(safe.into_iter().filter_map(|(address, why)| self.state.free(address, By::Daemon, &why, now)).collect())
    }

    /// Takes new terms, once the kernel has. Frees whom they leave no room for; what is to be written down.
    ///
    /// # Errors
    /// The kernel refuses; then all is as it was.
    pub fn configure(&mut self, terms: Terms, answer: Answer, now: Now) -> Result<Vec<Record>> {
        let beyond = self.state.beyond(terms.in_all);
        let before = self.table.answer(answer);
        if let Err(error) = self.load_other(&terms, &beyond, now) {
            self.table.answer(before);
            return Err(error);
        }
        self.state.configure(terms);
        let why = format!("there were more than {BEYOND}");
        Ok(beyond.into_iter().filter_map(|address| self.state.free(address, By::Daemon, &why, now)).collect())
    }

    /// Loads the table of other terms, if it is another one, without those who are `beyond` them.
    fn load_other(&mut self, terms: &Terms, beyond: &[IpAddr], now: Now) -> Result<()> {
        if self.table.is_current(terms)? {
            return Ok(());
        }
        let beyond: HashSet<&IpAddr> = beyond.iter().collect();
        let mut elements = self.elements(now.boot);
        elements.retain(|(address, _)| !beyond.contains(address));
        self.table.load(terms, &elements)?;
        self.table.keep();
        Ok(())
    }

    /// Has the file that hosts.deny names say who is blocked; for root, where no daemon runs, and without reading the ledger
    /// again as [`publish_denied`] does.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn publish(&self, now: Now) -> Result<()> {
        denied::name(Path::new(DENIED), self.state.live(now.boot).map(|(address, _)| address))
    }

    /// How many are blocked.
    pub fn len(&self) -> usize {
        self.state.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn elements(&self, now: Uptime) -> Vec<(IpAddr, Length)> {
        self.state.live(now).map(|(address, entry)| (address, entry.stay(now))).collect()
    }
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
