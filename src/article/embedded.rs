//! What the built-in portsentry has of its own: a configuration, an ignore list, a unit. All of it goes when Debian's
//! package takes over again.

use std::path::Path;

use anyhow::Result;
use askama::Template;

use crate::daemon::responder;
use crate::host::{EMBEDDED_UNIT, EMBEDDED_USER, Generation, Host, SYSUSERS};
use crate::plan::{Content, Draft, FileKind, Plan, Step};
use crate::settings::POLICY;
use crate::syntax::address_list::AddressList;

use super::{Context, OURS, filled, in_file, remove_ours, variables};

/// What portsentry.conf begins as; its keys are set like those of a package's.
pub const CONF: &[u8] = include_bytes!("../../templates/portsentry.conf");
/// What the ignore list begins as.
pub const IGNORE_LIST: &[u8] = include_bytes!("../../templates/portsentry.ignore");

const UNIT: &str = "/etc/systemd/system/harden-portsentry.service";
/// Keep the units of Debian's package, which starts them as it is installed, from watching as well.
const PACKAGE_WAITS: [&str; 2] = [
    "/etc/systemd/system/portsentry.service.d/harden-portsentry-embedded.conf",
    "/etc/systemd/system/portsentry@.service.d/harden-portsentry-embedded.conf",
];
const RESPONDER_SOCKET: &str = "/etc/systemd/system/harden-portsentry-responder.socket";
const RESPONDER: &str = "/etc/systemd/system/harden-portsentry-responder@.service";
const NAMES_SOCKET: &str = "/etc/systemd/system/harden-portsentry-names.socket";
const NAMES: &str = "/etc/systemd/system/harden-portsentry-names@.service";
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
    let mut unit = |path: &str, text: Result<String>, why: &str| -> Result<()> {
        step.file(draft.put(Path::new(path), text?.as_bytes(), 0o644, FileKind::Whole, why)?);
        Ok(())
    };
    let watcher = Service { program, conf, user: EMBEDDED_USER };
    unit(UNIT, filled(&watcher), "runs the portsentry built into this program, as a user that may do nothing else")?;
    let socket = ResponderSocket { socket: responder::COMMANDS_SOCKET, user: EMBEDDED_USER };
    unit(RESPONDER_SOCKET, filled(&socket), "commands are another process's, which it asks here")?;
    let responder = ResponderService { program, conf };
    unit(RESPONDER, filled(&responder), "that process, started when it is asked")?;
    let socket = NamesSocket { socket: responder::NAMES_SOCKET, user: EMBEDDED_USER };
    unit(NAMES_SOCKET, filled(&socket), "names are looked up by a process without rights, which it asks here")?;
    unit(NAMES, filled(&NamesService { program }), "that process, started when it is asked")?;
    let text = include_bytes!("../../templates/harden-portsentry.sysusers");
    step.file(draft.put(Path::new(SYSUSERS), text, 0o644, FileKind::Whole, "the user, made as the unit starts")?);
    let text = include_bytes!("../../templates/portsentry-embedded.conf");
    for path in PACKAGE_WAITS {
        let why = "Debian's portsentry, should it come, starts no second watch";
        step.file(draft.put(Path::new(path), text, 0o644, FileKind::Whole, why)?);
    }
    let text = include_bytes!("../../templates/logrotate-embedded.conf");
    let why = "its history does not grow for ever";
    step.file(draft.put(Path::new(LOGROTATE), text, 0o644, FileKind::Whole, why)?);
    Ok(())
}

/// Whether its user goes.
pub fn leaves(plan: &Plan) -> bool {
    plan.files().iter().any(|file| file.path == Path::new(SYSUSERS) && file.after.is_none())
}

/// Plans that all of it goes, but for what others wrote into the ignore list.
pub fn remove(draft: &mut Draft, step: &mut Step) -> Result<()> {
    let why = format!("it is for {EMBEDDED_UNIT}, and Debian's portsentry watches instead");
    let units = [UNIT, RESPONDER_SOCKET, RESPONDER, NAMES_SOCKET, NAMES];
    let own = units.into_iter().chain([SYSUSERS, LOGROTATE, Generation::Embedded.conf()]);
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
