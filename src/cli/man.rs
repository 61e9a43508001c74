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

const DEVIATIONS: &str = r#".SH KEYS OF ITS OWN
SCAN_PORTS (0 to 64; 1 if not said): a source is reacted to once it has asked for so many different ports, of TCP and UDP
alike, within SCAN_WINDOW seconds (1 to 86400; 600 if not said), and not before the hit that SCAN_TRIGGER asks for. A client
that asks for one port again and again is no scanner then. Each of 1.2's modes counts its own protocol. 1.2 passes over
these keys, and 2.0.7 does not start with them.
.SH DEVIATIONS
What the command line decides: a mode of 1.2 reads the configuration, writes the lines and keeps the blocked file as 1.2
does, anything else as 2.0. Keys of both are understood by either; with ADVANCED_PORTS_* in the configuration 2.0's command
line watches these ports. Otherwise than the originals:
.IP \(bu 2
A source's first probe of a port and kind is told, and whatever changes; repeats within ten minutes are not, but counted,
and their number is told every hour and at the end.
.IP \(bu 2
ACK and Maimon scans are told, from the third port of a source on: one or two such packets are what a dead connection sends.
IPv6 is seen by 1.2's modes, too, and so are scans behind a firewall that drops. Other packets with ACK, or with RST, only
answer or carry on a connection and are not looked at. Neither is what is not for this host itself, which is forwarded,
redirected to another machine, broadcast or multicast, or was dropped before it came to the input hook.
.IP \(bu 2
Packets for a service never reach the daemon: no line says that they were passed over. Nor do those for a TCP port from
which a service answered within a day, and for any port from which something else was sent within ten minutes: clients of a
service that was stopped are no scanners. A start of the daemon forgets that, a reload does not.
.IP \(bu 2
What this host sends to itself has no line without \-L; 2.0.7 tells it as ignored. \-S is an option of its own, and a word
that is no option is refused.
.IP \(bu 2
\-audp keeps to ADVANCED_PORTS_UDP; 1.2 watches every UDP port, whatever that says.
.IP \(bu 2
A command that fails is told as failed, with blocked: [false], and tried again at the next probe. One that takes longer than
30 seconds is killed, and has failed. Neither holds up detection. Told to end, the daemon gives a command two seconds.
.IP \(bu 2
IPv6 addresses get the brackets in hosts.deny that TCP wrappers need, and a line comes once.
.IP \(bu 2
RESOLVE_HOST: the block comes before the name, which is waited for two seconds; 1.2 waits for it first, and 2.0.7 asks
nobody. A name loses what is no letter, digit, dot, dash or underscore, and one that reads as an address is not taken.
.IP \(bu 2
The history of an earlier run is kept; 2.0.7 empties it at each start.
.IP \(bu 2
SIGHUP reads the configuration again, all keys but RESOLVE_HOST; who is blocked, hits, and what was told already stay. It
ends 2.0.7, and 1.2 does not hear it. A configuration that cannot be understood is refused with file and line, and the old
one goes on. An unknown key is named with what was probably meant; 2.0's command line refuses it.
.IP \(bu 2
A history or blocked file that was moved away is made anew, at SIGHUP or at the next line. With logrotate's copytruncate the
lines that are written between its copy and its cut are lost, as of any program.
.IP \(bu 2
With \-D, and in 1.2's modes, the command ends once the daemon watches, or with 1 and the reason where it cannot. A second
daemon of the same mode in the same network is refused.
.SH BOUNDS
What a flood, forged or not, can take of the host:
.IP \(bu 2
One source has 4,096 lines in 10 minutes at most. Sources that have asked once, of which anyone can forge as many as he
likes, have 250,000 lines at once and 10 a second in the long run; a source that asks again has all of its lines, the first
among them. How many are left out is told every hour and at the end.
.IP \(bu 2
65,536 sources are remembered with their hits; the one that was heard of longest ago is forgotten first. Who is blocked is
never forgotten.
.IP \(bu 2
The kernel keeps 131,072 triples of source, port and kind of either protocol and family. Is there no room left, it hands up
every packet of a new one, and the daemon says so.
.IP \(bu 2
Packets wait in a socket of 16 MiB. What does not fit is lost; the daemon says so, and whatever was lost is seen when it
comes again.
.IP \(bu 2
8,192 hosts wait to be blocked at most; any more are told as not blocked, and tried again. 1,024 wait for their names; any
more are told without. Lines wait in 32 MiB of memory; any more are counted, and their number is told.
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
