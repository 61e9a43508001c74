//! What keeps the blocks, whichever portsentry catches: the table before the network is up, the rule of CHAOS, and, where
//! Debian's portsentry watches, a process that does what the embedded one does by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use askama::Template;

use crate::blocks::{self, Answer, PacketFilter};
use crate::host::{
    BLOCKS_UNIT, CHAOS_RULE, CHAOS_UNIT, ChainName, EMBEDDED_UNIT, Generation, KEEPER_UNIT, RuleList, ServiceManager,
    iptables,
};
use crate::plan::{Draft, FileKind, Plan, Step, UnitAction};
use crate::settings::POLICY;

use super::blocking::{built_in, chaos_command};
use super::units::{state_of, turn_off};
use super::{Context, filled, remove_ours, variables};

/// Has the kernel block again whom the ledger says, at boot.
const BLOCKS: &str = "/etc/systemd/system/harden-portsentry-blocks.service";
/// Keeps the blocks of Debian's portsentry.
const KEEPER: &str = "/etc/systemd/system/harden-portsentry-keeper.service";
/// Has iptables answer whom our table marks with CHAOS, and looks after that.
const CHAOS: &str = "/etc/systemd/system/harden-portsentry-chaos.service";
/// nftables.service begins by flushing every table, ours with them, and netfilter-persistent puts its own rules in the place of
/// all others.
const OF_NFTABLES: &str = "/etc/systemd/system/nftables.service.d/harden-portsentry-table.conf";
const OF_IPTABLES: &str = "/etc/systemd/system/netfilter-persistent.service.d/harden-portsentry-table.conf";

/// How soon the rule of CHAOS is back where a firewall flushed it. Until then whoever is blocked meets silence.
pub const CHAOS_LOOK: Duration = Duration::from_secs(30);

#[derive(Template)]
#[template(path = "harden-portsentry-blocks.service", escape = "none")]
struct BlocksService<'a> {
    program: &'a str,
    /// iptables' programs take rights of their own.
    iptables: bool,
}

#[derive(Template)]
#[template(path = "harden-portsentry-chaos.service", escape = "none")]
struct ChaosService<'a> {
    insert: &'a str,
    delete: &'a str,
    /// How often it is looked whether the rule is there, in seconds.
    look: u64,
}

#[derive(Template)]
#[template(path = "netfilter-persistent-service.conf", escape = "none", ext = "txt")]
struct NetfilterPersistent<'a> {
    program: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-keeper.service", escape = "none")]
struct KeeperService<'a> {
    program: &'a str,
}

#[derive(Template)]
#[template(path = "blocks.conf", escape = "none", ext = "txt")]
struct Conf<'a> {
    answer: &'a str,
    ignore_file: &'a str,
    iptables: bool,
    whitelist_chain: Option<&'a ChainName>,
}

/// Whether a process of its own keeps the blocks, for the portsentry that catches is Debian's.
fn has_keeper(context: &Context) -> bool {
    built_in(context).is_some() && context.generation != Some(Generation::Embedded)
}

/// Whether one rule of iptables has CHAOS answer whom our table marks; a chain of iptables' own does it by itself.
pub fn has_rule_of_chaos(context: &Context) -> bool {
    built_in(context) == Some(Answer::Chaos) && context.filter == PacketFilter::Nftables
}

/// The units that are to be on beside those of the portsentry that watches.
pub fn units(context: &Context) -> Vec<&'static str> {
    let mut units = Vec::new();
    if built_in(context).is_some() {
        units.push(BLOCKS_UNIT);
    }
    if has_keeper(context) {
        units.push(KEEPER_UNIT);
    }
    if has_rule_of_chaos(context) {
        units.push(CHAOS_UNIT);
    }
    units
}

/// Plans the files.
pub fn put(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let program = variables::place(context);
    let Some(answer) = built_in(context) else {
        for path in [BLOCKS, KEEPER, CHAOS, blocks::CONF].into_iter().chain([OF_NFTABLES, OF_IPTABLES]) {
            remove_ours(draft, path, "each block is a rule of iptables from now on", step)?;
        }
        return Ok(());
    };
    let mut file = |path: &str, text: String, why: &str| -> Result<()> {
        step.file(draft.put(Path::new(path), text.as_bytes(), 0o644, FileKind::Whole, why)?);
        Ok(())
    };
    let by_iptables = context.filter != PacketFilter::Nftables;
    let blocks = filled(&BlocksService { program, iptables: by_iptables })?;
    file(BLOCKS, blocks, "whoever was blocked is so again before the network is up")?;
    let flushes = "it flushes what blocks hosts";
    if by_iptables {
        file(OF_IPTABLES, filled(&NetfilterPersistent { program })?, flushes)?;
    } else {
        file(OF_NFTABLES, include_str!("../../templates/nftables-service.conf").to_owned(), flushes)?;
    }
    if has_rule_of_chaos(context) {
        let delete = format!("{} -w -D {CHAOS_RULE}", iptables(false));
        let chaos = filled(&ChaosService { insert: &chaos_command(), delete: &delete, look: CHAOS_LOOK.as_secs() })?;
        file(CHAOS, chaos, "whoever is blocked is answered by CHAOS, by one rule for all")?;
    }
    if has_keeper(context) {
        let keeper = filled(&KeeperService { program })?;
        file(KEEPER, keeper, "keeps whom portsentry has blocked: for a time, and for whoever else asks")?;
        let ignore_file = context.generation.map_or("", Generation::ignore_list);
        let whitelist_chain = match &context.filter {
            PacketFilter::Iptables { after } => after.as_ref(),
            PacketFilter::Nftables => None,
        };
        let conf = filled(&Conf { answer: answer.name(), ignore_file, iptables: by_iptables, whitelist_chain })?;
        file(blocks::CONF, conf, "what whoever is blocked meets")?;
    } else {
        let why = "the embedded portsentry keeps its blocks by itself";
        remove_ours(draft, KEEPER, why, step)?;
        remove_ours(draft, blocks::CONF, why, step)?;
    }
    remove_ours(draft, if by_iptables { OF_NFTABLES } else { OF_IPTABLES }, "another packet filter blocks", step)?;
    if !has_rule_of_chaos(context) {
        remove_ours(draft, CHAOS, "CHAOS answers nobody any more", step)?;
    }
    Ok(())
}

/// Plans that all of it is on and runs, and what is not wanted is off.
pub fn turn_on(context: &Context, draft: &Draft, step: &mut Step) -> Result<()> {
    let may_start = matches!(context.facts.manager, ServiceManager::Systemd);
    let wanted = units(context);
    for unit in [BLOCKS_UNIT, KEEPER_UNIT, CHAOS_UNIT] {
        let state = state_of(context, unit);
        if !wanted.contains(&unit) {
            let why = if unit == KEEPER_UNIT && context.generation == Some(Generation::Embedded) {
                "the embedded portsentry keeps its blocks by itself"
            } else if unit == CHAOS_UNIT {
                "CHAOS answers nobody any more"
            } else {
                "each block is a rule of iptables from now on"
            };
            turn_off(context, unit, why, why, step);
            continue;
        }
        if context.facts.manager == ServiceManager::Sysv && unit != BLOCKS_UNIT {
            continue;
        }
        if state.enabled != "enabled" {
            step.unit(unit, UnitAction::Enable, "started at boot");
        }
    }
    if context.facts.manager == ServiceManager::Sysv && has_keeper(context) {
        step.info(
            "without systemd nothing keeps the blocks but the commands that make and end them: the kernel ends each in time; \
             portsentry blocks whom it has blocked before only after its restart, and hosts.deny follows with the next block",
        );
    }
    if has_rule_of_chaos(context) && context.facts.manager == ServiceManager::Sysv {
        step.info("without systemd the rule of CHAOS comes with the first block");
    }
    if !may_start {
        return Ok(());
    }
    // The embedded one's unit starts it as well, and says more of what is in the way.
    let is_started = !has_keeper(context) && state_of(context, EMBEDDED_UNIT).active != "active";
    if wanted.contains(&BLOCKS_UNIT) && state_of(context, BLOCKS_UNIT).active != "active" && !is_started {
        step.unit(BLOCKS_UNIT, UnitAction::Restart, "the table of blocked hosts is loaded");
    }
    let has_rule = || RuleList::read(context.host, false).chaos_rules() > 0;
    let is_right = || !draft.changes(&[CHAOS]) && state_of(context, CHAOS_UNIT).active == "active" && has_rule();
    if wanted.contains(&CHAOS_UNIT) && !is_right() {
        step.unit(CHAOS_UNIT, UnitAction::Restart, "one rule of CHAOS answers whoever is blocked");
    }
    if has_keeper(context) {
        let ignored = context.generation.map_or(blocks::CONF, Generation::ignore_list);
        let reads = [blocks::CONF, KEEPER, POLICY, ignored, variables::place(context)];
        let why = if draft.changes(&reads) || variables::program(context)?.is_some() {
            Some("what it reads changes")
        } else if state_of(context, KEEPER_UNIT).active != "active" {
            Some("it does not run")
        } else if context.is_stale(context.facts.keeper(), &reads) {
            Some("what it reads changed after it was started")
        } else {
            None
        };
        if let Some(why) = why {
            step.unit(KEEPER_UNIT, UnitAction::Restart, why);
        }
    }
    if !wanted.contains(&CHAOS_UNIT) {
        warn_of_a_lonely_rule(context, step);
    }
    Ok(())
}

/// A block put the rule of CHAOS there, and the unit that would take it away does not run.
fn warn_of_a_lonely_rule(context: &Context, step: &mut Step) {
    let runs = state_of(context, CHAOS_UNIT).active == "active";
    if !runs && RuleList::read(context.host, false).chaos_rules() > 0 {
        let iptables = iptables(false);
        step.warn(format!(
            "the firewall has a rule of CHAOS, to which nothing comes any more: {iptables} -D {CHAOS_RULE}"
        ));
    }
}

/// Whether whom our own sets block is free once this is done: iptables blocks from then on.
pub fn ends_blocks(plan: &Plan) -> bool {
    plan.files().iter().any(|file| file.path == Path::new(BLOCKS) && file.after.is_none())
}

/// Plans that whoever keeps the blocks stops where they end: only then can they be forgotten.
pub fn give_up(context: &Context, step: &mut Step) {
    if built_in(context).is_some() || !context.host.exists(BLOCKS) {
        return;
    }
    let blocked = if context.host.is_live() { blocks::look().map_or(0, |listed| listed.len()) } else { 0 };
    if blocked > 0 {
        let hosts = if blocked == 1 { "one host is".to_owned() } else { format!("{blocked} hosts are") };
        step.info(format!("{hosts} blocked by portsentry or by hand: freed, and forgotten"));
    }
    let watches = context.package().map_or(&[][..], Generation::units);
    for unit in watches.iter().copied().chain([EMBEDDED_UNIT, KEEPER_UNIT]) {
        if matches!(state_of(context, unit).active.as_str(), "active" | "activating") {
            step.unit(unit, UnitAction::Stop, "what it blocked ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Change, FileChange};

    #[test]
    fn blocks_end_where_rules_of_iptables_block_and_nowhere_else() {
        let ends = |path: &str, before: Option<&str>, after: Option<&str>| {
            let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
            let mut step = Step::new("blocking", "Blocking", "");
            step.changes.push(Change::File(FileChange {
                path: path.into(),
                before: bytes(before),
                after: bytes(after),
                mode: 0o644,
                kind: FileKind::Whole,
                why: String::new(),
                follows_link_to: None,
            }));
            ends_blocks(&Plan { steps: vec![step] })
        };
        assert!(ends(BLOCKS, Some("[Unit]\n"), None));
        assert!(!ends(BLOCKS, None, Some("[Unit]\n")));
        assert!(!ends(KEEPER, Some("[Unit]\n"), None), "the embedded one takes over");
    }
}
