//! Step 6: the daemon enabled and running with what its files say now.

use anyhow::Result;

use crate::host::{Facts, Generation, Process, ServiceManager};
use crate::plan::{Draft, Step, UnitAction};

use super::{CONF, Context, fail2ban, sections};

/// What portsentry reads at its start.
const READS: [&str; 5] = [
    CONF,
    "/etc/default/portsentry",
    "/etc/portsentry/portsentry.ignore.static",
    "/etc/portsentry/portsentry.ignore",
    "/etc/systemd/system/portsentry.service.d/harden-portsentry.conf",
];

pub fn step(context: &Context, draft: &Draft) -> Result<Step> {
    let mut step = Step::new("service", "Service", sections::SERVICE);
    let Some(generation) = context.generation else {
        step.summary = "portsentry enabled and running".to_owned();
        return Ok(step);
    };
    let units = generation.units();
    step.summary = format!("{} enabled and running", names(units));
    match &context.facts.manager {
        ServiceManager::Forbidden(why) => {
            step.warn(format!("nothing is started: {why}. What is written here takes effect at the next start"));
        }
        ServiceManager::Sysv if generation == Generation::OneProcess => step.warn(
            "nothing is started: process 1 is not systemd, and portsentry 2.0 has no sysv script; `portsentry -D` starts it by hand",
        ),
        ServiceManager::Sysv | ServiceManager::Systemd => {}
    }
    others(context, generation, &mut step);
    for unit in units {
        let state = context.facts.units.get(*unit).cloned().unwrap_or_default();
        if matches!(state.enabled.as_str(), "enabled" | "generated" | "static") {
            continue;
        }
        // A sysv script that the package brings is enabled by its postinst.
        if generation != Generation::SysvModes && enabling_is_up_to_us(context, generation) {
            step.unit(unit, UnitAction::Enable, "started at boot");
        }
    }
    restarts(context, draft, generation, &mut step);
    Ok(step)
}

/// 2.0's postinst enables its unit itself; there only somebody who disabled it is to be undone.
fn enabling_is_up_to_us(context: &Context, generation: Generation) -> bool {
    generation == Generation::UnitModes || context.facts.packages.get("portsentry").is_some()
}

/// Units and processes of the modes or the generation that are not wanted (traps 8, 12, 24).
fn others(context: &Context, generation: Generation, step: &mut Step) {
    if generation == Generation::SysvModes {
        return;
    }
    let wanted = generation.units();
    for unit in
        ["portsentry@tcp.service", "portsentry@udp.service", "portsentry@atcp.service", "portsentry@audp.service"]
    {
        if wanted.contains(&unit) {
            continue;
        }
        let state = context.facts.units.get(unit).cloned().unwrap_or_default();
        let linked = context.host.link(&context.host.wants_link(unit).path).is_some();
        if state.enabled == "enabled" || linked {
            step.unit(unit, UnitAction::Disable, "not a unit of the advanced modes of this portsentry");
        }
        if matches!(state.active.as_str(), "active" | "activating") {
            step.unit(unit, UnitAction::Stop, "it would watch beside the advanced modes");
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

fn restarts(context: &Context, draft: &Draft, generation: Generation, step: &mut Step) {
    let manager = &context.facts.manager;
    let startable = match manager {
        ServiceManager::Systemd => true,
        ServiceManager::Sysv => generation != Generation::OneProcess,
        ServiceManager::Forbidden(_) => false,
    };
    if !startable {
        return;
    }
    let changed = draft.changes(&READS) || !context.offer.missing.is_empty() || !context.offer.reinstall.is_empty();
    let why = if changed {
        Some("its configuration changes")
    } else if !runs_as_wanted(context.facts, generation) {
        Some("it does not run as configured")
    } else if context.is_stale(context.facts.portsentries(), &READS) {
        Some("its configuration changed after it was started")
    } else {
        None
    };
    if let Some(why) = why {
        let units: &[&str] =
            if *manager == ServiceManager::Sysv { &["portsentry.service"] } else { generation.units() };
        for unit in units {
            step.unit(unit, UnitAction::Restart, why);
        }
    }
    if let Some(why) = fail2ban::restart_reason(context, draft) {
        step.unit("fail2ban.service", UnitAction::Restart, why);
    }
}

/// Whether the wanted processes, and no others, are there; what systemd calls active may be dead (trap 19).
pub fn runs_as_wanted(facts: &Facts, generation: Generation) -> bool {
    let words: Vec<Option<&str>> =
        facts.portsentries().map(|process| process.words.get(1).map(String::as_str)).collect();
    match generation {
        Generation::OneProcess => {
            let active = facts
                .units
                .get("portsentry.service")
                .is_none_or(|unit| unit.active != "activating" && unit.active != "failed");
            active && words.len() == 1 && !facts.portsentries().any(is_of_1_2)
        }
        Generation::SysvModes | Generation::UnitModes => {
            let count = |mode: &str| words.iter().filter(|word| **word == Some(mode)).count();
            words.len() == 2 && count("-atcp") == 1 && count("-audp") == 1
        }
    }
}

fn names(units: &[&str]) -> String {
    units.iter().map(|unit| unit.trim_end_matches(".service")).collect::<Vec<_>>().join(", ")
}
