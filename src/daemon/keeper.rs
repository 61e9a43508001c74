//! Writes the ledger, in a thread of its own, for a disk can be slow, or full: what the kernel blocks already is written
//! down, many at once where many come, and only then told.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::metrics::Queue;
use super::output::Output;
use super::reactions::{Entrance, Job};
use super::threads::{join_soon, locked};
use crate::blocks::control::{self, Answer};
use crate::blocks::{Book, Record};

/// What may wait for the disk; more is told as not written down, and written later.
const WAITING: usize = 16_384;
/// How often a ledger that cannot be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What happened, and who is to hear of it once it is written down.
#[derive(Debug, Default)]
pub struct Entry {
    pub records: Vec<Record>,
    /// Whose time is over.
    pub over: Vec<IpAddr>,
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

/// Has the file written that hosts.deny names.
pub type Publish = Box<dyn FnMut() -> anyhow::Result<()> + Send>;

/// Takes entries.
pub struct Keeper {
    desk: Arc<Desk>,
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
    entries: VecDeque<Entry>,
    is_ending: bool,
}

impl Keeper {
    /// Starts the thread. What is written down goes to `entrance`, to be told.
    pub fn start(book: Book, entrance: Entrance, output: Output, publish: Publish) -> Keeper {
        let desk = Arc::new(Desk::default());
        let mut clerk = Clerk {
            book,
            desk: Arc::clone(&desk),
            entrance,
            output: output.clone(),
            unwritten: HashMap::new(),
            over: Vec::new(),
            not_denied: false,
            publish,
        };
        let thread = std::thread::spawn(move || clerk.run());
        Keeper { desk, output, thread }
    }

    /// Hands an entry over; never waits. If too many wait for the disk it comes back.
    pub fn keep(&self, entry: Entry) -> Result<(), Entry> {
        let mut waiting = locked(&self.desk.waiting);
        if waiting.entries.len() >= WAITING {
            return Err(entry);
        }
        waiting.entries.push_back(entry);
        self.output.metrics().enter(Queue::Ledger);
        self.desk.news.notify_one();
        Ok(())
    }

    /// Writes what waits, and ends; a disk that hangs is waited for two seconds.
    pub fn end(self) {
        locked(&self.desk.waiting).is_ending = true;
        self.desk.news.notify_one();
        join_soon(self.thread);
    }
}

struct Clerk {
    book: Book,
    desk: Arc<Desk>,
    entrance: Entrance,
    output: Output,
    /// What could not be written yet: the last record of each address, and whose time is over.
    unwritten: HashMap<IpAddr, Record>,
    over: Vec<IpAddr>,
    /// The ledger has all, and the file that hosts.deny names has not.
    not_denied: bool,
    publish: Publish,
}

/// What could not be written, and why.
#[derive(Default)]
struct Failure {
    ledger: Option<String>,
    denied: Option<String>,
}

impl Clerk {
    fn run(&mut self) {
        loop {
            let (entries, is_ending) = self.next();
            if entries.is_empty() && is_ending {
                let _ = self.write();
                return;
            }
            self.output.metrics().leave(Queue::Ledger, entries.len());
            let was_behind = self.is_behind();
            let mut thens = Vec::new();
            for Entry { records, over, then } in entries {
                // Whoever only asks gets his answer from a full disk, too.
                let is_news = !records.is_empty();
                self.unwritten.extend(records.into_iter().map(|record| (record.address, record)));
                self.over.extend(over);
                thens.push((then, is_news));
            }
            let failure = self.write();
            self.output.metrics().ledger_fails(failure.ledger.is_some());
            match failure.ledger.as_ref().or(failure.denied.as_ref()) {
                Some(why) if !was_behind => self.output.say(&format!(
                    "adminalert: ERROR: {why}; hosts are blocked all the same, and written down as soon as it can be"
                )),
                None if was_behind => self.output.say("adminalert: the ledger of blocks is written again"),
                _ => {}
            }
            for (then, is_news) in thens {
                self.tell(then, failure.ledger.as_deref().filter(|_| is_news));
            }
        }
    }

    /// All that waits; waits for it, and, where something is unwritten, not for long.
    fn next(&self) -> (VecDeque<Entry>, bool) {
        let mut waiting = locked(&self.desk.waiting);
        while waiting.entries.is_empty() && !waiting.is_ending {
            if self.is_behind() {
                let waited = self.desk.news.wait_timeout(waiting, AGAIN);
                waiting = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                break;
            }
            waiting = self.desk.news.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        (std::mem::take(&mut waiting.entries), waiting.is_ending)
    }

    fn is_behind(&self) -> bool {
        !self.unwritten.is_empty() || !self.over.is_empty() || self.not_denied
    }

    /// Writes what is unwritten.
    fn write(&mut self) -> Failure {
        let records: Vec<Record> = self.unwritten.values().cloned().collect();
        if let Err(error) = self.book.append(&records) {
            return Failure { ledger: Some(format!("{error:#}")), denied: None };
        }
        // Once, however often the rest is to be tried again.
        self.unwritten.clear();
        let over = std::mem::take(&mut self.over);
        let denied = self.book.deny(&records, &over).and_then(|()| (self.publish)());
        let denied = denied.err().map(|error| format!("{error:#}"));
        self.not_denied = denied.is_some();
        Failure { ledger: None, denied }
    }

    fn tell(&self, then: Then, failure: Option<&str>) {
        match then {
            Then::Nothing => {}
            Then::React(mut job) => {
                if let (Some(said), Some(_)) = (&mut job.blocked, failure) {
                    let source = job.scan.probe.source;
                    said.push(format!("attackalert: ERROR: the block of host {source} is not written down yet"));
                }
                if let Err(job) = self.entrance.react(*job) {
                    let source = job.scan.probe.source;
                    self.output.say(&format!("attackalert: Host {source} is blocked; too many wait to be told"));
                }
            }
            Then::Answer(stream, answer) => match failure {
                None => control::answer(&stream, &answer),
                Some(why) => {
                    let text =
                        format!("it is done, and lasts until a restart at most, for it is not written down: {why}");
                    control::answer(&stream, &Answer::Refused(text));
                }
            },
        }
    }
}
