//! Blocks that were made before ours: by a rule of iptables, a line of hosts.deny, a ban whose action was another one. They
//! come into the ledger, so that one list says who is blocked, and end as every block does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;

use crate::blocks::{self, package};
use crate::plan::{Change, Step};

use super::{Context, built_in, fail2ban, is_safe, safe_networks};

/// Whom an earlier portsentry, or its jail, blocked, and our own sets do not. Only those of whom a portsentry's own files say
/// so: another rule, and another line, is somebody else's and stays.
///
/// # Errors
/// A file of theirs cannot be read, or fail2ban does not answer.
pub fn older_blocks(context: &Context) -> Result<BTreeSet<IpAddr>> {
    if built_in(context).is_none() || !context.host.is_live() {
        return Ok(BTreeSet::new());
    }
    // A jail of an earlier apply, whose bans go with its action.
    let banned = if fail2ban::bans_by_itself(context) { context.host.banned()? } else { Vec::new() };
    let mut found = package::blocked_by_rules(context.host, &banned)?;
    found.extend(banned);
    Ok(found)
}

/// Plans that they are moved, and that lists which disagree with the ledger about anybody else follow it.
pub fn plan(context: &Context, older: BTreeSet<IpAddr>, step: &mut Step) {
    if built_in(context).is_some() && context.host.is_live() {
        // What cannot be read verify names.
        let mut differences = blocks::look()
            .and_then(|listed| blocks::differences(context.host, context.package(), &listed))
            .unwrap_or_default();
        differences.retain(|address, _| !older.contains(address));
        if !differences.is_empty() {
            step.changes.push(Change::Lists(differences));
        }
    }
    let safe = safe_networks(context);
    for address in older.iter().filter(|address| is_safe(&safe, **address)) {
        step.info(format!("{address} is never blocked: what shuts it out goes, and it is free"));
    }
    if !older.is_empty() {
        step.changes.push(Change::Blocks(older));
    }
}
