//! Step 4: blocking on, by firewall and TCP wrappers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use crate::blocks::{Answer, DENIED, PacketFilter, control, package};
use crate::host::{CHAOS_RULE, Generation, RuleList, iptables, is_block};
use crate::plan::{Content, Draft, FileKind, Step};
use crate::settings::{POLICY, Policy, Response};
use crate::syntax::hosts_access::{HostsAccess, MarkedEntry, denied_address};
use crate::syntax::portsentry_conf::PortsentryConf;

use super::listening::edit_conf;
use super::{Context, HOSTS_DENY, in_file, moving, sections, variables};

/// Makes /run/portsentry, and empties it at each start, since the daemon then knows of no rule.
const DROP_IN: &str = "/etc/systemd/system/portsentry.service.d/harden-portsentry.conf";

pub fn step(context: &Context, draft: &mut Draft) -> Result<Step> {
    let mut step = Step::new("blocking", "Blocking", sections::BLOCKING);
    step.summary = format!("TCP and UDP, by firewall ({}) and hosts.deny", context.chosen.response);
    if let Some(why) = &context.chosen.fallback {
        step.warn(format!(
            "a blocked host meets {}, not the article's CHAOS: {why}",
            context.chosen.response.in_words()
        ));
    }
    if context.settings.resolve_host.value && context.generation.is_some_and(Generation::is_1_2) {
        step.info(
            "RESOLVE_HOST=\"1\", as in the article: the block waits for the scanner's own name server, 10 s and more where it does not answer; \
             `resolve_host = false` in policy.toml blocks at once",
        );
    }
    let Some(generation) = context.generation else { return Ok(step) };
    let built_in = built_in(context);
    if built_in.is_none() {
        step.warn(
            "`literal = true`: portsentry blocks by a rule of CHAOS a host: without terms, ledger and guard, until the next \
             boot, and each rule costs every packet",
        );
    }
    match &context.filter {
        PacketFilter::Nftables if context.settings.whitelist_chain.is_some() => {
            step.info(
                "whitelist_chain is without effect: our table comes before everybody's rules (firewall = \"iptables\")",
            );
        }
        PacketFilter::Nftables => {}
        PacketFilter::Iptables { after: None } => {
            step.info("hosts are blocked by a chain of iptables, before all other rules")
        }
        PacketFilter::Iptables { after: Some(chain) } => {
            step.info(format!("hosts are blocked by a chain of iptables, behind the jumps to {chain}"));
        }
    }
    if built_in == Some(Answer::Noise) {
        step.info(
            "noise switches connection tracking on for all packets of this host, if nothing did so yet, and ends connections that \
             were open before it where the other end is blocked; docs/response.md says what a scanner sees, and what it costs",
        );
    }
    let older = moving::older_blocks(context)?;
    hosts_deny(built_in, &older, draft, &mut step)?;
    edit_conf(generation, draft, &mut step, "block what scans", |conf| {
        let resolve = if context.settings.resolve_host.value { "1" } else { "0" };
        let mut wanted = vec![
            ("BLOCK_TCP", "1".to_owned()),
            ("BLOCK_UDP", "1".to_owned()),
            ("RESOLVE_HOST", resolve.to_owned()),
            ("IGNORE_FILE", generation.daemons_ignore_list().to_owned()),
            ("HISTORY_FILE", generation.history().to_owned()),
        ];
        let blocked_file = generation.blocked_file().map(|path| ("BLOCKED_FILE", path.to_owned()));
        match built_in {
            Some(answer) if generation == Generation::Embedded => wanted.extend(by_itself(conf, answer)),
            Some(_) => {
                wanted.push(("KILL_ROUTE", block_command(context)));
                wanted.extend(blocked_file);
                // Whom this names is let in by no other line of the file; one of somebody's own stays.
                if conf.get("KILL_HOSTS_DENY", generation.dialect()).is_some_and(|line| denies_for_ever(&line)) {
                    conf.comment_out("KILL_HOSTS_DENY");
                }
            }
            None => {
                let (kill_route, kill_hosts_deny) = kill_commands(context, generation);
                conf.comment_out("KILL_NFT");
                wanted.push(("KILL_ROUTE", kill_route));
                match kill_hosts_deny {
                    Some(line) => wanted.push(("KILL_HOSTS_DENY", line)),
                    None => conf.comment_out("KILL_HOSTS_DENY"),
                }
                wanted.extend(blocked_file);
            }
        }
        for (key, value) in wanted {
            let only = conf.all(key).len() == 1;
            if !(only && conf.get(key, generation.dialect()).as_deref() == Some(value.as_str())) {
                conf.set(key, &value)?;
            }
        }
        Ok(())
    })?;
    if built_in.is_some() {
        warn_of_other_terms(context, &mut step)?;
        warn_of_other_blocks(context, &older, draft, &mut step)?;
    }
    moving::plan(context, older, &mut step);
    let path = Path::new(DROP_IN);
    match generation {
        Generation::OneProcess => step.file(draft.put(
            path,
            include_bytes!("../../templates/portsentry-service.conf"),
            0o644,
            FileKind::Whole,
            "a place of its own for the blocked file, not /tmp",
        )?),
        Generation::SysvModes | Generation::UnitModes => step.file(draft.remove(path, "it is for portsentry 2.0")?),
        // Debian's portsentry keeps its files, for the day it watches again.
        Generation::Embedded => {}
    }
    Ok(step)
}

/// What our own commands have in common.
const INSERTS: &str = " -w -I INPUT -s $TARGET$ -j ";

/// What the embedded portsentry is to have, which blocks by itself. Commands of others stay beside it.
fn by_itself(conf: &mut PortsentryConf, answer: Answer) -> Vec<(&'static str, String)> {
    let own = Generation::Embedded;
    let mut wanted = vec![("KILL_NFT", answer.name().to_owned())];
    let route = conf.get("KILL_ROUTE", own.dialect()).unwrap_or_default();
    // What an earlier apply wrote.
    let is_ours = route.contains(INSERTS) || route.contains(CHAOS_RULE);
    match answer {
        Answer::Chaos if is_ours || route.is_empty() => wanted.push(("KILL_ROUTE", chaos_command())),
        _ if is_ours => conf.comment_out("KILL_ROUTE"),
        _ => {}
    }
    if conf.get("BLOCKED_FILE", own.dialect()).as_deref() == own.blocked_file() {
        conf.comment_out("BLOCKED_FILE");
    }
    wanted
}

/// By which Debian's portsentry hands over whom it caught. What it puts in are an address and a number.
fn block_command(context: &Context) -> String {
    format!("{} {}", variables::place(context), control::KILL_ROUTE)
}

/// Whether a line for hosts.deny, as KILL_HOSTS_DENY has it, shuts its target out and nothing else, which a block that ends
/// must not: Debian's own, or what an earlier apply wrote.
fn denies_for_ever(line: &str) -> bool {
    line.replace(['[', ']'], "").split(':').map(str::trim).eq(["ALL", "$TARGET$", "DENY"])
        || line.split(':').map(str::trim).eq(["ALL", "$TARGET$"])
}

/// What whoever is blocked meets by our own sets; `None` where each block is a rule of iptables, as in the article.
pub fn built_in(context: &Context) -> Option<Answer> {
    match context.chosen.response {
        Response::Chaos if context.settings.literal.value => None,
        Response::Chaos => Some(Answer::Chaos),
        Response::Reject => Some(Answer::Reject),
        Response::Noise => Some(Answer::Noise),
        Response::Drop | Response::Auto => Some(Answer::Drop),
    }
}

/// Puts the rule of CHAOS where it is missing: behind a block, as KILL_ROUTE, for somebody may have flushed it since.
pub fn chaos_command() -> String {
    let iptables = iptables(false);
    format!("{iptables} -w -C {CHAOS_RULE} 2>/dev/null || {iptables} -w -I {CHAOS_RULE}")
}

/// One line of ours, which names the file of those who are blocked; or none. The lines of those who come into the ledger go.
fn hosts_deny(built_in: Option<Answer>, older: &BTreeSet<IpAddr>, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let path = Path::new(HOSTS_DENY);
    let bytes = match draft.content(path)? {
        Content::Bytes(bytes) => bytes,
        Content::Absent => Vec::new(),
        Content::Unknown => return Ok(()),
    };
    let stays = |line: &&[u8]| {
        denied_address(String::from_utf8_lossy(line).trim_end()).is_none_or(|address| !older.contains(&address))
    };
    let kept: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').filter(stays).collect();
    let mut document = HostsAccess::parse(&kept.concat());
    let entries: Vec<MarkedEntry> = built_in.iter().map(|_| MarkedEntry::File(DENIED.to_owned())).collect();
    document.set_marked(&entries).map_err(|error| in_file(HOSTS_DENY, error))?;
    let new = document.to_bytes();
    if new != bytes {
        let why = "TCP wrappers ask who is blocked";
        step.file(draft.put(path, &new, 0o644, FileKind::Blocks, why)?);
    }
    Ok(())
}

/// Warns of terms in a file that `--policy` names: the daemon, and whoever blocks by hand, read the one in its place.
fn warn_of_other_terms(context: &Context, step: &mut Step) -> Result<()> {
    let (named, own) = (&context.settings.policy_path, context.host.outside(Path::new(POLICY)));
    if *named != own && Policy::read(named)?.block != Policy::read(&own)?.block {
        step.warn(format!(
            "[block] of {} is without effect: blocks go by {POLICY}, which the daemon reads; put it there",
            named.display()
        ));
    }
    Ok(())
}

/// Warns of hosts that others shut out in the form in which Debian's portsentry does it, and no portsentry's files know of.
/// Whoever has such commands in the configuration gets them on purpose.
fn warn_of_other_blocks(context: &Context, older: &BTreeSet<IpAddr>, draft: &Draft, step: &mut Step) -> Result<()> {
    let text = |path: &str| match draft.content(Path::new(path)) {
        Ok(Content::Bytes(bytes)) => bytes,
        _ => Vec::new(),
    };
    let own = context.generation.unwrap_or(Generation::Embedded);
    let conf = PortsentryConf::parse(&text(own.conf())).map_err(|error| in_file(own.conf(), error))?;
    let has = |key: &str| conf.get(key, own.dialect()).is_some();
    if !has("KILL_HOSTS_DENY") {
        let denied = String::from_utf8_lossy(&text(HOSTS_DENY)).into_owned();
        let denied: Vec<String> =
            denied.lines().filter_map(denied_address).map(|address| address.to_string()).collect();
        if !denied.is_empty() {
            step.warn(format!(
                "{HOSTS_DENY} has lines as Debian's portsentry writes them, and none of its files says that it did; \
                 they shut out for ever whom they name, until you remove them: {}",
                some_of(&denied)
            ));
        }
    }
    let route = conf.get("KILL_ROUTE", own.dialect());
    let is_ours = |command: &str| command.contains(CHAOS_RULE) || command.contains(control::KILL_ROUTE);
    for ipv6 in [false, true].into_iter().filter(|_| route.as_deref().is_none_or(is_ours)) {
        let moved = |rule: &str| package::source(rule).is_some_and(|address| older.contains(&address));
        let text = RuleList::read(context.host, ipv6).text();
        let others = text.lines().filter(|rule| is_block(rule) && !moved(rule));
        let others: Vec<String> =
            others.map(|rule| format!("{} {}", iptables(ipv6), rule.replacen("-A ", "-D ", 1))).collect();
        if !others.is_empty() {
            step.warn(format!(
                "the firewall has rules as Debian's portsentry makes them, and none of its files says that it did; \
                 a boot ends them, and each of these does: {}",
                some_of(&others)
            ));
        }
    }
    Ok(())
}

/// The first few of them, for a line.
fn some_of(all: &[String]) -> String {
    const FEW: usize = 3;
    let more = if all.len() > FEW { format!("; and {} more", all.len() - FEW) } else { String::new() };
    format!("{}{more}", all[..all.len().min(FEW)].join("; "))
}

/// The command that blocks, and the line for hosts.deny; `None` where the command writes that, too.
fn kill_commands(context: &Context, generation: Generation) -> (String, Option<String>) {
    // `-w` waits for whoever else changes the rules just now; without it iptables-legacy fails, and the daemon logs a
    // block (as in trap 4).
    if !generation.sees_ipv6() {
        let command = format!("{} -w -I INPUT -s $TARGET$ -j {}", iptables(false), context.chosen.target(false));
        return (command, Some("ALL: $TARGET$ : DENY".to_owned()));
    }
    // The daemon puts in the address, everywhere, and hands the command to `sh -c`. It has to choose by family: the
    // program, and for hosts.deny the brackets, which libwrap wants around IPv6 and around nothing else (trap 15). It
    // first looks whether the rule is there: 2.0 and the embedded one see packets before the firewall, and hear a blocked
    // host again.
    let family =
        |ipv6: bool, listed: &str| format!("t={} d={listed} a={}", iptables(ipv6), context.chosen.target(ipv6));
    let command = format!(
        "case $TARGET$ in *:*) {};; *) {};; esac; \
         $t -w -C INPUT -s $TARGET$ -j $a 2>/dev/null || $t -w -I INPUT -s $TARGET$ -j $a; \
         grep -qsxF 'ALL: '$d' : DENY' {HOSTS_DENY} || echo 'ALL: '$d' : DENY' >>{HOSTS_DENY}",
        family(true, "'[$TARGET$]'"),
        family(false, "$TARGET$"),
    );
    (command, None)
}
