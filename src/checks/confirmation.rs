//! Whether what was applied stays.

use crate::host::local;
use crate::plan::{Confirmation, Runs};

use super::Check;

/// What there is to say of a run that somebody has to confirm; nothing where none waits for that.
pub fn confirmed(runs: &Runs) -> Option<Check> {
    let id = "confirmed";
    let run = runs.unconfirmed()?;
    let number = run.number;
    Some(match run.confirmation() {
        Confirmation::Awaited { until, .. } => Check::skip(
            id,
            format!(
                "whether this stays: run {number} is taken back at {}, unless somebody types `harden-portsentry confirm`",
                local(until)
            ),
        ),
        _ => Check::fail(
            id,
            format!("nobody confirmed run {number} in time"),
            "it is not taken back yet, or not all of it could be",
            "`systemctl status harden-portsentry-confirm` says what it waits for; `harden-portsentry undo` does it by hand",
        ),
    })
}
