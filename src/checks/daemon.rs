//! The daemon: its process, alive, staying alive, and able to do what it says.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use crate::article::{Context, by_hand, keeping_units, runs_as_wanted};
use crate::host::{
    BLOCKS_UNIT, EMBEDDED_UNIT, Facts, Generation, KEEPER_UNIT, Process, RESPONDER_SOCKETS, ServiceManager,
    hears_nothing, nflog_groups,
};

use super::{APPLY, Check};

/// A daemon that dies at once and is started again looks active whenever it is asked; so it is seen twice,
/// this far apart (traps 12, 19).
const STEADY: Duration = Duration::from_secs(3);

/// Bits of /proc/PID/status CapEff (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub fn checks(context: &Context) -> Result<Vec<Check>> {
    let is_there = |generation: &Generation| {
        *generation == Generation::Embedded || context.facts.packages.get("portsentry").is_some()
    };
    let Some(generation) = context.generation.filter(is_there) else {
        return Ok(vec![Check::fail("daemon-runs", "no portsentry watches", "it is not installed", APPLY)]);
    };
    let mut checks = vec![enabled(context, generation)];
    let processes: Vec<Process> = context.facts.daemons(generation).cloned().collect();
    match &context.facts.manager {
        ServiceManager::Forbidden(why) if processes.is_empty() => {
            checks.push(Check::skip("daemon-runs", format!("whether portsentry watches: {why}")));
            return Ok(checks);
        }
        _ => checks.push(runs(context, generation, &processes)),
    }
    if let Some(process) = processes.first() {
        checks.push(able(process, generation));
        if generation == Generation::Embedded {
            checks.push(listens(process));
        }
    }
    if context.facts.manager == ServiceManager::Systemd {
        checks.extend(companions(context, generation));
    }
    checks.extend(blind_to_ipv6(context, generation));
    Ok(checks)
}

/// Whether the wanted processes are there by now; those that nobody starts but by hand are not waited for.
pub fn is_up(context: &Context) -> bool {
    let facts = Facts { processes: Facts::processes_now(), ..context.facts.clone() };
    context
        .generation
        .is_none_or(|generation| by_hand(context, generation).is_some() || runs_as_wanted(&facts, generation))
}

fn enabled(context: &Context, generation: Generation) -> Check {
    let id = "daemon-enabled";
    if generation == Generation::SysvModes {
        let linked = (2..=5).any(|level| {
            context
                .host
                .list(&format!("/etc/rc{level}.d"))
                .iter()
                .any(|name| name.starts_with('S') && name.ends_with("portsentry"))
        });
        return if linked {
            Check::ok(id, "portsentry starts at boot (sysv script)")
        } else {
            Check::fail(
                id,
                "portsentry does not start at boot",
                "no S..portsentry in /etc/rc2.d to rc5.d",
                "update-rc.d portsentry defaults",
            )
        };
    }
    let off: Vec<&str> = generation
        .units()
        .iter()
        .filter(|unit| context.facts.units.get(**unit).is_none_or(|state| state.enabled != "enabled"))
        .copied()
        .collect();
    if off.is_empty() {
        let verb = if generation.units().len() == 1 { "starts" } else { "start" };
        Check::ok(id, format!("{} {verb} at boot", generation.units().join(", ")))
    } else {
        let states: Vec<String> = off
            .iter()
            .map(|unit| {
                format!(
                    "{unit} is {}",
                    context.facts.units.get(*unit).map_or("unknown", |state| state.enabled.as_str())
                )
            })
            .collect();
        Check::fail(
            id,
            "portsentry does not start at boot",
            states.join(", "),
            format!("systemctl enable {}, or: {APPLY}", off.join(" ")),
        )
    }
}

fn runs(context: &Context, generation: Generation, processes: &[Process]) -> Check {
    let id = "daemon-runs";
    let unit = generation.units()[0];
    let look = match by_hand(context, generation) {
        Some((_, command)) => command,
        None => format!("systemctl status {unit}; journalctl -u {unit}, or: {APPLY}"),
    };
    if !runs_as_wanted(context.facts, generation) {
        let processes: Vec<&Process> = context.facts.portsentries().chain(context.facts.embedded()).collect();
        let seen = if processes.is_empty() {
            let state = context.facts.units.get(unit).cloned().unwrap_or_default();
            match state.active.as_str() {
                "" => "there is no portsentry process".to_owned(),
                active => format!("there is no portsentry process, though {unit} says `{active}`"),
            }
        } else {
            processes
                .iter()
                .map(|process| format!("{} {}", process.pid, process.words.join(" ")))
                .collect::<Vec<_>>()
                .join("; ")
        };
        let says = if processes.is_empty() { "no portsentry watches" } else { "portsentry does not run as described" };
        return Check::fail(id, says, seen, look);
    }
    let youngest = processes.iter().map(Process::age).fold(f64::MAX, f64::min);
    if youngest < STEADY.as_secs_f64() {
        std::thread::sleep(STEADY.saturating_sub(Duration::from_secs_f64(youngest)));
        let pids = |list: &[Process]| list.iter().map(|process| process.pid).collect::<Vec<_>>();
        let now = Facts { processes: Facts::processes_now(), ..context.facts.clone() };
        let again: Vec<Process> = now.daemons(generation).cloned().collect();
        if pids(&again) != pids(processes) {
            return Check::fail(
                id,
                "portsentry does not stay alive",
                format!("{} became {} within {} s", shown(processes), shown(&again), STEADY.as_secs()),
                look,
            );
        }
    }
    let age = crate::host::age(youngest.max(STEADY.as_secs_f64()));
    Check::ok(id, format!("portsentry watches TCP and UDP below 1024 ({}, for {age})", shown(processes)))
}

fn shown(processes: &[Process]) -> String {
    if processes.is_empty() {
        return "nothing".to_owned();
    }
    let one = |process: &Process| match process.words.get(1) {
        Some(mode) if mode.starts_with('-') => format!("{} {}", mode.trim_start_matches('-'), process.pid),
        _ => format!("process {}", process.pid),
    };
    processes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// 1.2 sees no IPv6 at all (trap 29): told where the host has it, for nothing here can change it.
fn blind_to_ipv6(context: &Context, generation: Generation) -> Option<Check> {
    let reachable =
        |address: &IpAddr| matches!(address, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local());
    let has_ipv6 = context.facts.network.addresses.iter().any(|one| reachable(&one.address));
    (has_ipv6 && !generation.sees_ipv6()).then(|| {
        Check::skip(
            "sees-ipv6",
            "scans over IPv6: portsentry 1.2 does not see them at all; portsentry 2.0 (Debian 14) and --engine embedded do",
        )
    })
}

/// Its packets come from the kernel's log, by a table of its own; without either it watches nothing.
fn listens(process: &Process) -> Check {
    let id = "daemon-listens";
    let why = match hears_nothing(process.pid) {
        Ok(None) => {
            let groups = nflog_groups(process.pid).unwrap_or_default();
            let groups = groups.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            return Check::ok(
                id,
                format!("it gets its packets from nftables (table inet harden_portsentry, group {groups})"),
            );
        }
        Ok(Some(why)) => why,
        Err(error) => format!("{error:#}"),
    };
    let remedy = format!("systemctl restart {EMBEDDED_UNIT}, or: {APPLY}");
    Check::fail(id, "the embedded portsentry gets no packets", why, remedy)
}

/// The units beside its own: without them it watches, and says nothing of what does not work.
fn companions(context: &Context, generation: Generation) -> Vec<Check> {
    let of = |id, units: &[&str], holds: &str, fails: &str| {
        let state = |unit: &str| context.facts.units.get(unit).map_or("unknown", |state| state.active.as_str());
        let down: Vec<&str> = units.iter().copied().filter(|unit| state(unit) != "active").collect();
        if down.is_empty() {
            return Check::ok(id, format!("{holds} ({})", units.join(", ")));
        }
        let seen: Vec<String> = down.iter().map(|unit| format!("{unit} is {}", state(unit))).collect();
        let down = down.join(" ");
        Check::fail(id, fails, seen.join(", "), format!("systemctl status {down}; then: systemctl start {down}"))
    };
    let is_there = |unit: &&str| context.facts.units.get(*unit).is_some_and(|state| state.load == "loaded");
    let sockets: Vec<&str> = RESPONDER_SOCKETS.into_iter().filter(is_there).collect();
    let keeping = keeping_units(context);
    let mut checks = Vec::new();
    if generation == Generation::Embedded {
        checks.push(of(
            "responder-listens",
            &sockets,
            "commands are run and names looked up on demand",
            "nobody runs the commands of portsentry.conf or looks up names",
        ));
    }
    if keeping.contains(&KEEPER_UNIT) {
        checks.push(of(
            "blocks-kept",
            &[KEEPER_UNIT],
            "whom portsentry blocks is kept, and freed in time",
            "nobody keeps whom portsentry blocks",
        ));
    }
    if keeping.contains(&BLOCKS_UNIT) {
        checks.push(of(
            "blocks-restored",
            &[BLOCKS_UNIT],
            "blocks are back before the network is up",
            "blocks were not brought back before the network was up",
        ));
    }
    checks
}

/// Without NET_RAW it is deaf, without NET_ADMIN its blocks fail, and it says neither (traps 19, 26). The embedded one
/// hears through netfilter, which is NET_ADMIN's alone.
fn able(process: &Process, generation: Generation) -> Check {
    let id = "daemon-able";
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let Some(effective) = effective else {
        return Check::skip(id, format!("what process {} may do: its /proc entry cannot be read", process.pid));
    };
    let lacks: Vec<&str> =
        [(CAP_NET_RAW, "CAP_NET_RAW (it sees nothing)"), (CAP_NET_ADMIN, "CAP_NET_ADMIN (its blocks fail)")]
            .into_iter()
            .filter(|(bit, _)| *bit != CAP_NET_RAW || generation != Generation::Embedded)
            .filter(|(bit, _)| effective & (1 << bit) == 0)
            .map(|(_, name)| name)
            .collect();
    if lacks.is_empty() {
        Check::ok(id, "it may see packets and change the firewall")
    } else {
        Check::fail(
            id,
            "portsentry cannot do its work",
            format!("process {} lacks {}", process.pid, lacks.join(" and ")),
            "run it where these capabilities are given (a container: --cap-add NET_RAW,NET_ADMIN)",
        )
    }
}
