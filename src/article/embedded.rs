//! What the built-in portsentry has of its own: a configuration, an ignore list, a unit. All of it goes when Debian's
//! package takes over again.

use std::path::Path;

use anyhow::{Context as _, Result};
use askama::Template;

use crate::blocks::{self, Answer, TABLE};
use crate::daemon::responder;
use crate::host::{CHAOS_RULE, EMBEDDED_UNIT, EMBEDDED_USER, Generation, Host, SYSUSERS, iptables};
use crate::plan::{Content, Draft, FileKind, Plan, Step, UnitAction};
use crate::settings::POLICY;
use crate::syntax::address_list::AddressList;
use crate::syntax::portsentry_conf::PortsentryConf;

use super::blocking::{built_in, chaos_command};
use super::{Context, OURS, in_file, remove_ours, variables};

/// What portsentry.conf begins as; its keys are set like those of a package's.
pub const CONF: &[u8] = include_bytes!("../../templates/portsentry.conf");
/// What the ignore list begins as.
pub const IGNORE_LIST: &[u8] = include_bytes!("../../templates/portsentry.ignore");

const UNIT: &str = "/etc/systemd/system/harden-portsentry.service";
/// Has the kernel block again whom the ledger says, at boot.
const BLOCKS: &str = "/etc/systemd/system/harden-portsentry-blocks.service";
/// Keep the units of Debian's package, which starts them as it is installed, from watching as well.
const PACKAGE_WAITS: [&str; 2] = [
    "/etc/systemd/system/portsentry.service.d/harden-portsentry-embedded.conf",
    "/etc/systemd/system/portsentry@.service.d/harden-portsentry-embedded.conf",
];
/// Has iptables answer them with CHAOS.
const CHAOS: &str = "/etc/systemd/system/harden-portsentry-chaos.service";
const RESPONDER_SOCKET: &str = "/etc/systemd/system/harden-portsentry-responder.socket";
const RESPONDER: &str = "/etc/systemd/system/harden-portsentry-responder@.service";
const NAMES_SOCKET: &str = "/etc/systemd/system/harden-portsentry-names.socket";
const NAMES: &str = "/etc/systemd/system/harden-portsentry-names@.service";
/// nftables.service begins by flushing every table, and the one that picks the packets with them.
const DROP_IN: &str = "/etc/systemd/system/nftables.service.d/harden-portsentry-table.conf";

const LOGROTATE: &str = "/etc/logrotate.d/harden-portsentry";

#[derive(Template)]
#[template(path = "harden-portsentry.service", escape = "none")]
struct Service<'a> {
    program: &'a str,
    conf: &'a str,
    user: &'a str,
}

/// Where the watcher asks for what takes more rights than it has.
#[derive(Template)]
#[template(path = "harden-portsentry-responder.socket", escape = "none", ext = "txt")]
struct ResponderSocket<'a> {
    socket: &'a str,
    user: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-responder.service", escape = "none")]
struct ResponderService<'a> {
    program: &'a str,
    conf: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-names.socket", escape = "none", ext = "txt")]
struct NamesSocket<'a> {
    socket: &'a str,
    user: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-names.service", escape = "none")]
struct NamesService<'a> {
    program: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-blocks.service", escape = "none")]
struct BlocksService<'a> {
    program: &'a str,
    table: &'a str,
}

#[derive(Template)]
#[template(path = "harden-portsentry-chaos.service", escape = "none")]
struct ChaosService<'a> {
    insert: &'a str,
    delete: &'a str,
}

/// Whether an earlier apply set it up: its unit is there, which undo and the change to Debian's package take away, or
/// is to be started at boot though its file was lost.
pub fn is_set_up(host: &Host) -> bool {
    host.text(UNIT).is_some_and(|text| text.as_bytes().starts_with(OURS))
        || host.link(&host.wants_link(EMBEDDED_UNIT).path).is_some()
}

/// What it reads at its start, the program itself included.
pub fn reads(context: &Context) -> Vec<&'static str> {
    let own = Generation::Embedded;
    vec![own.conf(), own.ignore_list(), POLICY, UNIT, variables::place(context)]
}

/// Warns of what it has to read, or to go through, and cannot: it is not root.
pub fn warn_of_unreadable(context: &Context, step: &mut Step) {
    let own = Generation::Embedded;
    let directories = ["/etc/harden-portsentry", "/var/lib/harden-portsentry"];
    let closed = context.host.unreadable_by(EMBEDDED_USER, &directories);
    for path in &closed {
        step.warn(format!(
            "{path} is closed to the user {EMBEDDED_USER}, who watches, and what it needs is in there: chmod o+x {path}"
        ));
    }
    if closed.is_empty() {
        for path in context.host.unreadable_by(EMBEDDED_USER, &[own.conf(), own.ignore_list(), POLICY]) {
            step.warn(format!(
                "{path} cannot be read by the user {EMBEDDED_USER}, who watches: chmod o+r {path}, \
                 or, once there is that user, setfacl -m u:{EMBEDDED_USER}:r {path}"
            ));
        }
    }
}

/// Plans its unit.
pub fn put_unit(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    let (program, conf) = (variables::place(context), Generation::Embedded.conf());
    let mut unit = |path: &str, text: askama::Result<String>, why: &str| -> Result<()> {
        let mut text = text.context("cannot fill a template")?;
        text.push('\n'); // askama drops the last one
        step.file(draft.put(Path::new(path), text.as_bytes(), 0o644, FileKind::Whole, why)?);
        Ok(())
    };
    let watcher = Service { program, conf, user: EMBEDDED_USER };
    unit(UNIT, watcher.render(), "runs the portsentry built into this program, as a user that may do nothing else")?;
    let socket = ResponderSocket { socket: responder::COMMANDS_SOCKET, user: EMBEDDED_USER };
    unit(RESPONDER_SOCKET, socket.render(), "commands are another process's, which it asks here")?;
    let responder = ResponderService { program, conf };
    unit(RESPONDER, responder.render(), "that process, started when it is asked")?;
    let socket = NamesSocket { socket: responder::NAMES_SOCKET, user: EMBEDDED_USER };
    unit(NAMES_SOCKET, socket.render(), "names are looked up by a process without rights, which it asks here")?;
    unit(NAMES, NamesService { program }.render(), "that process, started when it is asked")?;
    let blocks = BlocksService { program, table: TABLE };
    unit(BLOCKS, blocks.render(), "whoever was blocked is so again before the network is up")?;
    if built_in(context) == Some(Answer::Chaos) {
        let delete = format!("{} -w -D {CHAOS_RULE}", iptables(false));
        let chaos = ChaosService { insert: &chaos_command(), delete: &delete };
        unit(CHAOS, chaos.render(), "whoever is blocked is answered by CHAOS, by one rule for all")?;
    }
    let text = include_bytes!("../../templates/harden-portsentry.sysusers");
    step.file(draft.put(Path::new(SYSUSERS), text, 0o644, FileKind::Whole, "the user, made as the unit starts")?);
    let text = include_bytes!("../../templates/portsentry-embedded.conf");
    for path in PACKAGE_WAITS {
        let why = "Debian's portsentry, should it come, starts no second watch";
        step.file(draft.put(Path::new(path), text, 0o644, FileKind::Whole, why)?);
    }
    let text = include_bytes!("../../templates/nftables-embedded.conf");
    let why = "it flushes the table of blocked hosts";
    step.file(draft.put(Path::new(DROP_IN), text, 0o644, FileKind::Whole, why)?);
    let text = include_bytes!("../../templates/logrotate-embedded.conf");
    let why = "its history does not grow for ever";
    step.file(draft.put(Path::new(LOGROTATE), text, 0o644, FileKind::Whole, why)?);
    Ok(())
}

/// Whether whom it blocked is free once this is done: another portsentry blocks from then on, or iptables does.
pub fn ends_blocks(plan: &Plan) -> bool {
    plan.files().iter().any(|file| {
        let gives_up = || blocks_by_itself(file.before.as_deref()) && !blocks_by_itself(file.after.as_deref());
        file.path == Path::new(BLOCKS) && file.after.is_none()
            || file.path == Path::new(Generation::Embedded.conf()) && gives_up()
    })
}

/// Whether a portsentry.conf asks for the built-in response.
fn blocks_by_itself(conf: Option<&[u8]>) -> bool {
    let conf = conf.and_then(|bytes| PortsentryConf::parse(bytes).ok());
    conf.is_some_and(|conf| conf.get("KILL_NFT", Generation::Embedded.dialect()).is_some())
}

/// Plans that it stops where it is going to have iptables block: what it blocked by itself ends, and only once it does not
/// run can that be forgotten.
pub fn give_up_blocking(context: &Context, draft: &Draft, step: &mut Step) -> Result<()> {
    let conf = Path::new(Generation::Embedded.conf());
    let before = context.host.read(conf)?.map(|state| state.bytes);
    let after = match draft.content(conf)? {
        Content::Bytes(bytes) => Some(bytes),
        Content::Absent | Content::Unknown => None,
    };
    if blocks_by_itself(before.as_deref()) && !blocks_by_itself(after.as_deref()) {
        tell_who_is_freed(context, step);
        let state = context.facts.units.get(EMBEDDED_UNIT);
        if state.is_some_and(|state| state.active == "active" || state.active == "activating") {
            step.unit(EMBEDDED_UNIT, UnitAction::Stop, "what it blocked by itself ends");
        }
    }
    Ok(())
}

fn tell_who_is_freed(context: &Context, step: &mut Step) {
    let blocked = if context.host.is_live() { blocks::look().map_or(0, |listed| listed.len()) } else { 0 };
    if blocked > 0 {
        let hosts = if blocked == 1 { "one host is".to_owned() } else { format!("{blocked} hosts are") };
        step.info(format!("{hosts} blocked by the embedded portsentry or by hand: freed, and forgotten"));
    }
}

/// Plans that the rule of CHAOS and its unit go, where something else answers.
pub fn remove_chaos(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    if built_in(context) == Some(Answer::Chaos) {
        return Ok(());
    }
    remove_ours(draft, CHAOS, "CHAOS answers nobody any more", step)
}

/// Whether its user goes.
pub fn leaves(plan: &Plan) -> bool {
    plan.files().iter().any(|file| file.path == Path::new(SYSUSERS) && file.after.is_none())
}

/// Plans that all of it goes, but for what others wrote into the ignore list.
pub fn remove(context: &Context, draft: &mut Draft, step: &mut Step) -> Result<()> {
    if context.host.exists(BLOCKS) {
        tell_who_is_freed(context, step);
    }
    let why = format!("it is for {EMBEDDED_UNIT}, and Debian's portsentry watches instead");
    let units = [UNIT, BLOCKS, CHAOS, RESPONDER_SOCKET, RESPONDER, NAMES_SOCKET, NAMES];
    let own = units.into_iter().chain([SYSUSERS, DROP_IN, LOGROTATE, Generation::Embedded.conf()]);
    for path in own.chain(PACKAGE_WAITS) {
        remove_ours(draft, path, &why, step)?;
    }
    let path = Generation::Embedded.ignore_list();
    if let Content::Bytes(bytes) = draft.content(Path::new(path))? {
        let mut list = AddressList::parse(&bytes);
        list.set_marked(&[]).map_err(|error| in_file(path, error))?;
        let left = list.to_bytes();
        step.file(if left == IGNORE_LIST {
            draft.remove(Path::new(path), &why)?
        } else {
            draft.put(Path::new(path), &left, 0o644, FileKind::AddressList, &why)?
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Change, FileChange};

    #[test]
    fn blocks_end_where_it_gives_up_blocking_and_nowhere_else() {
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
        let (conf, nft, chaos) = (Generation::Embedded.conf(), "KILL_NFT=\"drop\"\n", "KILL_ROUTE=\"iptables\"\n");
        assert!(ends(conf, Some(nft), Some(chaos)) && ends(conf, Some(nft), None), "chaos, or another engine");
        assert!(ends(BLOCKS, Some("[Unit]\n"), None));
        assert!(
            !ends(conf, Some(chaos), Some(nft)) && !ends(conf, None, Some(nft)) && !ends(conf, Some(nft), Some(nft))
        );
        assert!(!ends(UNIT, Some("[Unit]\n"), Some("[Service]\n")) && !ends(BLOCKS, None, Some("[Unit]\n")));
    }
}
