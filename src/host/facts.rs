//! What kind of Debian this is, read once at the start.

use anyhow::{Result, bail};
use debversion::Version;

use crate::syntax::Dialect;

use super::{ChaosSupport, Firewall, Host, Network, Packages, Process, ServiceManager, Units};

/// How a portsentry is configured and started. Of Debian's package: decided by its version, never by files or by the
/// release's name (trap 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// 1.2 with a sysv script that reads /etc/default/portsentry (Debian 11, 12).
    SysvModes,
    /// 1.2 with one unit a mode, `portsentry@MODE` (from 1.2-15 on: Debian 13).
    UnitModes,
    /// 2.0: one process, no modes (Debian 14).
    OneProcess,
    /// The one built into this program. It reads what 2.0 reads, at places of its own, so that the package's conffiles
    /// stay the package's.
    Embedded,
}

/// What runs the built-in portsentry.
pub const EMBEDDED_UNIT: &str = "harden-portsentry.service";
/// Has the kernel block whom the ledger says before the network is up, and frees them as it is stopped.
pub const BLOCKS_UNIT: &str = "harden-portsentry-blocks.service";
/// Keeps whom Debian's portsentry has blocked.
pub const KEEPER_UNIT: &str = "harden-portsentry-keeper.service";
/// The unit that has iptables answer blocked hosts with CHAOS.
pub const CHAOS_UNIT: &str = "harden-portsentry-chaos.service";
/// Where the built-in portsentry has done what it has no right to do, and names looked up.
pub const RESPONDER_SOCKETS: [&str; 2] = ["harden-portsentry-responder.socket", "harden-portsentry-names.socket"];

impl Generation {
    /// The generation of a Debian package version such as `1.2-14+b1`.
    ///
    /// # Errors
    /// No version, or one of a generation that nobody has seen yet.
    pub fn of(version: &str) -> Result<Generation> {
        let Ok(found) = version.parse::<Version>() else {
            bail!("portsentry's version `{version}` is none that dpkg knows")
        };
        let from = |text: &str| text.parse::<Version>().is_ok_and(|first| found >= first);
        if from("3~") {
            bail!("portsentry {version} is newer than this program knows (1.2 and 2.0); nothing was changed");
        }
        Ok(if from("2~") {
            Generation::OneProcess
        } else if from("1.2-15~") {
            Generation::UnitModes
        } else {
            Generation::SysvModes
        })
    }

    /// The units that run it when it is configured as the article wants.
    pub fn units(self) -> &'static [&'static str] {
        match self {
            Generation::UnitModes => &["portsentry@atcp.service", "portsentry@audp.service"],
            Generation::SysvModes | Generation::OneProcess => &["portsentry.service"],
            Generation::Embedded => &[EMBEDDED_UNIT],
        }
    }

    /// Its configuration.
    pub fn conf(self) -> &'static str {
        match self {
            Generation::Embedded => "/etc/harden-portsentry/portsentry.conf",
            _ => "/etc/portsentry/portsentry.conf",
        }
    }

    /// How its daemon reads its files.
    pub fn dialect(self) -> Dialect {
        if self.is_1_2() { Dialect::V1 } else { Dialect::V2 }
    }

    /// Where its daemon writes the hosts that it caught, as this program configures it.
    pub fn history(self) -> &'static str {
        match self {
            Generation::SysvModes | Generation::UnitModes => "/var/lib/portsentry/portsentry.history",
            Generation::OneProcess => "/var/log/portsentry.log",
            // In a directory of its own, for it is not root.
            Generation::Embedded => "/var/log/harden-portsentry/portsentry.log",
        }
    }

    /// The file that an administrator edits to name hosts that are never blocked.
    pub fn ignore_list(self) -> &'static str {
        if self.is_1_2() { "/etc/portsentry/portsentry.ignore.static" } else { self.daemons_ignore_list() }
    }

    /// The list that its daemon reads: the same, but for 1.2, whose package builds it from that one at each start.
    pub fn daemons_ignore_list(self) -> &'static str {
        match self {
            Generation::Embedded => "/etc/harden-portsentry/portsentry.ignore",
            _ => "/etc/portsentry/portsentry.ignore",
        }
    }

    /// Where its daemon notes whom it blocked, as this program configures it; 1.2 has a file a mode, at a fixed place.
    ///
    /// 2.0 keeps it over restarts and never blocks again what stands in it (trap 18), stock in /tmp, where it follows
    /// anybody's link (trap 22). Below /run it goes with the rules that it is about.
    pub fn blocked_file(self) -> Option<&'static str> {
        match self {
            Generation::SysvModes | Generation::UnitModes => None,
            Generation::OneProcess => Some("/run/portsentry/portsentry.blocked"),
            Generation::Embedded => Some("/run/harden-portsentry/portsentry.blocked"),
        }
    }

    /// Whether it is 1.2: modes, a process for each, an ignore list that is built.
    pub fn is_1_2(self) -> bool {
        matches!(self, Generation::SysvModes | Generation::UnitModes)
    }

    /// Whether it sees IPv6 (trap 29), and scans that the firewall drops (trap 11).
    pub fn sees_ipv6(self) -> bool {
        !self.is_1_2()
    }
}

/// /etc/os-release, as far as it is shown.
#[derive(Debug, Clone, Default)]
pub struct Release {
    pub id: String,
    pub like: String,
    pub name: String,
}

/// What this host is, read once; what costs a process is asked for by those who need it.
#[derive(Debug, Clone)]
pub struct Facts {
    pub release: Release,
    pub packages: Packages,
    pub manager: ServiceManager,
    pub units: Units,
    pub processes: Vec<Process>,
    pub network: Network,
    pub firewall: Firewall,
    pub chaos: ChaosSupport,
}

/// The packages that any decision looks at.
const PACKAGES: [&str; 10] = [
    "portsentry",
    "fail2ban",
    "iptables",
    "nftables",
    "tcpd",
    "python3-systemd",
    "rsyslog",
    "xtables-addons-common",
    "xtables-addons-dkms",
    "harden-portsentry",
];

const UNITS: [&str; 12] = [
    "portsentry.service",
    "portsentry@atcp.service",
    "portsentry@audp.service",
    "portsentry@tcp.service",
    "portsentry@udp.service",
    "fail2ban.service",
    EMBEDDED_UNIT,
    BLOCKS_UNIT,
    KEEPER_UNIT,
    CHAOS_UNIT,
    RESPONDER_SOCKETS[0],
    RESPONDER_SOCKETS[1],
];

impl Facts {
    /// Reads them all off `host`.
    ///
    /// # Errors
    /// It is no Debian, or dpkg or systemctl cannot be asked.
    pub fn read(host: &Host) -> Result<Facts> {
        let release = Release::read(host)?;
        let packages = Packages::ask(host, &PACKAGES)?;
        let manager = host.service_manager();
        let units = host.units(&manager, &UNITS)?;
        let processes = if host.is_live() { Facts::processes_now() } else { Vec::new() };
        Ok(Facts {
            release,
            packages,
            manager,
            units,
            processes,
            // Where the kernel does not tell, as in some containers, what files say is all there is.
            network: Network::read(host).unwrap_or_else(|_| Network::in_files(host)),
            firewall: Firewall::read(host),
            chaos: ChaosSupport::probe(host),
        })
    }

    /// The processes that any decision looks at; of this program those that watch, not the one that asks.
    pub fn processes_now() -> Vec<Process> {
        let mut found = Process::named(&["portsentry", "fail2ban-server", "harden-portsentry"]);
        found.retain(|process| process.program() != "harden-portsentry" || is_embedded(process) || is_keeper(process));
        found
    }

    /// The running processes of Debian's portsentry.
    pub fn portsentries(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.program() == "portsentry")
    }

    /// The running processes of the built-in portsentry.
    pub fn embedded(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| is_embedded(process))
    }

    /// The process that keeps the blocks of Debian's portsentry.
    pub fn keeper(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| is_keeper(process))
    }

    /// The running processes of the portsentry of this generation.
    pub fn daemons(&self, generation: Generation) -> impl Iterator<Item = &Process> {
        let embedded = generation == Generation::Embedded;
        self.processes
            .iter()
            .filter(move |process| if embedded { is_embedded(process) } else { process.program() == "portsentry" })
    }

    /// The running fail2ban server.
    pub fn fail2ban(&self) -> Option<&Process> {
        self.processes.iter().find(|process| process.program() == "fail2ban-server")
    }
}

/// `harden-portsentry daemon …`.
fn is_embedded(process: &Process) -> bool {
    runs(process, "daemon")
}

/// `harden-portsentry keep`.
fn is_keeper(process: &Process) -> bool {
    runs(process, "keep")
}

fn runs(process: &Process, wanted: &str) -> bool {
    let command = process.words.iter().skip(1).find(|word| !word.starts_with('-'));
    process.program() == "harden-portsentry" && command.is_some_and(|word| word == wanted)
}

impl Release {
    fn read(host: &Host) -> Result<Release> {
        let Some(text) = host.text("/etc/os-release").or_else(|| host.text("/usr/lib/os-release")) else {
            bail!("{} has no /etc/os-release, so it is no Debian that this program knows", host.root().display());
        };
        let get = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let release = Release { id: get("ID"), like: get("ID_LIKE"), name: get("PRETTY_NAME") };
        let debian = release.id == "debian" || release.like.split_whitespace().any(|id| id == "debian");
        if !debian || !host.exists("/var/lib/dpkg/status") {
            bail!(
                "this is {}, and this program knows only Debian and what is made from it (dpkg, apt)",
                release.shown()
            );
        }
        Ok(release)
    }

    /// The name in few words: `Debian 12`.
    pub fn shown(&self) -> String {
        let name = if self.name.is_empty() { &self.id } else { &self.name };
        name.split('(').next().unwrap_or(name).trim().replace("GNU/Linux ", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_version_decides_the_generation() {
        let cases = [
            ("1.2-14", Generation::SysvModes),
            ("1.2-14+b1", Generation::SysvModes),
            ("1.2-15", Generation::UnitModes),
            ("1.2-16", Generation::UnitModes),
            ("2.0~rc1-1", Generation::OneProcess),
            ("2.0.7-1", Generation::OneProcess),
        ];
        for (version, generation) in cases {
            assert_eq!(Generation::of(version).unwrap(), generation, "{version}");
        }
        assert!(Generation::of("3.0-1").is_err());
    }

    #[test]
    fn whoever_asks_is_not_taken_for_the_one_that_watches() {
        let process = |line: &str| {
            let words = line.split(' ').map(str::to_owned).collect();
            Process { pid: 1, words, started: 0.0 }
        };
        let conf = Generation::Embedded.conf();
        assert!(is_embedded(&process(&format!("/usr/local/sbin/harden-portsentry daemon -c {conf}"))));
        for other in ["harden-portsentry verify", "harden-portsentry -q apply --yes", "/usr/sbin/portsentry daemon"] {
            assert!(!is_embedded(&process(other)), "{other}");
        }
    }
}
