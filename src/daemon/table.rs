//! The kernel's table that picks the packets: templates/portsentry.nft, filled and loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use askama::Template;

use super::config::Config;
use super::invocation::{Interfaces, Invocation, Mode};
use super::ports::Ports;
use crate::host::Invocation as Command;
use crate::kernel::{Gone, SNAPLEN, Snapshot, counted_packets, empty_sets, is_there_already, listening_ports};

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
    /// In place of one that is watching, whose sets go on.
    again: bool,
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
pub struct Table {
    name: String,
    /// As it was loaded, to be loaded again at once.
    loaded: Option<Snapshot>,
}

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
        load(ruleset(&name, invocation, config, group, false, &listening_ports())?)?;
        let loaded = Snapshot::take(&name).ok();
        Ok(Table { name, loaded })
    }

    /// The same for another configuration, without forgetting what was handed up and which ports were used. A packet that
    /// arrives meanwhile meets the old rules or the new ones.
    ///
    /// # Errors
    /// As [`Table::load`]; the old rules go on.
    pub fn change(&mut self, invocation: &Invocation, config: &Config, group: u16) -> Result<()> {
        load(ruleset(&self.name, invocation, config, group, true, &listening_ports())?)?;
        self.loaded = Snapshot::take(&self.name).ok();
        Ok(())
    }

    /// Loads it again if somebody took it away, as whoever flushes the whole ruleset does; whether that was so.
    ///
    /// # Errors
    /// As [`Table::load`].
    pub fn restore(&self, gone: &Gone, invocation: &Invocation, config: &Config, group: u16) -> Result<bool> {
        if !gone.has(&self.name)? {
            return Ok(false);
        }
        match self.load_again(config) {
            Some(Ok(())) => Ok(true),
            // It went, and came back: by a load of ours.
            Some(Err(error)) if is_there_already(&error) => Ok(false),
            // By nft, which takes longer.
            _ => load(ruleset(&self.name, invocation, config, group, false, &listening_ports())?).map(|()| true),
        }
    }

    /// Loads it as it was, with the ports on which somebody listens now; `None` if it is not known how it was.
    fn load_again(&self, config: &Config) -> Option<Result<()>> {
        let loaded = self.loaded.as_ref()?;
        let (tcp, udp) = listening_ports();
        let used = |watched: &Ports, listening: &BTreeSet<u16>| -> Vec<u16> {
            watched.iter().filter(|port| listening.contains(port)).collect()
        };
        let (tcp, udp) = (used(&config.tcp_ports, &tcp), used(&config.udp_ports, &udp));
        Some(loaded.load(&self.name, &[("used_tcp", &tcp, USED_TCP), ("used_udp", &udp, USED_UDP)]))
    }

    /// How many packets were not handed up, for their like had been, since it was loaded; `None` where the kernel does not tell.
    pub fn repeats(&self) -> Option<u64> {
        counted_packets(&self.name, REPEATS).ok()
    }

    /// Forgets what was handed up, so that it is handed up again: some of it was lost on the way.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget(&self) -> Result<()> {
        empty_sets(&self.name, &[SEEN, AGAIN].concat())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = Command::new("nft", &["delete", "table", "inet", &self.name]).run();
    }
}

/// The text that would be loaded for `config` on all interfaces but loopback, where nobody listens.
///
/// # Errors
/// The template cannot be filled.
pub fn ruleset_for(mode: Mode, config: &Config) -> Result<String> {
    ruleset(&Table::name(mode), &Invocation::new(mode), config, 0, false, &Listening::default())
}

fn load(text: String) -> Result<()> {
    Command::new("nft", &["-f", "-"])
        .input(text)
        .demand()
        .context("cannot load the table by which the kernel picks the packets")?;
    Ok(())
}

/// TCP's and UDP's.
type Listening = (BTreeSet<u16>, BTreeSet<u16>);

fn ruleset(
    name: &str,
    invocation: &Invocation,
    config: &Config,
    group: u16,
    again: bool,
    listening: &Listening,
) -> Result<String> {
    let interfaces = match &invocation.interfaces {
        Interfaces::Named(names) => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
        Interfaces::All | Interfaces::AllButLoopback => String::new(),
    };
    let elements = |ports: &Ports| ports.to_string();
    // As long as the rules would remember an answer of theirs.
    let used = |watched: &Ports, listening: &BTreeSet<u16>, timeout: &str| {
        let both = watched.iter().filter(|port| listening.contains(port));
        both.map(|port| format!("{port}{timeout}")).collect::<Vec<_>>().join(", ")
    };
    Ruleset {
        table: name,
        again,
        again_sets: &AGAIN,
        interfaces: &interfaces,
        loopback: invocation.interfaces != Interfaces::AllButLoopback,
        tcp_ports: &elements(&config.tcp_ports),
        udp_ports: &elements(&config.udp_ports),
        listening_tcp: &used(&config.tcp_ports, &listening.0, " timeout 1d"),
        listening_udp: &used(&config.udp_ports, &listening.1, ""),
        service_check: invocation.service_check,
        kinds: KINDS,
        hits: config.hits(invocation.mode.dialect()),
        group,
        snaplen: SNAPLEN,
        window: &format!("{WINDOW_SECONDS}s"),
        size: SIZE,
    }
    .render()
    .context("cannot fill in the table")
}
