//! Where lines go: the history and the blocked file, and then the log. A thread of its own writes them, and one behind it
//! the log, so that a full disk or a reader that does not read never holds up detection.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::decide::Scan;
use super::log::LogQueue;
use super::metrics::{Metrics, Queue};
use super::threads::{join_soon, locked};

/// Parcels, and bytes, that may wait to be written; more are counted and thrown away.
const WAITING: usize = 4_096;
pub const WAITING_BYTES: usize = 32 << 20;
/// Written parcels that are kept to be filled again, and how large one may be: giving memory back to the kernel and
/// asking for it anew costs more than a line.
const SPARE: usize = 4;
const SPARE_BYTES: usize = 256 << 10;

/// Lines that belong together.
#[derive(Debug, Default, Clone)]
pub struct Parcel {
    /// With newlines.
    pub log: String,
    /// With newlines.
    pub history: String,
    /// As the generation's blocked file has them.
    pub blocked: Vec<u8>,
    /// Where in the log the line of a scan begins, and what it says, in order.
    pub scans: Vec<(usize, Scan)>,
}

impl Parcel {
    /// Adds a line to the log.
    pub fn say(&mut self, line: &str) {
        self.log.push_str(line);
        self.log.push('\n');
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.log.len() + self.history.len() + self.blocked.len() + size_of_val(&*self.scans)
    }

    /// The same memory, empty.
    fn cleared(mut self) -> Parcel {
        self.log.clear();
        self.history.clear();
        self.blocked.clear();
        self.scans.clear();
        self
    }
}

enum Job {
    Write(Parcel),
    /// Files may have been moved away or changed their names (logrotate, SIGHUP): [`Shared::files`].
    Files,
    End,
}

/// Takes parcels; clones feed the same thread.
#[derive(Clone)]
pub struct Output {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

/// What all sides know.
#[derive(Default)]
pub struct Shared {
    /// Lines that were thrown away and not told yet.
    lost: AtomicU64,
    waiting_bytes: AtomicUsize,
    spare: Mutex<Vec<Parcel>>,
    /// The history and the blocked file from now on, if they are to be opened anew.
    files: Mutex<Option<Files>>,
    metrics: Arc<Metrics>,
}

type Files = (Option<PathBuf>, Option<PathBuf>);

/// The thread that writes, and that of the log.
pub struct Writer(JoinHandle<()>, JoinHandle<()>);

impl Output {
    /// Starts the threads.
    pub fn start(to_syslog: bool, history: Option<PathBuf>, blocked: Option<PathBuf>) -> (Output, Writer) {
        let (jobs, queue) = sync_channel(WAITING);
        let shared = Arc::new(Shared::default());
        let (log, log_thread) = LogQueue::start(to_syslog, &shared);
        let mut sink = Sink {
            log,
            history: AppendedFile::of_lines(history),
            blocked: AppendedFile::of_records(blocked),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::spawn(move || sink.run(&queue));
        (Output { jobs, shared }, Writer(thread, log_thread))
    }

    /// Where everybody counts who has something to tell.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.shared.metrics()
    }

    /// An empty parcel.
    pub fn parcel(&self) -> Parcel {
        locked(&self.shared.spare).pop().unwrap_or_default()
    }

    /// Hands `parcel` over. Never waits: if the writer is behind, its lines are counted as lost.
    pub fn send(&self, parcel: Parcel) {
        let bytes = parcel.len();
        if bytes == 0 {
            return self.shared.keep(parcel);
        }
        self.shared.metrics.enter(Queue::Output);
        let is_full = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) > WAITING_BYTES;
        let sent =
            if is_full { Err(TrySendError::Full(Job::Write(parcel))) } else { self.jobs.try_send(Job::Write(parcel)) };
        if let Err(TrySendError::Full(Job::Write(parcel))) = sent {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.lose(&parcel);
            self.shared.done(parcel);
        }
    }

    /// Logs one line.
    pub fn say(&self, line: &str) {
        let mut parcel = Parcel::default();
        parcel.say(line);
        self.send(parcel);
    }

    /// From now on these files are written, opened anew. Never waits: if the writer is behind, it does so before the next
    /// parcel.
    pub fn reopen(&self, history: Option<PathBuf>, blocked: Option<PathBuf>) {
        *locked(&self.shared.files) = Some((history, blocked));
        let _ = self.jobs.try_send(Job::Files);
    }

    /// Writes what is waiting, unless nobody takes it, and ends the thread.
    pub fn end(self, writer: Writer) {
        let _ = self.jobs.try_send(Job::End);
        join_soon(writer.0);
        join_soon(writer.1);
    }
}

impl Shared {
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts the lines of a parcel that nobody writes.
    pub fn lose(&self, parcel: &Parcel) {
        let lines = parcel.log.lines().count().max(1) as u64;
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.metrics.lines_lost(lines);
    }

    /// Lines that were lost since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// A parcel that was sent is written, or lost.
    pub fn done(&self, parcel: Parcel) {
        self.metrics.leave(Queue::Output, 1);
        self.keep(parcel);
    }

    fn keep(&self, parcel: Parcel) {
        let mut spare = locked(&self.spare);
        let scans = parcel.scans.capacity() * size_of::<(usize, Scan)>();
        if spare.len() < SPARE && parcel.log.capacity() + parcel.history.capacity() + scans <= SPARE_BYTES {
            spare.push(parcel.cleared());
        }
    }
}

struct Sink {
    log: LogQueue,
    history: AppendedFile,
    blocked: AppendedFile,
    shared: Arc<Shared>,
}

impl Sink {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let files = locked(&self.shared.files).take();
            if let Some((history, blocked)) = files {
                self.files(history, blocked);
            }
            match job {
                Job::Write(parcel) => {
                    self.shared.waiting_bytes.fetch_sub(parcel.len(), Ordering::Relaxed);
                    self.write(parcel);
                }
                Job::Files => {}
                Job::End => return,
            }
        }
    }

    fn write(&mut self, mut parcel: Parcel) {
        // The history first: fail2ban reads it.
        let history = self.history.append(parcel.history.as_bytes());
        let blocked = self.blocked.append(&parcel.blocked);
        [history, blocked].into_iter().flatten().for_each(|problem| parcel.say(&problem));
        self.log.send(parcel);
    }

    fn files(&mut self, history: Option<PathBuf>, blocked: Option<PathBuf>) {
        self.history = AppendedFile::of_lines(history);
        self.blocked = AppendedFile::of_records(blocked);
        // It is there again before anybody misses it: without it fail2ban does not start (trap 21).
        let problems = [self.history.append(b""), self.blocked.append(b"")];
        let mut parcel = Parcel::default();
        problems.into_iter().flatten().for_each(|problem| parcel.say(&problem));
        self.shared.metrics.enter(Queue::Output);
        self.log.send(parcel);
    }
}

/// A file that is only appended to, and followed by name: one that was moved away or removed is made anew.
struct AppendedFile {
    path: Option<PathBuf>,
    open: Option<File>,
    failing: bool,
    /// How many of these bytes, which are all that could be written, may stay.
    whole: fn(&[u8]) -> usize,
}

impl AppendedFile {
    /// Of what cannot be written, the lines that fit are kept, and not half of one, behind which no other could be read.
    fn of_lines(path: Option<PathBuf>) -> AppendedFile {
        let whole = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        AppendedFile { path, open: None, failing: false, whole }
    }

    /// All of it or nothing.
    fn of_records(path: Option<PathBuf>) -> AppendedFile {
        AppendedFile { path, open: None, failing: false, whole: |_| 0 }
    }

    /// Appends; the problem, the first time that there is one, in words.
    fn append(&mut self, bytes: &[u8]) -> Option<String> {
        let path = self.path.clone()?;
        let done = self.try_append(&path, bytes);
        if self.failing && bytes.is_empty() && done.is_ok() {
            return None; // which proves nothing
        }
        let was_failing = std::mem::replace(&mut self.failing, done.is_err());
        match done {
            Err(error) if !was_failing => Some(format!(
                "adminalert: ERROR: cannot write {}: {error}; its lines are lost until that works",
                path.display()
            )),
            Ok(()) if was_failing => Some(format!("adminalert: {} can be written again", path.display())),
            _ => None,
        }
    }

    fn try_append(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let moved = |file: &File| -> bool {
            let (Ok(here), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return true };
            (here.dev(), here.ino()) != (there.dev(), there.ino())
        };
        if self.open.as_ref().is_none_or(moved) {
            self.open = None;
            self.open = Some(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?);
        }
        match (&mut self.open, bytes) {
            (Some(file), bytes) if !bytes.is_empty() => append(file, bytes, self.whole),
            _ => Ok(()),
        }
    }
}

fn append(file: &mut File, bytes: &[u8], whole: fn(&[u8]) -> usize) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        let done = match file.write(&bytes[written..]) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => done,
        };
        match done {
            Ok(count) => written += count,
            Err(error) => {
                let too_many = written - whole(&bytes[..written]);
                if let (1.., Ok(now)) = (too_many, file.metadata()) {
                    let _ = file.set_len(now.len().saturating_sub(too_many as u64));
                }
                return Err(error);
            }
        }
    }
    Ok(())
}
