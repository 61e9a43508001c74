//! The log: stdout, syslog or the journal. A thread of its own writes it, behind the one that writes the history: whoever
//! does not read the log holds up nothing else.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use jiff::ZonedDateTime;

use super::journal::Journal;
use super::output::{Parcel, Shared};

/// Parcels, and their bytes, that may wait to be written; of more the lines are counted and thrown away.
const WAITING: usize = 4_096;
pub const WAITING_BYTES: usize = 16 << 20;

/// Takes parcels whose history is written.
pub struct LogQueue {
    parcels: SyncSender<Parcel>,
    waiting_bytes: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl LogQueue {
    /// Starts the thread; it ends when the queue is dropped and empty.
    pub fn start(to_syslog: bool, shared: &Arc<Shared>) -> (LogQueue, JoinHandle<()>) {
        let (parcels, queue) = sync_channel(WAITING);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let mut log =
            if to_syslog { Log::Syslog(None) } else { Journal::behind_stdout().map_or(Log::Stdout, Log::Journal) };
        let (bytes, told) = (Arc::clone(&waiting_bytes), Arc::clone(shared));
        let thread = std::thread::spawn(move || run(&mut log, &queue, &bytes, &told));
        (LogQueue { parcels, waiting_bytes, shared: Arc::clone(shared) }, thread)
    }

    /// Hands `parcel` over. Never waits: if the log is behind, its lines are counted as lost.
    pub fn send(&self, parcel: Parcel) {
        if parcel.log.is_empty() {
            return self.shared.done(parcel);
        }
        let bytes = parcel.len();
        let is_full = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) > WAITING_BYTES;
        let back = if is_full { Some(parcel) } else { self.parcels.try_send(parcel).err().map(into_inner) };
        if let Some(parcel) = back {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.lose(&parcel);
            self.shared.done(parcel);
        }
    }
}

fn into_inner(error: std::sync::mpsc::TrySendError<Parcel>) -> Parcel {
    match error {
        std::sync::mpsc::TrySendError::Full(parcel) | std::sync::mpsc::TrySendError::Disconnected(parcel) => parcel,
    }
}

fn run(log: &mut Log, queue: &Receiver<Parcel>, waiting_bytes: &AtomicUsize, shared: &Shared) {
    while let Ok(parcel) = queue.recv() {
        log.write(&parcel);
        waiting_bytes.fetch_sub(parcel.len(), Ordering::Relaxed);
        shared.done(parcel);
        let lost = shared.take_lost();
        if lost > 0 {
            let mut parcel = Parcel::default();
            parcel.say(&format!("adminalert: {lost} lines were lost: they could not be written as fast as they came"));
            log.write(&parcel);
        }
    }
}

enum Log {
    Stdout,
    /// Connected when there is something to say, and anew when the logger was restarted.
    Syslog(Option<UnixDatagram>),
    Journal(Journal),
}

impl Log {
    fn write(&mut self, parcel: &Parcel) {
        let mut stdout = io::stdout().lock();
        match self {
            Log::Stdout => drop(stdout.write_all(parcel.log.as_bytes()).and_then(|()| stdout.flush())),
            Log::Syslog(socket) => parcel.log.lines().for_each(|line| to_syslog(socket, line)),
            Log::Journal(journal) => journal.write(parcel, &mut stdout),
        }
    }
}

/// As syslog(3) sends it: facility daemon, priority notice.
fn to_syslog(socket: &mut Option<UnixDatagram>, line: &str) {
    let message =
        format!("<29>{} portsentry[{}]: {line}", ZonedDateTime::now().strftime("%b %e %H:%M:%S"), std::process::id());
    for _ in 0..2 {
        if socket.is_none() {
            *socket = UnixDatagram::unbound().and_then(|new| new.connect("/dev/log").map(|()| new)).ok();
        }
        match socket.as_ref().map(|open| open.send(message.as_bytes())) {
            Some(Err(_)) => *socket = None,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody takes what waits: what is beyond the bounds is counted, and nobody who hands over is held up.
    #[test]
    fn a_log_that_nobody_reads_takes_so_much_and_no_more() {
        let shared = Arc::new(Shared::default());
        let (parcels, queue) = sync_channel(WAITING);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let log = LogQueue { parcels, waiting_bytes: Arc::clone(&waiting_bytes), shared: Arc::clone(&shared) };
        let mut large = Parcel::default();
        (0..1_000).for_each(|_| large.say(&"x".repeat(1_000)));
        let fit = WAITING_BYTES / large.len() + 1;
        for _ in 0..fit + 3 {
            shared.metrics().enter(super::super::metrics::Queue::Output);
            log.send(large.clone());
        }
        assert_eq!(shared.take_lost(), 3 * 1_000);
        assert_eq!(queue.try_iter().count(), fit);
        assert_eq!(waiting_bytes.load(Ordering::Relaxed), fit * large.len());
    }
}
