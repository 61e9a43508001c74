//! Writes the ledger, in a thread of its own, for a disk can be slow, or full: what the kernel blocks already is written
//! down, many at once where many come, and only then told.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::metrics::Queue;
use super::output::Output;
use super::reactions::{Entrance, Job};
use super::threads::{join_soon, locked};
use crate::blocks::control::{self, Answer};
use crate::blocks::{Ledger, Record};

/// What may wait for the disk. Of more it is only kept that all is to be written anew.
const WAITING: usize = 16_384;
/// How often a ledger that cannot be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is published who is blocked, at most; less often where that takes long, for which the whole ledger is read.
const PUBLISHED: Duration = Duration::from_secs(1);
/// The share of time that it may take.
const SHARE: u32 = 10;

/// What happened, and who is to hear of it once it is written down.
#[derive(Debug, Default)]
pub struct Entry {
    pub records: Vec<Record>,
    /// Somebody's time is over.
    pub is_over: bool,
    pub then: Then,
}

#[derive(Debug, Default)]
pub enum Then {
    #[default]
    Nothing,
    /// React further, and tell it.
    React(Box<Job>),
    Answer(UnixStream, Box<Answer>),
}

/// Tells whoever wants to know who is blocked, as the ledger has it.
pub type Publish = Box<dyn FnMut() -> Result<()> + Send>;

/// Takes entries.
pub struct Keeper {
    desk: Arc<Desk>,
    entrance: Entrance,
    output: Output,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Each with whether it brought something to write.
    entries: VecDeque<(Entry, bool)>,
    /// All that the ledger is to hold; what comes later is in `entries`.
    all: Option<All>,
    /// Records were dropped, and nothing but all of them makes good for it.
    is_lossy: bool,
    /// The thread wants all; whether it has to have it.
    wanted: Option<bool>,
    is_ending: bool,
}

struct All {
    records: Vec<Record>,
    /// The ledger does not say the same already.
    is_news: bool,
}

impl Waiting {
    /// Takes an entry, or gives back what is to follow if too many wait.
    fn keep(&mut self, entry: Entry) -> Result<(), (Then, bool)> {
        let is_news = !entry.records.is_empty();
        if self.entries.len() >= WAITING {
            self.is_lossy |= is_news;
            return Err((entry.then, is_news));
        }
        self.entries.push_back((entry, is_news));
        Ok(())
    }

    fn keep_all(&mut self, records: Vec<Record>, is_news: bool) {
        let is_news = is_news || self.is_lossy || self.wanted == Some(true);
        (self.is_lossy, self.wanted) = (false, None);
        // They are among all, as things stand now.
        self.entries.iter_mut().for_each(|(entry, _)| entry.records.clear());
        self.all = Some(All { records, is_news });
    }
}

impl Keeper {
    /// Starts the thread. What is written down goes to `entrance`, to be told; then `publish` is called. Something is
    /// written to `bell` when [`Keeper::wants_all`].
    pub fn start(ledger: Ledger, entrance: Entrance, output: Output, publish: Publish, bell: UnixStream) -> Keeper {
        let desk = Arc::new(Desk::default());
        let mut clerk = Clerk {
            backlog: Backlog::of(ledger),
            desk: Arc::clone(&desk),
            entrance: entrance.clone(),
            output: output.clone(),
            bell,
            asked: None,
            publication: Publication::new(publish),
        };
        let thread = std::thread::spawn(move || clerk.run());
        Keeper { desk, entrance, output, thread }
    }

    /// Hands an entry over; never waits. If too many wait for the disk what is to follow follows at once, and what is to be
    /// written is written later, with all else.
    pub fn keep(&self, entry: Entry) {
        let mut waiting = locked(&self.desk.waiting);
        if let Err((then, is_news)) = waiting.keep(entry) {
            drop(waiting);
            let why = is_news.then_some("more comes than the disk takes");
            return tell(then, why, &self.entrance, &self.output);
        }
        self.output.metrics().enter(Queue::Ledger);
        self.desk.news.notify_one();
    }

    /// Whether all that the ledger is to hold should be handed over, with [`Keeper::keep_all`].
    pub fn wants_all(&self) -> bool {
        locked(&self.desk.waiting).wanted.is_some()
    }

    /// Hands over all that the ledger is to hold from now on, because it was wanted, or, with `is_news`, because it changed.
    pub fn keep_all(&self, records: Vec<Record>, is_news: bool) {
        locked(&self.desk.waiting).keep_all(records, is_news);
        self.desk.news.notify_one();
    }

    /// Writes what waits, `all` of it if something was dropped, and ends; a disk that hangs is waited for two seconds.
    pub fn end(self, all: impl FnOnce() -> Vec<Record>) {
        let is_wanted = {
            let waiting = locked(&self.desk.waiting);
            waiting.is_lossy || waiting.wanted == Some(true)
        };
        if is_wanted {
            self.keep_all(all(), true);
        }
        locked(&self.desk.waiting).is_ending = true;
        self.desk.news.notify_one();
        join_soon(self.thread);
    }
}

struct Clerk {
    backlog: Backlog,
    desk: Arc<Desk>,
    entrance: Entrance,
    output: Output,
    bell: UnixStream,
    /// As [`Waiting::wanted`]; what was wanted did not come yet.
    asked: Option<bool>,
    publication: Publication,
}

impl Clerk {
    fn run(&mut self) {
        self.ask_for_all();
        loop {
            let waiting = self.next();
            let is_last = waiting.is_ending && waiting.entries.is_empty() && waiting.all.is_none();
            self.output.metrics().leave(Queue::Ledger, waiting.entries.len());
            let was_behind = self.backlog.is_behind();
            let thens = self.take(waiting);
            let failure = self.backlog.write().err().map(|error| format!("{error:#}"));
            self.output.metrics().ledger_fails(failure.is_some());
            match &failure {
                Some(why) if !was_behind => self.output.say(&format!(
                    "adminalert: ERROR: {why}; hosts are blocked all the same, and written down as soon as it can be"
                )),
                None if was_behind => {
                    self.publication.is_due = true;
                    self.output.say("adminalert: the ledger of blocks is written again");
                }
                _ => {}
            }
            self.ask_for_all();
            for (then, is_news) in thens {
                tell(then, failure.as_deref().filter(|_| is_news), &self.entrance, &self.output);
            }
            let left = self.publication.left();
            if left == Some(Duration::ZERO) || is_last && left.is_some() {
                self.publication.publish(&self.output);
            }
            if is_last {
                return;
            }
        }
    }

    /// All that waits; waits for it, and, where something is to be tried again, not for long.
    fn next(&self) -> Waiting {
        let mut waiting = locked(&self.desk.waiting);
        while waiting.entries.is_empty() && waiting.all.is_none() && !waiting.is_lossy && !waiting.is_ending {
            let again = self.backlog.is_behind().then_some(AGAIN);
            let Some(wait) = [again, self.publication.left()].into_iter().flatten().min() else {
                waiting = self.desk.news.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            };
            let waited = self.desk.news.wait_timeout(waiting, wait);
            waiting = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            break;
        }
        let (is_ending, wanted) = (waiting.is_ending, waiting.wanted);
        std::mem::replace(&mut *waiting, Waiting { is_ending, wanted, ..Waiting::default() })
    }

    /// Takes what waited to what is unwritten; what is to follow, and whether it is about something to write.
    fn take(&mut self, waiting: Waiting) -> Vec<(Then, bool)> {
        if let Some(all) = waiting.all {
            self.backlog.take_all(all);
            self.asked = None;
            self.publication.is_due = true;
        }
        let mut thens = Vec::new();
        for (Entry { records, is_over, then }, is_news) in waiting.entries {
            self.publication.is_due |= is_over || is_news;
            self.backlog.take(records);
            thens.push((then, is_news));
        }
        self.backlog.is_lossy |= waiting.is_lossy;
        thens
    }

    fn ask_for_all(&mut self) {
        let wanted = self.backlog.wants_all();
        if wanted > self.asked {
            self.asked = wanted;
            locked(&self.desk.waiting).wanted = wanted;
            // A full one rings already.
            let _ = (&self.bell).write(b".");
        }
    }
}

/// The ledger, and what could not be written there yet: all, and the last record of each address since.
struct Backlog {
    ledger: Ledger,
    all: Option<All>,
    unwritten: HashMap<IpAddr, Record>,
    /// Records were dropped since all was handed over.
    is_lossy: bool,
}

impl Backlog {
    fn of(ledger: Ledger) -> Backlog {
        Backlog { is_lossy: ledger.is_behind(), ledger, all: None, unwritten: HashMap::new() }
    }

    fn take_all(&mut self, all: All) {
        self.unwritten.clear();
        (self.all, self.is_lossy) = (Some(all), false);
    }

    fn take(&mut self, records: Vec<Record>) {
        self.unwritten.extend(records.into_iter().map(|record| (record.address, record)));
        if self.unwritten.len() > WAITING {
            self.unwritten.clear();
            self.is_lossy = true;
        }
    }

    /// Whether all is wanted, to be written anew, and whether it has to be.
    fn wants_all(&self) -> Option<bool> {
        (self.is_lossy || self.ledger.is_long()).then_some(self.is_lossy)
    }

    fn is_behind(&self) -> bool {
        self.all.is_some() || !self.unwritten.is_empty() || self.is_lossy
    }

    /// Writes what is unwritten.
    fn write(&mut self) -> Result<()> {
        if let Some(all) = &self.all {
            match self.ledger.write_anew(&all.records) {
                Err(error) if all.is_news => return Err(error),
                // A long one serves as well; it is tried again when it is twice as long.
                _ => self.all = None,
            }
        }
        self.ledger.append(self.unwritten.values())?;
        self.unwritten.clear();
        if self.is_lossy {
            bail!("the ledger lacks what came faster than the disk took it");
        }
        Ok(())
    }
}

/// Does what is to follow; `failure` says why what it is about is not written down.
fn tell(then: Then, failure: Option<&str>, entrance: &Entrance, output: &Output) {
    match then {
        Then::Nothing => {}
        Then::React(mut job) => {
            if let (Some(said), Some(_)) = (&mut job.blocked, failure) {
                let source = job.scan.probe.source;
                said.push(format!("attackalert: ERROR: the block of host {source} is not written down yet"));
            }
            if let Err(job) = entrance.react(*job) {
                let source = job.scan.probe.source;
                output.say(&format!("attackalert: Host {source} is blocked; too many wait to be told"));
            }
        }
        Then::Answer(stream, answer) => match failure {
            None => control::answer(&stream, &answer),
            Some(why) => {
                let text = format!(
                    "it is done, and a restart would forget it, for it is not written down yet: {why}; the daemon goes on trying"
                );
                control::answer(&stream, &Answer::Refused(text));
            }
        },
    }
}

/// Publishes at once, but once in [`PUBLISHED`] at most, and what failed again.
struct Publication {
    publish: Publish,
    is_due: bool,
    /// Not before.
    next: Instant,
    has_failed: bool,
}

impl Publication {
    /// What is published may be of an earlier life.
    fn new(publish: Publish) -> Publication {
        Publication { publish, is_due: true, next: Instant::now(), has_failed: false }
    }

    /// How long until something is to be published, if anything is.
    fn left(&self) -> Option<Duration> {
        self.is_due.then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Publishes; a failure is told once.
    fn publish(&mut self, output: &Output) {
        let start = Instant::now();
        let done = (self.publish)();
        self.is_due = done.is_err();
        self.next = start + PUBLISHED.max(start.elapsed() * SHARE);
        match &done {
            Err(error) if !self.has_failed => {
                output.say(&format!("adminalert: ERROR: {error:#}; TCP wrappers do not know yet who is blocked"));
            }
            Ok(()) if self.has_failed => output.say("adminalert: TCP wrappers know again who is blocked"),
            _ => {}
        }
        self.has_failed = done.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn host(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(u32::try_from(number).unwrap()).into()
    }

    /// Blocked for ever.
    fn record(number: usize) -> Record {
        let rest = format!("2026-11-27T06:12:00Z block {} forever 1 daemon probed", host(number));
        format!("{:08x} {rest}", crc32fast::hash(rest.as_bytes())).parse().unwrap()
    }

    fn entry(number: usize) -> Entry {
        Entry { records: vec![record(number)], ..Entry::default() }
    }

    /// How many addresses the ledger at `path` names.
    fn named(path: &Path) -> usize {
        Ledger::open(path).unwrap().1.records.len()
    }

    /// A ledger that cannot be written as long as its directory is missing.
    fn backlog(directory: &Path) -> (Backlog, std::path::PathBuf) {
        let path = directory.join("disk/ledger");
        (Backlog::of(Ledger::open(&path).unwrap().0), path)
    }

    #[test]
    fn of_more_than_may_wait_all_is_written_anew_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (mut backlog, path) = backlog(directory.path());
        let count = 2 * WAITING + 100;
        for number in 0..count {
            backlog.take(vec![record(number)]);
            assert!(backlog.unwritten.len() <= WAITING);
        }
        assert!(backlog.write().is_err() && backlog.is_behind());
        assert_eq!(backlog.wants_all(), Some(true));
        backlog.take_all(All { records: (0..count).map(record).collect(), is_news: true });
        backlog.take(vec![record(count)]);
        assert!(backlog.write().is_err());
        assert_eq!(backlog.wants_all(), None);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        backlog.write().unwrap();
        assert!(!backlog.is_behind());
        assert_eq!(named(&path), count + 1);
    }

    /// More than the thread takes while the disk hangs: what is to follow comes back, what is to be written does not.
    #[test]
    fn of_a_full_queue_all_is_wanted() {
        let mut waiting = Waiting::default();
        (0..WAITING).for_each(|number| waiting.keep(entry(number)).unwrap());
        assert!(waiting.keep(Entry { is_over: true, ..Entry::default() }).is_err());
        assert!(!waiting.is_lossy);
        assert!(matches!(waiting.keep(entry(WAITING)), Err((Then::Nothing, true))));
        assert!(waiting.is_lossy);
        waiting.keep_all(vec![record(7)], false);
        assert!(!waiting.is_lossy && waiting.all.as_ref().is_some_and(|all| all.is_news));
        let news = waiting.entries.iter().filter(|(entry, is_news)| entry.records.is_empty() && *is_news);
        assert_eq!(news.count(), WAITING, "who waits is still told whether it was written");
    }

    /// Writing it anew only to have it shorter may fail: the long one serves as well.
    #[test]
    fn a_long_ledger_is_written_anew_where_that_works() {
        let directory = tempfile::tempdir().unwrap();
        let (mut backlog, path) = backlog(directory.path());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        while backlog.wants_all().is_none() {
            backlog.take(vec![record(1)]);
            backlog.write().unwrap();
        }
        let long = lines(&path);
        std::fs::create_dir(path.with_extension("new")).unwrap();
        backlog.take_all(All { records: vec![record(1)], is_news: false });
        backlog.write().unwrap();
        assert_eq!((lines(&path), backlog.is_behind(), backlog.wants_all()), (long, false, None));
        std::fs::remove_dir(path.with_extension("new")).unwrap();
        backlog.take_all(All { records: vec![record(1)], is_news: false });
        backlog.write().unwrap();
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn what_was_not_published_is_published_later() {
        let (output, writer) = Output::start(false, None, None);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let publish = move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => bail!("not yet"),
            _ => Ok(()),
        };
        let mut publication = Publication::new(Box::new(publish));
        assert_eq!(publication.left(), Some(Duration::ZERO), "what an earlier life left is published");
        publication.publish(&output);
        assert!(publication.left().is_some(), "later, and again");
        publication.publish(&output);
        assert_eq!((publication.left(), calls.load(Ordering::Relaxed)), (None, 2));
        output.end(writer);
    }
}
