//! fail2ban: the jail that really runs, and bans that really are in the ruleset.

use std::net::IpAddr;

use anyhow::Result;

use crate::article::{Context, built_in};
use crate::host::{CommandOutput, Invocation, JAIL, RuleList, ServiceManager, blocking_tables};

use super::{APPLY, Check};

pub fn checks(context: &Context) -> Result<Vec<Check>> {
    let id = "jail-runs";
    if !context.settings.fail2ban.value {
        let then = if built_in(context).is_some() { "no jail lists blocks" } else { "blocks do not survive a restart" };
        let says = format!("fail2ban is left out, as {} says; {then}", context.settings.fail2ban.origin);
        return Ok(vec![Check::ok(id, says)]);
    }
    if context.facts.packages.get("fail2ban").is_none() {
        return Ok(vec![Check::fail(
            id,
            "fail2ban is not installed",
            "dpkg knows no installed package fail2ban",
            APPLY,
        )]);
    }
    if context.facts.fail2ban().is_none() {
        if let ServiceManager::Forbidden(why) = &context.facts.manager {
            return Ok(vec![Check::skip(id, format!("whether fail2ban's jail runs: {why}")), config_test(context)]);
        }
        return Ok(vec![Check::fail(
            id,
            "fail2ban does not run",
            why_it_is_down(),
            format!("systemctl status fail2ban, or: {APPLY}"),
        )]);
    }
    let status = client(&["status", JAIL])?;
    let Some(status) = status else {
        let remedy = format!("systemctl restart fail2ban; if that does not help: {APPLY}");
        return Ok(vec![Check::fail(id, "fail2ban runs without its portsentry jail", why_it_is_down(), remedy)]);
    };
    let mut checks = vec![Check::ok(id, "fail2ban's portsentry jail runs")];
    checks.push(watches(context)?);
    checks.push(keeps(context)?);
    // Beside the embedded portsentry a ban is a wish, and who is blocked stands in the ledger.
    if built_in(context).is_none() {
        checks.push(bans(context, &status));
    }
    Ok(checks)
}

/// Whether the jail answers by now, where there is to be one.
pub fn is_up(context: &Context) -> bool {
    !context.settings.fail2ban.value || client(&["status", JAIL]).is_ok_and(|answer| answer.is_some())
}

/// The answer of fail2ban-client, `None` if it refused.
fn client(words: &[&str]) -> Result<Option<String>> {
    let output = Invocation::new("fail2ban-client", words).run()?;
    Ok(output.ok().then_some(output.stdout))
}

/// fail2ban's own words: they name the jail that keeps it from starting.
fn why_it_is_down() -> String {
    let test = Invocation::new("fail2ban-client", &["-t"]).run();
    let said = test.map(|output| output.last_words()).unwrap_or_default();
    let log = std::fs::read_to_string("/var/log/fail2ban.log").unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().filter(|line| line.contains("ERROR")).take(2).collect();
    let words = if last.is_empty() { said } else { last.into_iter().rev().collect::<Vec<_>>().join("\n") };
    if words.trim().is_empty() { "it says nothing".to_owned() } else { words }
}

fn config_test(context: &Context) -> Check {
    let id = "jail-configured";
    match context.host.inside("fail2ban-client", &["-t".to_owned()]).run() {
        Ok(output) if output.ok() => Check::ok(id, "fail2ban accepts its configuration"),
        // 125 to 127: chroot itself could not run it.
        Ok(CommandOutput { status: Some(125..=127), stderr, .. }) if !context.host.is_live() => {
            Check::skip(id, format!("whether fail2ban accepts its configuration: {}", stderr.trim()))
        }
        Ok(output) => Check::fail(id, "fail2ban refuses its configuration", output.last_words(), APPLY),
        Err(error) => Check::skip(id, format!("whether fail2ban accepts its configuration: {error:#}")),
    }
}

/// It must watch the file that this portsentry writes (traps 9, 22).
fn watches(context: &Context) -> Result<Check> {
    let id = "jail-watches-history";
    let Some(generation) = context.generation else {
        return Ok(Check::skip(id, "which history is written: no portsentry here"));
    };
    let history = generation.history();
    let told = client(&["get", JAIL, "logpath"])?.unwrap_or_default();
    Ok(if !told.contains(history) {
        Check::fail(
            id,
            "the jail does not watch portsentry's history",
            format!("portsentry writes {history}; the jail watches: {}", told.trim()),
            "look for a [portsentry] section in /etc/fail2ban/jail.local and jail.d/*.local, which win over ours",
        )
    } else if !context.host.exists(history) {
        Check::fail(id, "portsentry's history is missing", format!("{history} is not there"), APPLY)
    } else {
        Check::ok(id, format!("the jail watches {history}, which portsentry writes"))
    })
}

/// Ten minutes, as stock, bring nothing back after a longer absence (trap 20).
fn keeps(context: &Context) -> Result<Check> {
    let id = "jail-bantime";
    let wanted = context.settings.bantime.value;
    let told = client(&["get", JAIL, "bantime"])?.unwrap_or_default();
    // How long a block of the embedded portsentry lasts is the ledger's business.
    let (holds, fails) = match built_in(context) {
        Some(_) => ("the jail lists a ban for", "the jail does not list a ban for"),
        None => ("a block is kept for", "a block is not kept for"),
    };
    Ok(if told.trim() == wanted.for_fail2ban() {
        Check::ok(id, format!("{holds} {wanted}"))
    } else {
        Check::fail(
            id,
            format!("{fails} {wanted}"),
            format!("the jail's bantime is {} s", told.trim()),
            "look for a [portsentry] section in /etc/fail2ban/jail.local and jail.d/*.local, which win over ours",
        )
    })
}

/// What it counts as banned must be in the ruleset (traps 14, 18).
fn bans(context: &Context, status: &str) -> Check {
    let id = "bans-in-firewall";
    let list = status.lines().find_map(|line| line.split_once("Banned IP list:")).map_or("", |(_, list)| list);
    let banned: Vec<IpAddr> = list.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let Ok(rules) = RuleList::ask_both(context.host) else {
        return Check::skip(id, "whether the bans are in the firewall: iptables may not list its rules here");
    };
    let nft = blocking_tables();
    let free: Vec<String> = banned
        .iter()
        .filter(|address| rules[usize::from(address.is_ipv6())].about(**address).next().is_none())
        .map(ToString::to_string)
        .filter(|text| !nft.split(|letter: char| letter.is_whitespace() || letter == ',').any(|word| word == text))
        .collect();
    if free.is_empty() {
        Check::ok(id, format!("every ban of the jail is in the firewall ({})", banned.len()))
    } else {
        Check::fail(
            id,
            format!("fail2ban says it bans {}, the firewall does not", free.join(", ")),
            "no rule or set holds it",
            "systemctl restart fail2ban, or: harden-portsentry apply",
        )
    }
}
