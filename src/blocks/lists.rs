//! Who is blocked stands in more than one list: the ledger, the kernel's sets, the file that hosts.deny names, what Debian's
//! portsentry remembers, fail2ban's bans, rules of iptables. The ledger is right; this tells who stands in another one otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::clock::Now;
use super::control::Listed;
use super::denied::{DENIED, blocked, denied_now};
use super::package::{self, HOSTS_DENY};
use super::state::State;
use super::table;
use super::{DIRECTORY, ledger};
use crate::host::{Generation, Host, Process, ServiceManager};

/// Others follow within this time after a block has ended.
const A_WHILE: Duration = Duration::from_secs(150);

/// And TCP wrappers know within this time of a new one.
const PUBLISHED: Duration = Duration::from_secs(10);

/// How long fail2ban's action takes at most, where nothing is wrong.
const AN_ACTION: Duration = Duration::from_secs(2);

/// fail2ban brings back bans as it starts, some of them late, and the keeper lifts in a minute whose blocks are over.
const SETTLED: Duration = Duration::from_secs(75);

/// How a list differs from the ledger about somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Blocked, and not in the kernel's sets.
    NotInKernel,
    /// In the kernel's sets, and the ledger does not know.
    InKernelAlone,
    /// Blocked, and TCP wrappers let him in.
    NotDenied,
    /// Free, and TCP wrappers shut him out.
    Denied,
    /// Free, and portsentry remembers him: it does not block him again.
    Remembered,
    /// Free, and fail2ban's jail holds him for banned: it does not ban him again.
    Banned,
    /// In no list of ours, and shut out by a rule of iptables or a line of hosts.deny, for ever.
    ByRule,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Difference::NotInKernel => "blocked, and not in the kernel's sets",
            Difference::InKernelAlone => "in the kernel's sets, and the ledger does not know of it",
            Difference::NotDenied => "blocked, and TCP wrappers let it in",
            Difference::Denied => "free, and TCP wrappers shut it out",
            Difference::Remembered => "free, and portsentry, which remembers it, does not block it again",
            Difference::Banned => "free, and fail2ban's portsentry jail holds it for banned",
            Difference::ByRule => "shut out by a rule of iptables or a line of hosts.deny, without a term",
        })
    }
}

/// Who stands otherwise in another list than in the ledger, `listed`; `generation` is Debian's portsentry, if that watches.
///
/// # Errors
/// A list cannot be read.
pub fn differences(
    host: &Host,
    generation: Option<Generation>,
    listed: &[Listed],
) -> Result<BTreeMap<IpAddr, BTreeSet<Difference>>> {
    let mut found: BTreeMap<IpAddr, BTreeSet<Difference>> = BTreeMap::new();
    let live: BTreeSet<IpAddr> = listed.iter().map(|one| one.address).collect();
    let over = just_over()?;
    let is_free = |address: &IpAddr| !live.contains(address) && !over.contains(address);
    let mut add = |address: IpAddr, difference| {
        found.entry(address).or_default().insert(difference);
    };
    for one in listed.iter().filter(|one| !one.in_kernel) {
        add(one.address, Difference::NotInKernel);
    }
    let in_kernel = table::blocked_by_any()?;
    in_kernel.keys().filter(|address| is_free(address)).for_each(|&address| add(address, Difference::InKernelAlone));
    if host.text(HOSTS_DENY).is_some_and(|text| text.contains(DENIED)) {
        let denied = denied_now();
        let settled = Timestamp::now() - PUBLISHED;
        let lets_in = listed.iter().filter(|one| one.since < settled && !denied.contains(&one.address));
        lets_in.for_each(|one| add(one.address, Difference::NotDenied));
        denied.iter().filter(|address| is_free(address)).for_each(|&address| add(address, Difference::Denied));
    }
    let banned = host.banned()?;
    if host.bans_are_wishes() && has_settled() {
        let mut others = banned.clone();
        others.retain(is_free);
        if !others.is_empty() {
            // A ban is counted before its action has blocked anybody.
            std::thread::sleep(AN_ACTION);
            let (banned, blocked) = (host.banned()?, blocked()?);
            others.retain(|address| banned.contains(address) && !blocked.contains(address));
        }
        others.into_iter().for_each(|address| add(address, Difference::Banned));
    }
    // Without systemd there is no keeper that has it forget.
    if let Some(generation) = generation.filter(|_| host.service_manager() == ServiceManager::Systemd) {
        let remembered = package::remembered(host, generation)?;
        remembered.into_iter().filter(|one| is_free(one)).for_each(|address| add(address, Difference::Remembered));
    }
    for address in package::blocked_by_rules(host, &banned)?.into_iter().filter(|address| !live.contains(address)) {
        add(address, Difference::ByRule);
    }
    Ok(found)
}

/// Whether fail2ban has run for so long that bans which it brought back, and whose blocks were over, are lifted by now.
fn has_settled() -> bool {
    Process::named(&["fail2ban-server"]).iter().all(|process| process.age() > SETTLED.as_secs_f64())
}

/// Whose block ended a while ago at most.
fn just_over() -> Result<BTreeSet<IpAddr>> {
    let records = ledger::load(&Path::new(DIRECTORY).join("ledger"))?.records;
    let now = Now::read();
    let state = State::of(&records, now);
    let since = now.boot - i64::try_from(A_WHILE.as_millis()).unwrap_or(0);
    let is_over = |address: &IpAddr| {
        state.get(*address).and_then(|entry| entry.until).is_some_and(|until| until <= now.boot && until > since)
    };
    Ok(records.iter().map(|record| record.address).filter(is_over).collect())
}
