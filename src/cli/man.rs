//! The man pages, from the same place as the help.

use std::path::Path;

use anyhow::{Context, Result};

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
/var/lib/harden\-portsentry/runs/
A directory an apply, with its journal and the originals of what it changed.
.SH SEE ALSO
.BR portsentry (8),
.BR fail2ban (1),
.BR hosts_access (5),
.BR iptables (8)
"#;

/// The daemon's own usage, and where it does otherwise than portsentry, before the files.
fn options_of_portsentry() -> String {
    let escaped = USAGE.replace('\\', "\\e").replace('-', "\\-");
    format!(".SH PORTSENTRY'S OPTIONS\n.nf\n{escaped}\n.fi\n{DEVIATIONS}.SH FILES\n")
}

const DEVIATIONS: &str = r#".SH DEVIATIONS
What the command line decides: a mode of 1.2 reads the configuration, writes the lines and keeps the blocked file as 1.2
does, anything else as 2.0. Keys of both are understood by either; with ADVANCED_PORTS_* in the configuration 2.0's command
line watches these ports. Otherwise than the originals:
.IP \(bu 2
A source's first probe of a port and kind is told, and whatever changes; repeats within ten minutes are not. One source has
4096 lines in ten minutes at most.
.IP \(bu 2
ACK and Maimon scans are told, from the third port of a source on: one or two such packets are what a dead connection sends.
IPv6 is seen by 1.2's modes, too, and so are scans behind a firewall that drops.
.IP \(bu 2
Packets for a service, or for a port that one used within a day, never reach the daemon: no line says that they were passed
over.
.IP \(bu 2
A command that fails is told as failed, with blocked: [false], and tried again at the next probe. One that takes longer than
30 seconds is killed. Neither holds up detection.
.IP \(bu 2
IPv6 addresses get the brackets in hosts.deny that TCP wrappers need, and a line comes once.
.IP \(bu 2
A name from DNS loses what is no letter, digit, dot, dash or underscore, and is waited for two seconds.
.IP \(bu 2
SIGHUP reads the configuration again. An unknown key is named with what was probably meant; 2.0's command line refuses it.
.IP \(bu 2
SCAN_PORTS and SCAN_WINDOW are keys of its own: so many different ports within so many seconds (600) make a scanner.
"#;

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
        let text = if name == "harden-portsentry-daemon" {
            text.replace(".SH FILES\n", &options_of_portsentry())
        } else {
            text
        };
        let path = directory.join(format!("{name}.8"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Good)
}
