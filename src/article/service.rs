//! Step 6: the daemon enabled and running with what its files say now.

use anyhow::Result;

use crate::host::{EMBEDDED_UNIT, Facts, Generation, Process, RESPONDER_SOCKETS, ServiceManager, hears_nothing};
use crate::plan::{Draft, Step, UnitAction};

use super::units::{state_of, turn_off};
use super::{Context, embedded, fail2ban, keeping, sections, variables};

/// What Debian's portsentry reads at its start.
const PACKAGE_READS: [&str; 5] = [
    "/etc/portsentry/portsentry.conf",
    "/etc/default/portsentry",
    "/etc/portsentry/portsentry.ignore.static",
    "/etc/portsentry/portsentry.ignore",
    "/etc/systemd/system/portsentry.service.d/harden-portsentry.conf",
];

/// One process a mode, of 1.2.
const MODES: [&str; 4] =
    ["portsentry@tcp.service", "portsentry@udp.service", "portsentry@atcp.service", "portsentry@audp.service"];

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("service", "Service", sections::SERVICE);
    if context.generation == Some(Generation::Embedded) {
        embedded::put_unit(context, draft, &mut step)?;
        embedded::warn_of_unreadable(context, &mut step);
    } else {
        embedded::remove(draft, &mut step)?;
    }
    let Some(generation) = context.generation else {
        step.summary = "portsentry enabled and running".to_owned();
        return Ok(step);
    };
    keeping::put(context, draft, &mut step)?;
    keeping::give_up(context, &mut step);
    let units = generation.units();
    step.summary = format!("{} enabled and running", names(units));
    if let ServiceManager::Forbidden(why) = &context.facts.manager {
        step.warn(format!("nothing is started: {why}. What is written here takes effect at the next start"));
    }
    if let Some((name, command)) = by_hand(context, generation) {
        step.warn(format!(
            "{name} is not started: process 1 is not systemd, and it has no sysv script; `{command}` starts it by hand"
        ));
    }
    others(context, generation, &mut step);
    for unit in units {
        let state = context.facts.units.get(*unit).cloned().unwrap_or_default();
        if matches!(state.enabled.as_str(), "enabled" | "generated" | "static") {
            continue;
        }
        if enabling_is_up_to_us(context, generation) {
            step.unit(unit, UnitAction::Enable, "started at boot");
        }
    }
    // Before whoever hands blocks over.
    keeping::turn_on(context, draft, &mut step)?;
    restarts(context, draft, generation, &mut step)?;
    Ok(step)
}

/// What starts this generation where process 1 is not systemd and it has no sysv script: its name, and a command.
pub fn by_hand(context: &Context, generation: Generation) -> Option<(&'static str, String)> {
    match generation {
        _ if context.facts.manager != ServiceManager::Sysv => None,
        Generation::SysvModes | Generation::UnitModes => None,
        Generation::OneProcess => Some(("portsentry 2.0", "portsentry -D".to_owned())),
        Generation::Embedded => Some((
            "the embedded portsentry",
            format!("{} daemon -c {}", variables::place(context), Generation::Embedded.conf()),
        )),
    }
}

/// The postinst of 2.0 and of 1.2's sysv script enables them itself; there only somebody who disabled it, or an engine
/// that watched instead, is to be undone.
fn enabling_is_up_to_us(context: &Context, generation: Generation) -> bool {
    match generation {
        Generation::UnitModes | Generation::Embedded => true,
        // A script without any link is not ours to link: `daemon-enabled` says what to do.
        Generation::SysvModes => state_of(context, "portsentry.service").enabled == "disabled",
        Generation::OneProcess => context.facts.packages.get("portsentry").is_some(),
    }
}

/// Units and processes of the modes, the generation or the engine that are not wanted (traps 8, 12, 24).
fn others(context: &Context, generation: Generation, step: &mut Step) {
    let mode = "not a unit of the advanced modes of this portsentry";
    match generation {
        Generation::SysvModes => {}
        Generation::UnitModes | Generation::OneProcess => {
            for unit in MODES.iter().filter(|unit| !generation.units().contains(unit)) {
                turn_off(context, unit, mode, "it would watch beside the advanced modes", step);
            }
        }
        Generation::Embedded => {
            let why = "the portsentry built into this program watches instead";
            for unit in MODES.iter().chain(&["portsentry.service"]) {
                turn_off(context, unit, why, why, step);
            }
        }
    }
    if generation != Generation::Embedded {
        let why = "Debian's portsentry watches instead";
        for unit in [EMBEDDED_UNIT].into_iter().chain(RESPONDER_SOCKETS) {
            turn_off(context, unit, why, why, step);
        }
    }
    if generation == Generation::OneProcess && context.facts.portsentries().any(is_of_1_2) {
        step.info(
            "this host was upgraded from portsentry 1.2, whose processes still run; it is brought to 2.0's own terms",
        );
    }
}

fn is_of_1_2(process: &Process) -> bool {
    process
        .words
        .get(1)
        .is_some_and(|word| matches!(word.as_str(), "-atcp" | "-audp" | "-tcp" | "-udp" | "-stcp" | "-sudp"))
}

fn restarts(context: &Context, draft: &Draft, generation: Generation, step: &mut Step) -> Result<()> {
    let manager = &context.facts.manager;
    if matches!(manager, ServiceManager::Forbidden(_)) {
        return Ok(());
    }
    let embedded = generation == Generation::Embedded;
    let reads = if embedded { embedded::reads(context) } else { PACKAGE_READS.to_vec() };
    let offer = &context.offer;
    let changed = draft.changes(&reads) || !offer.missing.is_empty() || !offer.reinstall.is_empty();
    let why = if changed {
        Some("its configuration changes")
    } else if embedded && variables::program(context)?.is_some() {
        Some("the program changes")
    } else if !runs_as_wanted(context.facts, generation) {
        Some("it does not run as configured")
    } else if context.facts.embedded().any(|process| matches!(hears_nothing(process.pid), Ok(Some(_)))) {
        Some("no packet reaches it")
    } else if context.is_stale(context.facts.daemons(generation), &reads) {
        Some("what it reads changed after it was started")
    } else {
        None
    };
    if let Some(why) = why.filter(|_| by_hand(context, generation).is_none()) {
        let units: &[&str] =
            if *manager == ServiceManager::Sysv { &["portsentry.service"] } else { generation.units() };
        for unit in units {
            step.unit(unit, UnitAction::Restart, why);
        }
    }
    let startable = *manager == ServiceManager::Systemd
        || context.host.exists("/etc/init.d/fail2ban")
        || offer.missing.iter().any(|name| name == "fail2ban");
    if let Some(why) = fail2ban::restart_reason(context, draft).filter(|_| startable) {
        step.unit("fail2ban.service", UnitAction::Restart, why);
    }
    Ok(())
}

/// Whether the wanted processes, and no others, are there; what systemd calls active may be dead (trap 19).
pub fn runs_as_wanted(facts: &Facts, generation: Generation) -> bool {
    let words: Vec<Option<&str>> =
        facts.daemons(generation).map(|process| process.words.get(1).map(String::as_str)).collect();
    let steady = || {
        let state = facts.units.get(generation.units()[0]);
        state.is_none_or(|unit| unit.active != "activating" && unit.active != "failed")
    };
    match generation {
        Generation::Embedded => steady() && words.len() == 1 && facts.portsentries().next().is_none(),
        _ if facts.embedded().next().is_some() => false,
        Generation::OneProcess => steady() && words.len() == 1 && !facts.portsentries().any(is_of_1_2),
        Generation::SysvModes | Generation::UnitModes => {
            let count = |mode: &str| words.iter().filter(|word| **word == Some(mode)).count();
            words.len() == 2 && count("-atcp") == 1 && count("-audp") == 1
        }
    }
}

fn names(units: &[&str]) -> String {
    units.iter().map(|unit| unit.trim_end_matches(".service")).collect::<Vec<_>>().join(", ")
}
