//! What is known of a unit, and how one is turned off.

use crate::host::{EMBEDDED_UNIT, ServiceManager, UnitState};
use crate::plan::{Step, UnitAction};

use super::Context;

/// What is known of `unit`.
pub fn state_of(context: &Context, unit: &str) -> UnitState {
    context.facts.units.get(unit).cloned().unwrap_or_default()
}

/// Plans that `unit` is neither started at boot nor running.
pub fn turn_off(context: &Context, unit: &str, why_disable: &str, why_stop: &str, step: &mut Step) {
    let state = state_of(context, unit);
    let linked = context.host.link(&context.host.wants_link(unit).path).is_some();
    if matches!(state.enabled.as_str(), "enabled" | "generated") || linked {
        step.unit(unit, UnitAction::Disable, why_disable);
    }
    // Without systemd nobody says what is active; there a sysv script, or somebody by hand, started what is running.
    let runs = match unit {
        "portsentry.service" => context.facts.portsentries().next().is_some(),
        EMBEDDED_UNIT => context.facts.embedded().next().is_some(),
        _ => false,
    };
    let without_systemd = context.facts.manager == ServiceManager::Sysv && runs;
    if matches!(state.active.as_str(), "active" | "activating") || without_systemd {
        step.unit(unit, UnitAction::Stop, why_stop);
    }
}
