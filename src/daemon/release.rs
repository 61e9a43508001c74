//! Whoever is free is so for everybody: Debian's portsentry does not block again whom it remembers (traps 7 and 18), and
//! fail2ban does not ban again whom it holds for banned.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::blocks;
use crate::blocks::package::{self, Memory};
use crate::host::{Generation, Host, Process};

/// portsentry 2.0 forgets only as it is restarted, and sees nothing meanwhile: no more often than that.
const RESTARTS: Duration = Duration::from_secs(60);
/// The ledger is written by then.
const A_MOMENT: Duration = Duration::from_secs(1);

/// What is to be said, and when it is to be looked again, if that is sooner than it would be.
#[derive(Debug, Default)]
pub struct Released {
    pub told: Vec<String>,
    pub again_in: Option<Duration>,
}

/// Has portsentry and fail2ban forget whom they hold for blocked though nobody is.
pub fn release() -> Released {
    let mut released = Released::default();
    let host = match Host::new(Path::new("/")) {
        Ok(host) => host,
        Err(error) => return released.but(&error),
    };
    // Each whatever became of the other.
    let unbanned = unban(&host, &mut released);
    let forgotten = forget(&host, &mut released);
    [unbanned, forgotten].into_iter().filter_map(Result::err).fold(released, |released, error| released.but(&error))
}

impl Released {
    fn but(mut self, error: &anyhow::Error) -> Released {
        self.told.push(format!("adminalert: ERROR: {error:#}"));
        self.again_in = Some(RESTARTS);
        self
    }
}

fn unban(host: &Host, released: &mut Released) -> Result<()> {
    released.told.extend(unban_others(host)?.map(|line| format!("adminalert: {line}")));
    Ok(())
}

/// Has fail2ban's jail forget whose block is over; what is to be said of it.
///
/// # Errors
/// fail2ban does not answer, or the ledger cannot be read.
pub fn unban_others(host: &Host) -> Result<Option<String>> {
    let bans = match host.unban_others(blocks::blocked)? {
        0 => return Ok(None),
        1 => "a ban, for its block is".to_owned(),
        count => format!("{count} bans, for their blocks are"),
    };
    Ok(Some(format!("fail2ban's portsentry jail has lifted {bans} over")))
}

fn forget(host: &Host, released: &mut Released) -> Result<()> {
    let Some(generation) = package::installed(host)? else { return Ok(()) };
    // Whoever is remembered was blocked before, and the ledger is written a moment later.
    let mut remembered = package::remembered(host, generation)?;
    for look in 0..2 {
        std::thread::sleep(A_MOMENT * look);
        let blocked = blocks::blocked()?;
        remembered.retain(|address| !blocked.contains(address));
        if remembered.is_empty() {
            return Ok(());
        }
    }
    let age = Process::named(&["portsentry"]).iter().map(Process::age).fold(f64::MAX, f64::min);
    if generation == Generation::OneProcess && age < RESTARTS.as_secs_f64() {
        released.again_in = Some(RESTARTS);
        return Ok(());
    }
    if package::forget(host, generation, |address| !remembered.contains(&address))? == Memory::Restarted {
        released.told.push(
            "adminalert: portsentry was restarted: it does not block again whom it remembers, and some of them are free"
                .to_owned(),
        );
    }
    Ok(())
}
