//! What the built-in portsentry has of its own: a configuration, an ignore list, a unit. All of it goes when Debian's
//! package takes over again.

use std::path::Path;

use anyhow::{Context as _, Result};
use askama::Template;

use crate::blocks::TABLE;
use crate::daemon::responder;
use crate::host::{EMBEDDED_UNIT, EMBEDDED_USER, Generation, Host, SYSUSERS};
use crate::plan::{Content, Draft, FileKind, Step};
use crate::settings::POLICY;
use crate::syntax::address_list::AddressList;

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
const RESPONDER_SOCKET: &str = "/etc/systemd/system/harden-portsentry-responder.socket";
const RESPONDER: &str = "/etc/systemd/system/harden-portsentry-responder@.service";
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
#[template(path = "harden-portsentry-blocks.service", escape = "none")]
struct BlocksService<'a> {
    program: &'a str,
    table: &'a str,
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

/// What it reads of these and may not be able to: it is not root.
pub fn unreadable(context: &Context) -> Vec<&'static str> {
    let own = Generation::Embedded;
    let mut paths = vec![own.conf(), own.ignore_list(), POLICY];
    paths.retain(|path| {
        let state = context.host.read(Path::new(path)).ok().flatten();
        // A mask of an ACL stands where the group's bits do.
        state.is_some_and(|state| state.mode & 0o004 == 0)
    });
    paths
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
    let socket = ResponderSocket { socket: responder::SOCKET, user: EMBEDDED_USER };
    unit(RESPONDER_SOCKET, socket.render(), "commands and names are another process's, which it asks here")?;
    let responder = ResponderService { program, conf };
    unit(RESPONDER, responder.render(), "that process, started when it is asked")?;
    let blocks = BlocksService { program, table: TABLE };
    unit(BLOCKS, blocks.render(), "whoever was blocked is so again before the network is up")?;
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

/// Plans that all of it goes, but for what others wrote into the ignore list.
pub fn remove(draft: &mut Draft, step: &mut Step) -> Result<()> {
    let why = format!("it is for {EMBEDDED_UNIT}, and Debian's portsentry watches instead");
    let own = [UNIT, BLOCKS, RESPONDER_SOCKET, RESPONDER, SYSUSERS, DROP_IN, LOGROTATE, Generation::Embedded.conf()];
    for path in own.into_iter().chain(PACKAGE_WAITS) {
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
