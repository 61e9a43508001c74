//! The man pages, from the same place as the help.

use std::path::Path;

use anyhow::{Context, Result};
use askama::Template;

use super::daemon::USAGE;
use super::{Exit, command};

const FILES: &str = r#".SH FILES
.TP
/root/config.env
LAN_IF, LAN_IP, LAN_NM and LAN_GW, as shell assignments; read, never executed.
.TP
/etc/harden\-portsentry/policy.toml
Everything else; see docs/policy.md.
.TP
/etc/harden\-portsentry/blocks.conf
What whoever Debian's portsentry catches meets, and who is never blocked; written by apply.
.TP
/var/lib/harden\-portsentry/runs/
A directory an apply, with its journal and the originals of what it changed.
.TP
/var/lib/harden\-portsentry/confirm/
While an apply waits to be confirmed: the program that takes it back, for harden\-portsentry\-confirm.service.
.TP
/var/lib/harden\-portsentry/blocks/ledger
Who is blocked until when, by either portsentry, by hand or by fail2ban; for `blocked` to read.
.TP
/var/lib/harden\-portsentry/denied
Who is blocked now, an address a line, for TCP wrappers: /etc/hosts.deny names it.
.TP
/run/harden\-portsentry/control
The socket by which block, unblock, blocked and restore ask the daemon, or the keeper, that runs.
.SH SEE ALSO
.BR harden\-portsentry\-daemon (8),
.BR portsentry (8),
.BR fail2ban (1),
.BR hosts_access (5),
.BR iptables (8)
"#;

/// The daemon has portsentry's options, of which clap knows nothing.
#[derive(Template)]
#[template(path = "harden-portsentry-daemon.8", escape = "none", ext = "txt")]
struct DaemonPage<'a> {
    usage: &'a str,
}

fn daemon_page() -> Result<String> {
    let usage = USAGE.replace('\\', "\\e").replace('-', "\\-");
    DaemonPage { usage: &usage }.render().context("cannot fill a template")
}

/// Writes `harden-portsentry.8` and one page a subcommand into `directory`.
pub fn run(directory: &Path) -> Result<Exit> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut whole = command().disable_help_subcommand(true);
    whole.build();
    let mut pages = vec![("harden-portsentry".to_owned(), whole.clone())];
    for sub in whole.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("harden-portsentry-{}", sub.get_name());
        pages.push((name, sub.clone()));
    }
    for (name, page) in pages {
        let mut text = Vec::new();
        let man = clap_mangen::Man::new(page).section("8").manual("harden-portsentry").date("");
        man.render(&mut text).context("cannot write a man page")?;
        // clap_mangen calls whatever stands after the help EXTRA; here it is the exit statuses.
        let text = String::from_utf8(text).context("a man page is text")?;
        let text = text.replace(".SH EXTRA\nExit status:\n", ".SH EXIT STATUS\n") + FILES;
        let text = if name == "harden-portsentry-daemon" { daemon_page()? } else { text };
        let path = directory.join(format!("{name}.8"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Good)
}
