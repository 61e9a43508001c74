//! RESOLVE_HOST: the scanner's name, which his own name server tells, or does not.
//!
//! Lookups run in a few threads, may take as long as they like, and are waited for two seconds. Lines come in the order
//! of their scans; what cannot be looked up in time, or waits behind too many, gets the address instead, as in the peers
//! where there is no name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::decide::Scan;
use super::lines::{HostName, Lines};
use super::output::{Output, Parcel};
use super::responder::{Way, ask_names};

pub const PATIENCE: Duration = Duration::from_secs(2);
const LOOKUPS: usize = 4;
/// Lookups, and scans, that may wait.
pub const WAITING: usize = 1_024;
/// Names that are remembered.
const REMEMBERED: usize = 1_024;

struct Named {
    scan: Scan,
    at: Timestamp,
    log: Vec<String>,
    record: Vec<u8>,
    since: Instant,
}

enum News {
    Scan(Box<Named>),
    Name(IpAddr, Option<HostName>),
    End,
}

/// Takes scans, and tells them with their names.
pub struct Names {
    news: SyncSender<News>,
    teller: JoinHandle<()>,
    output: Output,
    lines: Lines,
}

impl Names {
    /// Starts the threads; those that look up, or one that asks the responder that `way` leads to.
    pub fn start(lines: Lines, output: Output, way: Option<Way>) -> Names {
        let (news, queue) = sync_channel(2 * WAITING);
        let told = news.clone();
        let tell = move |address, name| told.send(News::Name(address, name)).is_ok();
        let questions = match way {
            None => look_up_in_threads(tell),
            Some(way) => ask_names(way, move |address, name| {
                tell(address, name);
            }),
        };
        let teller = Teller {
            questions,
            output: output.clone(),
            lines: lines.clone(),
            waiting: std::collections::VecDeque::new(),
            known: HashMap::new(),
            patience: PATIENCE,
        };
        let teller = std::thread::spawn(move || teller.run(&queue));
        Names { news, teller, output, lines }
    }

    /// Tells `scan` once its name is known, or known not to come.
    pub fn tell(&self, scan: Scan, at: Timestamp, log: Vec<String>, record: Vec<u8>) {
        let named = Named { scan, at, log, record, since: Instant::now() };
        if let Err(TrySendError::Full(News::Scan(named)) | TrySendError::Disconnected(News::Scan(named))) =
            self.news.try_send(News::Scan(Box::new(named)))
        {
            told(&self.output, &self.lines, &named, None);
        }
    }
}

impl Names {
    /// Tells what waits for its name, without it.
    pub fn end(self) {
        let _ = self.news.send(News::End);
        let _ = self.teller.join();
    }
}

fn told(output: &Output, lines: &Lines, named: &Named, name: Option<&HostName>) {
    let mut parcel = Parcel::default();
    lines.tell(&named.scan, name, named.at, &named.log, &named.record, &mut parcel);
    output.send(parcel);
}

/// Looks up what it is sent, a few at a time, in threads that end with the process: one may hang in a lookup. `tell` gets
/// each name, and says whether anybody still wants to hear more.
pub fn look_up_in_threads(
    tell: impl Fn(IpAddr, Option<HostName>) -> bool + Send + Clone + 'static,
) -> SyncSender<IpAddr> {
    let (questions, asked) = sync_channel::<IpAddr>(WAITING);
    let asked = Arc::new(Mutex::new(asked));
    for _ in 0..LOOKUPS {
        let (asked, tell) = (Arc::clone(&asked), tell.clone());
        std::thread::spawn(move || {
            loop {
                let Ok(address) = asked.lock().map_err(drop).and_then(|queue| queue.recv().map_err(drop)) else {
                    return;
                };
                let name = dns_lookup::lookup_addr(&address).ok().and_then(|name| HostName::clean(&name));
                if !tell(address, name) {
                    return;
                }
            }
        });
    }
    questions
}

struct Teller {
    questions: SyncSender<IpAddr>,
    output: Output,
    lines: Lines,
    waiting: std::collections::VecDeque<Named>,
    /// `None`: asked, and not answered yet.
    known: HashMap<IpAddr, Option<Option<HostName>>>,
    patience: Duration,
}

impl Teller {
    fn run(mut self, queue: &Receiver<News>) {
        loop {
            let limit = self
                .waiting
                .front()
                .map_or(Duration::from_secs(3600), |named| PATIENCE.saturating_sub(named.since.elapsed()));
            match queue.recv_timeout(limit) {
                Ok(News::Scan(named)) => self.take(*named),
                Ok(News::Name(address, name)) => {
                    if let Some(known) = self.known.get_mut(&address) {
                        *known = Some(name);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(News::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.patience = Duration::ZERO;
                    self.tell();
                    return;
                }
            }
            self.tell();
        }
    }

    fn take(&mut self, named: Named) {
        let address = named.scan.probe.source;
        if !self.known.contains_key(&address) {
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
            // If too many wait already, this one has no name.
            let asked = self.questions.try_send(address).is_ok();
            self.known.insert(address, if asked { None } else { Some(None) });
        }
        self.waiting.push_back(named);
    }

    fn tell(&mut self) {
        while let Some(named) = self.waiting.front() {
            let name = match self.known.get(&named.scan.probe.source) {
                Some(Some(name)) => name.clone(),
                Some(None) if named.since.elapsed() < self.patience && self.waiting.len() < WAITING => return,
                _ => None,
            };
            let Some(named) = self.waiting.pop_front() else { return };
            told(&self.output, &self.lines, &named, name.as_ref());
        }
    }
}
