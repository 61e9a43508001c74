//! The packet filter against what daemon and lists claim.

use anyhow::Result;

use crate::article::{CHAOS_LOOK, Context, built_in, is_safe, safe_networks};
use crate::blocks;
use crate::blocks::PacketFilter;
use crate::blocks::control::Listed;
use crate::blocks::package::remembered;
use crate::host::{CHAOS_RULE, CHAOS_UNIT, ChaosSupport, Generation, RuleList, ServiceManager};
use crate::settings::Response;

use super::{APPLY, Check};

pub fn checks(context: &Context) -> Result<Vec<Check>> {
    if !context.host.is_live() {
        return Ok(vec![Check::skip("block-works", "whether a block works: this is an image, not a running system")]);
    }
    let mut checks = block_works(context);
    // The ledger first: asking it takes no iptables. Where the kernel does not answer, nobody knows.
    let listed = blocks::look();
    if built_in(context).is_some() {
        checks.push(ledger_in_kernel(&listed));
        checks.push(lists_agree(context, &listed));
    }
    let rules = RuleList::ask_both(context.host).ok();
    checks.push(safe_not_blocked(context, rules.as_ref(), &listed.unwrap_or_default()));
    if let Some(rules) = rules {
        checks.extend(blocked_in_kernel(context, &rules)?);
    }
    Ok(checks)
}

/// The rule that KILL_ROUTE inserts is inserted, in a namespace of its own (traps 4, 15, 16).
fn block_works(context: &Context) -> Vec<Check> {
    let id = "block-works";
    if !may_make_namespaces() {
        return vec![Check::skip(
            id,
            "whether a block works: trying one needs CAP_SYS_ADMIN and CAP_NET_ADMIN, which are not given here",
        )];
    }
    if let Some(answer) = built_in(context).filter(|_| context.filter == PacketFilter::Nftables) {
        let mut checks = vec![built_in_works(context, answer)];
        if answer == blocks::Answer::Chaos {
            checks.push(chaos_answers(context));
        }
        return checks;
    }
    let both = built_in(context).is_some() || context.generation.is_some_and(Generation::sees_ipv6);
    let families: &[bool] = if both { &[false, true] } else { &[false] };
    let mut checks: Vec<Check> = families
        .iter()
        .map(|&ipv6| {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let target = context.chosen.target(ipv6);
            match context.host.try_rule(ipv6, target) {
                Ok(()) => {
                    Check::ok(id, format!("the kernel takes the rule that blocks an {family} host (-j {target})"))
                }
                Err(said) => Check::fail(
                    id,
                    format!("no {family} host can be blocked"),
                    said,
                    format!("install iptables, or choose another --response; then: {APPLY}"),
                ),
            }
        })
        .collect();
    if let Some(why) = &context.chosen.fallback {
        // Told, not failed: it blocks as well.
        if let Some(check) = checks.first_mut() {
            check.seen = Some(format!(
                "a blocked host meets {}, not the article's CHAOS: {why}",
                context.chosen.response.in_words()
            ));
        }
    }
    if context.chosen.response == Response::Chaos && context.facts.chaos != ChaosSupport::Works {
        checks.push(Check::fail(
            "chaos",
            "CHAOS does not work",
            "the module is not there yet",
            "harden-portsentry apply --install-chaos",
        ));
    }
    checks
}

fn may_make_namespaces() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    // CAP_NET_ADMIN is 12, CAP_SYS_ADMIN 21.
    effective.is_some_and(|bits| bits & (1 << 12) != 0 && bits & (1 << 21) != 0)
}

/// `rules` are `None` where iptables does not say what they are.
fn safe_not_blocked(context: &Context, rules: Option<&[RuleList; 2]>, listed: &[Listed]) -> Check {
    let id = "safe-not-blocked";
    let safe = safe_networks(context);
    let by_ledger: Vec<&Listed> = listed.iter().filter(|one| is_safe(&safe, one.address)).collect();
    if !by_ledger.is_empty() {
        let seen: Vec<String> = by_ledger.iter().map(|one| format!("{}: {}", one.address, one.why)).collect();
        let remedies: Vec<String> =
            by_ledger.iter().map(|one| format!("harden-portsentry unblock {}", one.address)).collect();
        return Check::fail(id, "a safe address is blocked", seen.join("; "), remedies.join("; "));
    }
    let Some(rules) = rules else {
        return Check::skip(id, "whether a rule blocks a safe address: iptables may not list its rules here");
    };
    let hit: Vec<String> = safe
        .iter()
        .filter(|safe| safe.network.max_prefix_len() == safe.network.prefix_len())
        .flat_map(|safe| {
            rules[usize::from(safe.network.addr().is_ipv6())]
                .about(safe.network.addr())
                .map(move |rule| format!("{} ({}): {rule}", safe.network.addr(), safe.what))
        })
        .filter(|found| ["-j DROP", "-j CHAOS", "-j REJECT"].iter().any(|target| found.contains(target)))
        .collect();
    if hit.is_empty() {
        Check::ok(id, "no rule blocks a safe address")
    } else {
        // A ban of a jail beside the embedded portsentry is no rule.
        let by_jail =
            if built_in(context).is_none() { ", or: fail2ban-client set portsentry unbanip ADDRESS" } else { "" };
        let remedy = format!("delete the rule with iptables -D (ip6tables for IPv6){by_jail}");
        Check::fail(id, "a safe address is blocked", hit.join("; "), remedy)
    }
}

/// The table of blocked hosts is loaded, in a namespace of its own.
fn built_in_works(context: &Context, answer: blocks::Answer) -> Check {
    let id = "block-works";
    let tried = blocks::ruleset(&blocks::Terms::default(), answer, &[])
        .map_err(|error| format!("{error:#}"))
        .and_then(|text| context.host.try_ruleset(&text));
    match tried {
        Ok(()) => {
            let mut check = Check::ok(id, "the kernel takes the table that blocks IPv4 and IPv6 hosts (nftables)");
            if let Some(why) = &context.chosen.fallback {
                // Told, not failed: it blocks as well.
                check.seen = Some(format!(
                    "a blocked host meets {}, not the article's CHAOS: {why}",
                    context.chosen.response.in_words()
                ));
            }
            check
        }
        Err(said) => Check::fail(id, "no host can be blocked", said, format!("install nftables; then: {APPLY}")),
    }
}

/// The one rule by which iptables answers whom our table marks. Without it they meet silence.
fn chaos_answers(context: &Context) -> Check {
    let id = "chaos";
    if context.facts.chaos != ChaosSupport::Works {
        let remedy = "harden-portsentry apply --install-chaos";
        return Check::fail(id, "CHAOS does not work", "the module is not there yet", remedy);
    }
    match RuleList::ask(context.host, false) {
        Ok(rules) if rules.chaos_rules() > 0 => Check::ok(id, "one rule has CHAOS answer whoever is blocked (IPv4)"),
        Ok(_) if context.facts.manager == ServiceManager::Sysv => {
            Check::skip(id, "whether CHAOS answers: without systemd its rule comes with the first block")
        }
        Ok(_) => Check::fail(
            id,
            "blocked hosts meet silence, not CHAOS",
            format!("iptables has no rule `{CHAOS_RULE}`; something flushed it"),
            format!(
                "wait for {} s, and if it does not come back: systemctl restart {CHAOS_UNIT}",
                CHAOS_LOOK.as_secs()
            ),
        ),
        Err(error) => Check::skip(id, format!("whether CHAOS answers: {error:#}")),
    }
}

/// Whoever the ledger says is blocked must be in the kernel's sets.
fn ledger_in_kernel(listed: &Result<Vec<Listed>>) -> Check {
    let id = "blocked-in-firewall";
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => return Check::skip(id, format!("whether the kernel blocks whom the ledger says: {error:#}")),
    };
    let free: Vec<String> = listed.iter().filter(|one| !one.in_kernel).map(|one| one.address.to_string()).collect();
    if free.is_empty() {
        Check::ok(id, format!("every host that is blocked is in the kernel's sets ({})", listed.len()))
    } else {
        Check::fail(
            id,
            format!("the ledger holds {} for blocked, the kernel does not", free.join(", ")),
            "something took them out of the sets of table inet harden_portsentry_blocks",
            "harden-portsentry restore",
        )
    }
}

/// What TCP wrappers, portsentry and fail2ban say of who is blocked must be what the ledger says (traps 7, 15, 18).
fn lists_agree(context: &Context, listed: &Result<Vec<Listed>>) -> Check {
    let id = "lists-agree";
    let found = match listed {
        Ok(listed) => blocks::differences(context.host, context.package(), listed),
        Err(error) => return Check::skip(id, format!("whether all lists say the same of who is blocked: {error:#}")),
    };
    let differences = match found {
        Ok(differences) => differences,
        Err(error) => return Check::skip(id, format!("whether all lists say the same of who is blocked: {error:#}")),
    };
    if differences.is_empty() {
        return Check::ok(id, "kernel, TCP wrappers, portsentry and fail2ban say the same of who is blocked");
    }
    let words = differences.iter().map(|(address, differences)| {
        let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
        format!("{address}: {}", differences.join("; "))
    });
    Check::fail(id, "the lists of who is blocked disagree", words.collect::<Vec<_>>().join("\n"), APPLY)
}

/// Whoever portsentry holds for blocked must be in the ruleset: it will not block him again (trap 18).
fn blocked_in_kernel(context: &Context, rules: &[RuleList; 2]) -> Result<Option<Check>> {
    let id = "blocked-in-firewall";
    let runs = |generation: &Generation| context.facts.daemons(*generation).next().is_some();
    let Some(generation) = context.generation.filter(runs) else {
        return Ok(None);
    };
    if built_in(context).is_some() {
        return Ok(None);
    }
    let blocked = remembered(context.host, generation)?;
    let free: Vec<String> = blocked
        .iter()
        .filter(|address| rules[usize::from(address.is_ipv6())].about(**address).next().is_none())
        .map(ToString::to_string)
        .collect();
    Ok(Some(if free.is_empty() {
        Check::ok(id, format!("every host that portsentry blocked is in the firewall ({})", blocked.len()))
    } else {
        Check::fail(
            id,
            format!("portsentry holds {} for blocked, the firewall does not", free.join(", ")),
            "something flushed the rules since; portsentry does not block such a host again",
            format!("systemctl restart {} fail2ban", generation.units().join(" ")),
        )
    }))
}
