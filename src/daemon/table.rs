//! The kernel's table that picks the packets: templates/portsentry.nft, filled and loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use askama::Template;

use super::config::Config;
use super::invocation::{Interfaces, Invocation, Mode};
use super::ports::Ports;
use crate::host::{Again, Invocation as Command, KeptTable, Text};
use crate::kernel::{Gone, SNAPLEN, counted_packets, empty_sets, listening_ports};

/// How long a source, port and kind that was handed up is not handed up again.
pub const WINDOW_SECONDS: u64 = 600;
/// How long a port on which somebody listens counts as used: as long as the rules would remember an answer of its.
const USED_TCP: Duration = Duration::from_secs(86_400);
const USED_UDP: Duration = Duration::from_secs(600);
/// Elements that one set may hold. A full set is told, and costs a message a packet.
pub const SIZE: u32 = 131_072;
/// TCP's flags that are handed up: no ACK and no RST, which no connection sends in answer to nothing; and ACK and
/// FIN|ACK alone.
const KINDS: &str =
    "0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa, 0xb, 0x10, 0x11, 0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b";
/// What was handed up, and what was so often enough.
const SEEN: [&str; 4] = ["seen_tcp4", "seen_tcp6", "seen_udp4", "seen_udp6"];
/// The counter of what was not handed up.
pub const REPEATS: &str = "repeats";
const AGAIN: [&str; 4] = ["again_tcp4", "again_tcp6", "again_udp4", "again_udp6"];

/// As nftables writes it; a template of text that an administrator can read.
#[derive(Template)]
#[template(path = "portsentry.nft", escape = "none", ext = "txt")]
struct Ruleset<'a> {
    table: &'a str,
    /// What the rest of the text is, in one word.
    version: &'a str,
    /// In place of one that is watching, whose sets go on: the version of that.
    again: Option<&'a str>,
    /// Emptied then: a probe that repeats is counted as the new SCAN_TRIGGER wants it.
    again_sets: &'a [&'a str],
    interfaces: &'a str,
    loopback: bool,
    tcp_ports: &'a str,
    udp_ports: &'a str,
    listening_tcp: &'a str,
    listening_udp: &'a str,
    service_check: bool,
    kinds: &'a str,
    hits: u32,
    group: u16,
    snaplen: u32,
    window: &'a str,
    size: u32,
}

/// The table of one daemon.
pub struct Table(KeptTable);

impl Table {
    /// What `mode`'s table is called: daemons of different modes can run side by side.
    pub fn name(mode: Mode) -> String {
        match mode {
            Mode::Stealth | Mode::Connect => "harden_portsentry".to_owned(),
            other => format!("harden_portsentry_{}", other.name()),
        }
    }

    /// Loads it, in place of one that was left behind.
    ///
    /// # Errors
    /// nft is not installed, or the kernel refuses.
    pub fn load(invocation: &Invocation, config: &Config, group: u16) -> Result<Table> {
        let name = Table::name(invocation.mode);
        let mut table = Table(KeptTable::new(&name, "the table by which the kernel picks the packets"));
        table.load_with(invocation, config, group, None)?;
        Ok(table)
    }

    fn load_with(&mut self, invocation: &Invocation, config: &Config, group: u16, again: Option<&str>) -> Result<()> {
        let text = text(self.0.name(), invocation, config, group, again, &listening_ports())?;
        self.0.load(text)?;
        self.0.keep();
        Ok(())
    }

    /// The same for another configuration, without forgetting what was handed up and which ports were used. A packet that
    /// arrives meanwhile meets the old rules or the new ones.
    ///
    /// # Errors
    /// As [`Table::load`]; the old rules go on.
    pub fn change(&mut self, invocation: &Invocation, config: &Config, group: u16) -> Result<()> {
        let before = self.0.version().map(str::to_owned);
        self.load_with(invocation, config, group, before.as_deref())
    }

    /// Loads it again if somebody took it away, as whoever flushes the whole ruleset does, or took something out of it;
    /// whether that was so.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn restore(&mut self, gone: &Gone, invocation: &Invocation, config: &Config, group: u16) -> Result<bool> {
        if !gone.has(self.0.name()) {
            return Ok(false);
        }
        match self.load_again(config)? {
            Again::Loaded => Ok(true),
            Again::Whole => Ok(false),
            Again::Missing => self.load_with(invocation, config, group, None).map(|()| true),
        }
    }

    /// As it was, with the ports on which somebody listens now.
    fn load_again(&self, config: &Config) -> Result<Again> {
        let (tcp, udp) = listening_ports();
        let used = |watched: &Ports, listening: &BTreeSet<u16>| -> Vec<u16> {
            watched.iter().filter(|port| listening.contains(port)).collect()
        };
        let (tcp, udp) = (used(&config.tcp_ports, &tcp), used(&config.udp_ports, &udp));
        self.0.load_again(&[("used_tcp", &tcp, USED_TCP), ("used_udp", &udp, USED_UDP)])
    }

    /// How many packets were not handed up, for their like had been, since it was loaded; `None` where the kernel does not tell.
    pub fn repeats(&self) -> Option<u64> {
        counted_packets(self.0.name(), REPEATS).ok()
    }

    /// Forgets what was handed up, so that it is handed up again: some of it was lost on the way.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget(&self) -> Result<()> {
        empty_sets(self.0.name(), &[SEEN, AGAIN].concat())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = Command::new("nft", &["delete", "table", "inet", self.0.name()]).run();
    }
}

/// The text that would be loaded for `config` on all interfaces but loopback, where nobody listens.
///
/// # Errors
/// The template cannot be filled.
pub fn ruleset_for(mode: Mode, config: &Config) -> Result<String> {
    Ok(text(&Table::name(mode), &Invocation::new(mode), config, 0, None, &Listening::default())?.text)
}

/// TCP's and UDP's.
type Listening = (BTreeSet<u16>, BTreeSet<u16>);

fn text(
    name: &str,
    invocation: &Invocation,
    config: &Config,
    group: u16,
    again: Option<&str>,
    listening: &Listening,
) -> Result<Text> {
    let interfaces = match &invocation.interfaces {
        Interfaces::Named(names) => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
        Interfaces::All | Interfaces::AllButLoopback => String::new(),
    };
    // As long as the rules would remember an answer of theirs.
    let used = |watched: &Ports, listening: &BTreeSet<u16>, timeout: &str| {
        let both = watched.iter().filter(|port| listening.contains(port));
        both.map(|port| format!("{port}{timeout}")).collect::<Vec<_>>().join(", ")
    };
    let (tcp_ports, udp_ports) = (config.tcp_ports.to_string(), config.udp_ports.to_string());
    let listening_tcp = used(&config.tcp_ports, &listening.0, " timeout 1d");
    let listening_udp = used(&config.udp_ports, &listening.1, "");
    let window = format!("{WINDOW_SECONDS}s");
    Text::of(|version| {
        let ruleset = Ruleset {
            table: name,
            version,
            again,
            again_sets: &AGAIN,
            interfaces: &interfaces,
            loopback: invocation.interfaces != Interfaces::AllButLoopback,
            tcp_ports: &tcp_ports,
            udp_ports: &udp_ports,
            listening_tcp: &listening_tcp,
            listening_udp: &listening_udp,
            service_check: invocation.service_check,
            kinds: KINDS,
            hits: config.hits(invocation.mode.dialect()),
            group,
            snaplen: SNAPLEN,
            window: &window,
            size: SIZE,
        };
        ruleset.render().context("cannot fill in the table")
    })
}
