//! What only the running system can answer: each check in words, with what was seen and what to do.

mod configuration;
mod confirmation;
mod daemon;
mod jail;
mod rules;
mod wrappers;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::article::{Context, Described};
use crate::host::ServiceManager;

pub use confirmation::confirmed;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Fail,
    /// It could not be asked here; never counted as passed.
    Skip,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Short and stable: `daemon-runs`.
    pub id: &'static str,
    /// What holds, what does not, or what could not be asked, as a sentence.
    pub says: String,
    pub outcome: Outcome,
    /// What was seen, where that is more than the sentence says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(id: &'static str, says: impl Into<String>) -> Check {
        Check { id, says: says.into(), outcome: Outcome::Ok, seen: None, remedy: None }
    }

    fn fail(id: &'static str, says: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { id, says: says.into(), outcome: Outcome::Fail, seen: Some(seen.into()), remedy: Some(remedy.into()) }
    }

    fn skip(id: &'static str, says: impl Into<String>) -> Check {
        Check { id, says: says.into(), outcome: Outcome::Skip, seen: None, remedy: None }
    }
}

/// Runs every check on the host that `described` is about. Changes nothing that stays.
///
/// # Errors
/// A file that a check needs cannot be read.
pub fn run(described: &Described) -> Result<Vec<Check>> {
    let mut checks = configuration::checks(described);
    checks.extend(daemon::checks(&described.context)?);
    checks.extend(wrappers::checks(&described.context)?);
    checks.extend(rules::checks(&described.context)?);
    checks.extend(jail::checks(&described.context)?);
    let apply = described.context.host.command_line("apply");
    for remedy in checks.iter_mut().filter_map(|check| check.remedy.as_mut()) {
        *remedy = remedy.replace(APPLY, &apply);
    }
    Ok(checks)
}

/// Waits until what was just started is up, or `limit` is over: fail2ban and systemd answer a restart before the
/// server does. What is not up by then, the checks say.
pub fn settle(context: &Context, limit: Duration) {
    if !context.host.is_live() || matches!(context.facts.manager, ServiceManager::Forbidden(_)) {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < limit && !(daemon::is_up(context) && jail::is_up(context)) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How many of each kind: held, failed, not checked.
pub fn count(checks: &[Check]) -> (usize, usize, usize) {
    let of = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    (of(Outcome::Ok), of(Outcome::Fail), of(Outcome::Skip))
}

/// What to type to have it mended.
const APPLY: &str = "harden-portsentry apply";
