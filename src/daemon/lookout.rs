//! Looks who must not be blocked, in a thread of its own: a routing table can be long, and a disk slow. It looks when it is
//! told to, and when an address or a default route of this host changes.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::signals::drain;
use super::threads::locked;
use crate::blocks::{Guard, IgnoreList};
use crate::kernel::NetworkChanges;
use crate::settings::{POLICY, Policy};

/// It looks no more often.
const LOOK: Duration = Duration::from_secs(1);

/// Whom the ignore file names, and the file.
#[derive(Debug, Clone, Default)]
pub struct Named {
    pub ignored: IgnoreList,
    pub ignore_file: PathBuf,
}

impl Named {
    /// Who must not be blocked, as of now.
    ///
    /// # Errors
    /// policy.toml cannot be read, or the kernel does not tell.
    pub fn guard(&self) -> Result<Guard> {
        let policy = Policy::read(Path::new(POLICY))?;
        Guard::read(&policy, self.ignored.clone(), &self.ignore_file)
    }
}

/// The thread. It ends when this is dropped.
pub struct Lookout {
    named: Arc<Mutex<Named>>,
    asks: UnixStream,
    found: Receiver<Result<Guard>>,
}

impl Lookout {
    /// Starts it, and has it look at once. It rings `bell` when it has found somebody new, or cannot look.
    ///
    /// # Errors
    /// It cannot hear of changes.
    pub fn start(named: Named, bell: UnixStream) -> Result<Lookout> {
        let (asks, asked) = UnixStream::pair().context("cannot make a pipe")?;
        for end in [&asks, &asked] {
            end.set_nonblocking(true).context("cannot make a pipe")?;
        }
        let changes = NetworkChanges::watch()?;
        let named = Arc::new(Mutex::new(named));
        let (sender, found) = sync_channel(1);
        let lookout = Lookout { named: Arc::clone(&named), asks, found };
        lookout.ask();
        std::thread::spawn(move || look(&named, &asked, changes, &sender, &bell));
        Ok(lookout)
    }

    /// Whom the ignore file names, which the control socket's thread needs as well.
    pub fn named(&self) -> Arc<Mutex<Named>> {
        Arc::clone(&self.named)
    }

    /// Has it look.
    pub fn ask(&self) {
        // Full of what was asked before, it is as good.
        let _ = (&self.asks).write(b".");
    }

    /// What it found since it was asked last, if that is new.
    pub fn found(&self) -> Option<Result<Guard>> {
        self.found.try_recv().ok()
    }
}

fn look(
    named: &Mutex<Named>,
    asked: &UnixStream,
    mut changes: NetworkChanges,
    found: &SyncSender<Result<Guard>>,
    mut bell: &UnixStream,
) {
    let mut last: Option<Result<Guard, String>> = None;
    loop {
        let wait = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut waiting = [wait(asked.as_fd()), wait(changes.as_fd())];
        if poll(&mut waiting, None).is_err() {
            continue;
        }
        if waiting[0].revents().contains(PollFlags::HUP) {
            return;
        }
        let is_asked = !waiting[0].revents().is_empty();
        drain(asked);
        if !changes.happened() && !is_asked {
            continue;
        }
        let began = Instant::now();
        let guard = locked(named).clone().guard();
        let this = guard.as_ref().map(Guard::clone).map_err(|error| format!("{error:#}"));
        if last.as_ref() != Some(&this) {
            last = Some(this);
            if found.send(guard).is_err() {
                return;
            }
            let _ = bell.write(b".");
        }
        std::thread::sleep(LOOK.saturating_sub(began.elapsed()));
    }
}
