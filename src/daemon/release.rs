//! Whoever is free is so for everybody: Debian's portsentry does not block again whom it remembers (traps 7 and 18), and
//! fail2ban does not ban again whom it holds for banned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::blocks;
use crate::blocks::package::{self, Memory};
use crate::host::{Generation, Host, Invocation, Process};

/// portsentry 2.0 forgets only as it is restarted, and sees nothing meanwhile: no more often than that.
const RESTARTS: Duration = Duration::from_secs(60);
/// The rule of CHAOS waits for whoever else changes the rules just now.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be said, and when it is to be looked again, if that is sooner than it would be.
#[derive(Debug, Default)]
pub struct Released {
    pub told: Vec<String>,
    pub again_in: Option<Duration>,
}

/// Has portsentry and fail2ban forget whom they hold for blocked though nobody of `live` is that one; puts the rule of CHAOS
/// where it is missing, by the command `rule`.
pub fn release(live: &BTreeSet<IpAddr>, rule: Option<&str>) -> Released {
    let mut released = Released::default();
    if let Some(rule) = rule {
        let done = Invocation::new("sh", &["-c", rule]).within(PATIENCE).demand();
        released.told.extend(done.err().map(|error| format!("adminalert: ERROR: CHAOS answers nobody: {error:#}")));
    }
    let done = Host::new(Path::new("/")).and_then(|host| {
        unban(&host, &mut released)?;
        forget(&host, live, &mut released)
    });
    if let Err(error) = done {
        released.told.push(format!("adminalert: ERROR: {error:#}"));
        released.again_in = Some(RESTARTS);
    }
    released
}

fn unban(host: &Host, released: &mut Released) -> Result<()> {
    let bans = match host.unban_others(blocks::blocked)? {
        0 => return Ok(()),
        1 => "a ban, for its block is".to_owned(),
        count => format!("{count} bans, for their blocks are"),
    };
    released.told.push(format!("adminalert: fail2ban's portsentry jail has lifted {bans} over"));
    Ok(())
}

fn forget(host: &Host, live: &BTreeSet<IpAddr>, released: &mut Released) -> Result<()> {
    let Some(generation) = package::installed(host)? else { return Ok(()) };
    if generation == Generation::OneProcess && package::remembered(host, generation)?.is_subset(live) {
        return Ok(());
    }
    let age = Process::named(&["portsentry"]).iter().map(Process::age).fold(f64::MAX, f64::min);
    if generation == Generation::OneProcess && age < RESTARTS.as_secs_f64() {
        released.again_in = Some(RESTARTS);
        return Ok(());
    }
    match package::forget(host, generation, |address| live.contains(&address))? {
        Memory::Clear | Memory::Edited => {}
        Memory::Restarted => released.told.push(
            "adminalert: portsentry was restarted: it does not block again whom it remembers, and some of them are free".to_owned(),
        ),
    }
    Ok(())
}
