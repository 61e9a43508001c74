//! The files, step by step: as described, or not.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::article::{Context, Described, needs_iptables};
use crate::host::Generation;
use crate::plan::{Change, Step};

use super::{APPLY, Check};

pub fn checks(described: &Described) -> Vec<Check> {
    let mut checks = vec![package(described)];
    checks.extend(described.plan.steps.iter().filter_map(|step| of_step(step, described.context.generation)));
    checks.extend(blind(described));
    checks
}

fn package(described: &Described) -> Check {
    let context = &described.context;
    if context.generation == Some(Generation::Embedded) {
        return embedded_needs(context);
    }
    match context.facts.packages.get("portsentry") {
        None => {
            Check::fail("package", "portsentry is not installed", "dpkg knows no installed package portsentry", APPLY)
        }
        Some(package) if !package.complete() => Check::fail(
            "package",
            format!("portsentry {} is only half installed", package.version),
            format!("dpkg's status is `{}`", package.status.trim_end()),
            APPLY,
        ),
        Some(package) => Check::ok("package", format!("portsentry {} is installed", package.version)),
    }
}

/// The built-in portsentry comes with this program; what it works with are packages.
fn embedded_needs(context: &Context) -> Check {
    let with_iptables = needs_iptables(context.settings, context.facts);
    let needed = if with_iptables { &["nftables", "iptables"][..] } else { &["nftables"] };
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !context.facts.packages.has(name)).collect();
    if missing.is_empty() {
        let verb = if with_iptables { "are" } else { "is" };
        let needed = needed.join(" and ");
        Check::ok("package", format!("{needed} {verb} installed, with which the embedded portsentry works"))
    } else {
        Check::fail(
            "package",
            "the embedded portsentry cannot work",
            format!("not installed: {}", missing.join(", ")),
            APPLY,
        )
    }
}

/// The first few of them.
fn in_words(addresses: &BTreeSet<IpAddr>) -> String {
    const FEW: usize = 3;
    let words: Vec<String> = addresses.iter().take(FEW).map(IpAddr::to_string).collect();
    let more = addresses.len().saturating_sub(FEW);
    words.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

fn of_step(step: &Step, generation: Option<Generation>) -> Option<Check> {
    let (id, subject) = match step.id {
        "variables" => ("program", "this program is in its place"),
        "listening" => ("configured-listening", "configured to watch every unused port below 1024, TCP and UDP"),
        "blocking" => ("configured-blocking", "configured to block"),
        "safe-addresses" => {
            ("configured-safe-addresses", "the safe addresses stand in the ignore list and hosts.allow")
        }
        "fail2ban" => ("configured-fail2ban", "fail2ban's jail is configured"),
        "service" => ("configured-service", "the unit of the portsentry that watches is as described"),
        _ => return None,
    };
    let embedded = generation == Some(Generation::Embedded);
    let pending: Vec<String> = step
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::File(file) => Some(file.path.display().to_string()),
            Change::Later(later) => Some(later.path.display().to_string()),
            Change::Program(program) => Some(program.to.display().to_string()),
            Change::Blocks(addresses) => Some(format!("blocks of {}", in_words(addresses))),
            // A check of its own tells them.
            Change::Lists(_) | Change::Packages(_) | Change::Unit(_) => None,
        })
        .collect();
    Some(if pending.is_empty() {
        // Debian's portsentry brings its own unit.
        if id == "configured-service" && !embedded {
            return None;
        }
        Check::ok(
            id,
            match id {
                "configured-safe-addresses" => format!("never blocked: {}", step.summary),
                "configured-fail2ban" => format!("fail2ban {}", step.summary),
                _ => subject.to_owned(),
            },
        )
    } else {
        let mut places = pending;
        places.dedup();
        Check::fail(
            id,
            format!("not as described: {subject}"),
            format!("would change: {}", places.join(", ")),
            format!("harden-portsentry diff shows it; {APPLY}"),
        )
    })
}

/// portsentry 1.2 sees only what the firewall lets in (trap 11).
fn blind(described: &Described) -> Option<Check> {
    let context = &described.context;
    let blind =
        context.facts.firewall.input_drops && context.generation.is_some_and(|generation| !generation.sees_ipv6());
    blind.then(|| {
        Check::fail(
            "sees-scans",
            "portsentry 1.2 is blind behind this firewall",
            "INPUT's policy is drop, and 1.2 sees only packets that pass it",
            "let the firewall accept what portsentry should see, or use one that looks before the firewall: --engine embedded, or portsentry 2.0 (Debian 14)",
        )
    })
}
