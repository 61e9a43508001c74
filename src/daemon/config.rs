//! portsentry.conf as the daemon takes it, of either generation.
//!
//! More forgiving than both where nothing can be misunderstood: a value may have no quotes, blanks may stand anywhere,
//! and a key of the other generation is understood. A key that neither knows is refused by name where 2.0 refuses it
//! and reported where 1.2 does not see it. Of a doubled key 1.2 takes the first and 2.0 the last, and so does this.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::invocation::Mode;
use super::ports::Ports;
use crate::blocks::{Answer, IgnoreList, PacketFilter};
use crate::host::Generation;
use crate::syntax::Dialect;
use crate::syntax::portsentry_conf::{SHARED_KEYS, V1_KEYS};

/// Keys of our own; those of both generations are understood beside them.
const OWN_KEYS: &[&str] = &["FIREWALL", "KILL_NFT", "METRICS_FILE", "SCAN_PORTS", "SCAN_WINDOW", "WHITELIST_CHAIN"];

/// BLOCK_TCP and BLOCK_UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Block {
    /// 0: log only.
    #[default]
    No,
    /// 1: KILL_HOSTS_DENY, KILL_ROUTE and KILL_RUN_CMD.
    Yes,
    /// 2: KILL_RUN_CMD alone.
    CommandOnly,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub tcp_ports: Ports,
    pub udp_ports: Ports,
    pub ignore_file: Option<PathBuf>,
    pub history_file: Option<PathBuf>,
    pub blocked_file: Option<PathBuf>,
    pub resolve_host: bool,
    pub block_tcp: Block,
    pub block_udp: Block,
    /// KILL_NFT: the built-in response, and what it answers.
    pub kill_nft: Option<Answer>,
    /// FIREWALL and WHITELIST_CHAIN: by what the built-in response blocks.
    pub packet_filter: PacketFilter,
    pub kill_route: Option<String>,
    pub kill_hosts_deny: Option<String>,
    pub kill_run_cmd: Option<String>,
    pub kill_run_cmd_first: bool,
    /// Hits of a source from which on it is reacted to; 0 and 1 are the same.
    pub scan_trigger: u32,
    pub port_banner: Option<String>,
    /// SCAN_PORTS: so many different ports within [`Config::scan_window`] make a scanner; 0 and 1 are the same.
    pub scan_ports: usize,
    /// SCAN_WINDOW, in seconds.
    pub scan_window: u32,
    /// METRICS_FILE: where counts are written for Prometheus.
    pub metrics_file: Option<PathBuf>,
    /// What was passed over and may have been meant otherwise.
    pub warnings: Vec<String>,
}

fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| {
        let may_not = error.kind() == std::io::ErrorKind::PermissionDenied;
        let remedy = if may_not { "; let the daemon's user read it (chmod o+r, or setfacl)" } else { "" };
        anyhow::anyhow!("Cannot open config file: {}: {error}{remedy}", path.display())
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Values<'a> {
    path: &'a Path,
    by_key: HashMap<&'static str, (usize, String)>,
    warnings: Vec<String>,
}

impl Config {
    /// Reads the file at `path` as `mode` does.
    ///
    /// # Errors
    /// It cannot be read, or a line cannot be understood: with file, line and remedy.
    pub fn read(path: &Path, mode: Mode) -> Result<Config> {
        Config::parse(&text(path)?, path, mode)
    }

    /// Reads what the file at `path` says of blocks, whatever it says of ports: of one who watches none.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn of_blocks(path: &Path) -> Result<Config> {
        Config::parse_lines(&text(path)?, path, Mode::Stealth)
    }

    /// Who is never blocked, as the list that [`Config::of_blocks`] names has it, with its complaints: in 1.2's own form where it
    /// is the list that people edit for 1.2.
    ///
    /// # Errors
    /// It cannot be read, or a line cannot be understood.
    pub fn ignored(&self) -> Result<(IgnoreList, Vec<String>)> {
        let is_of_1_2 = |path: &Path| path == Path::new(Generation::SysvModes.ignore_list());
        match &self.ignore_file {
            // Its package may be gone.
            Some(path) if !path.exists() => {
                let complaint = format!("{} is missing, so it names nobody who is never blocked", path.display());
                Ok((IgnoreList::default(), vec![complaint]))
            }
            Some(path) => IgnoreList::read(path, if is_of_1_2(path) { Dialect::V1 } else { Dialect::V2 }),
            None => Ok((IgnoreList::default(), Vec::new())),
        }
    }

    /// The same for a daemon that is to watch.
    ///
    /// # Errors
    /// As [`Config::read`], and if it wants another packet filter than that by which a daemon watches.
    pub fn read_to_watch(path: &Path, mode: Mode) -> Result<Config> {
        let config = Config::read(path, mode)?;
        if config.packet_filter != PacketFilter::Nftables {
            bail!(
                "{}: FIREWALL=\"iptables\" is for Debian's portsentry; the daemon built into harden-portsentry watches by \
                 nftables, and blocks by it; write FIREWALL=\"nftables\", or take that line out",
                path.display()
            );
        }
        Ok(config)
    }

    /// The same for a `text` that was read from `path`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, path: &Path, mode: Mode) -> Result<Config> {
        let config = Config::parse_lines(text, path, mode)?;
        config.check(mode, path)?;
        Ok(config)
    }

    /// The same, of a file that is still being written: each line is understood, and whether they go together is not
    /// asked.
    ///
    /// # Errors
    /// A line cannot be understood.
    pub fn parse_lines(text: &str, path: &Path, mode: Mode) -> Result<Config> {
        let mut values = Values::read(text, path, mode.dialect())?;
        let mut config = Config {
            ignore_file: values.path("IGNORE_FILE"),
            history_file: values.path("HISTORY_FILE"),
            blocked_file: values.path("BLOCKED_FILE"),
            resolve_host: values.number("RESOLVE_HOST", 0..=1)? == 1,
            block_tcp: values.block("BLOCK_TCP")?,
            block_udp: values.block("BLOCK_UDP")?,
            kill_nft: values.answer("KILL_NFT")?,
            packet_filter: values.packet_filter()?,
            kill_route: values.text("KILL_ROUTE"),
            kill_hosts_deny: values.text("KILL_HOSTS_DENY"),
            kill_run_cmd: values.text("KILL_RUN_CMD"),
            kill_run_cmd_first: values.number("KILL_RUN_CMD_FIRST", 0..=1)? == 1,
            scan_trigger: values.number("SCAN_TRIGGER", 0..=65_535)?,
            port_banner: values.text("PORT_BANNER"),
            scan_ports: values.number("SCAN_PORTS", 0..=64)? as usize,
            scan_window: match values.number("SCAN_WINDOW", 0..=86_400)? {
                0 => 600,
                seconds => seconds,
            },
            metrics_file: values.path("METRICS_FILE"),
            ..Config::default()
        };
        if mode.watches_tcp() {
            config.tcp_ports = values.ports(mode, "TCP")?;
        }
        if mode.watches_udp() {
            config.udp_ports = values.ports(mode, "UDP")?;
        }
        config.warnings = values.warnings;
        if let Some(file) = config.metrics_file.as_ref().filter(|file| file.extension().is_none_or(|end| end != "prom"))
        {
            config.warnings.push(format!(
                "METRICS_FILE: node_exporter reads files only whose names end with .prom; {} does not",
                file.display()
            ));
        }
        Ok(config)
    }

    fn check(&self, mode: Mode, path: &Path) -> Result<()> {
        let path = path.display();
        if self.tcp_ports.is_empty() && self.udp_ports.is_empty() {
            bail!(
                "Selected mode: {}, but no TCP_PORTS or UDP_PORTS specified in config file {path}; write TCP_PORTS=\"1-1023\"",
                mode.name()
            );
        }
        // 1.2 watches, and blocks nobody, without a word.
        if mode.dialect() == Dialect::V2 {
            let any = |wanted| self.block_tcp == wanted || self.block_udp == wanted;
            let commands = self.kill_route.is_some() || self.kill_hosts_deny.is_some();
            if any(Block::Yes) && self.kill_nft.is_none() && !commands {
                bail!(
                    "{path}: KILL_HOSTS_DENY and/or KILL_ROUTE must be specified if BLOCK_TCP or BLOCK_UDP is set to 1"
                );
            }
            if any(Block::CommandOnly) && self.kill_run_cmd.is_none() {
                bail!("{path}: KILL_RUN_CMD must be specified if BLOCK_TCP or BLOCK_UDP is set to 2");
            }
        }
        Ok(())
    }

    /// How often one source, port and kind has to be handed up: until it triggers, and once more for "already blocked"
    /// where anybody can be: whom 1.2 logs it holds for blocked.
    pub fn hits(&self, dialect: Dialect) -> u32 {
        let blocks = self.block_tcp != Block::No || self.block_udp != Block::No || dialect == Dialect::V1;
        self.scan_trigger.max(1) + u32::from(blocks)
    }
}

impl<'a> Values<'a> {
    fn read(text: &str, path: &'a Path, dialect: Dialect) -> Result<Values<'a>> {
        let mut values = Values { path, by_key: HashMap::new(), warnings: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{}, line {number}", path.display());
            let Some((key, value)) = line.split_once('=') else {
                bail!(
                    "{}: Invalid config file entry at line {number}: there is no =; write KEY=\"value\", or # before it",
                    place()
                );
            };
            let key = key.trim();
            let keys = SHARED_KEYS.iter().chain(V1_KEYS).chain(OWN_KEYS);
            let Some(&known) = keys.clone().find(|known| **known == key) else {
                let meant = keys
                    .map(|known| (strsim::osa_distance(key, known), known))
                    .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
                    .min();
                let meant = meant.map_or(String::new(), |(_, known)| format!("; did you mean {known}?"));
                let problem =
                    format!("{}: Invalid config file entry at line {number}: there is no key {key}{meant}", place());
                match dialect {
                    Dialect::V1 => values.warnings.push(problem),
                    Dialect::V2 => bail!(problem),
                }
                continue;
            };
            let value = unquoted(value.trim()).map_err(|why| anyhow::anyhow!("{}: {key} {why}", place()))?;
            match dialect {
                Dialect::V1 => drop(values.by_key.entry(known).or_insert((number, value))),
                Dialect::V2 => drop(values.by_key.insert(known, (number, value))),
            }
        }
        Ok(values)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.by_key.get(key).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn place(&self, key: &str) -> String {
        let line = self.by_key.get(key).map_or(0, |(line, _)| *line);
        format!("{}, line {line}", self.path.display())
    }

    /// A number; 0 where the key is missing.
    fn number(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
        let Some(text) = self.text(key) else { return Ok(0) };
        match text.trim().parse::<u32>() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => bail!(
                "{}: Invalid config file entry for {key}: {text:?}; write a number from {} to {}",
                self.place(key),
                range.start(),
                range.end()
            ),
        }
    }

    fn block(&self, key: &str) -> Result<Block> {
        Ok(match self.number(key, 0..=2)? {
            0 => Block::No,
            1 => Block::Yes,
            _ => Block::CommandOnly,
        })
    }

    fn answer(&self, key: &str) -> Result<Option<Answer>> {
        let text = self.text(key).unwrap_or_default();
        match text.trim() {
            "" => Ok(None),
            name => Answer::of(name).map(Some).with_context(|| {
                format!(
                    "{}: Invalid config file entry for {key}: {name:?}; write \"drop\", \"reject\", \"noise\" or \"chaos\"",
                    self.place(key)
                )
            }),
        }
    }

    fn packet_filter(&mut self) -> Result<PacketFilter> {
        let after = self.text("WHITELIST_CHAIN").map(|name| {
            name.parse().map_err(|why| {
                anyhow::anyhow!(
                    "{}: Invalid config file entry for WHITELIST_CHAIN: {why}",
                    self.place("WHITELIST_CHAIN")
                )
            })
        });
        let after = after.transpose()?;
        match self.text("FIREWALL").unwrap_or_default().trim() {
            "" | "nftables" => {
                if after.is_some() {
                    self.warnings
                        .push("WHITELIST_CHAIN is without effect where FIREWALL is not \"iptables\"".to_owned());
                }
                Ok(PacketFilter::Nftables)
            }
            "iptables" => Ok(PacketFilter::Iptables { after }),
            name => bail!(
                "{}: Invalid config file entry for FIREWALL: {name:?}; write \"nftables\" or \"iptables\"",
                self.place("FIREWALL")
            ),
        }
    }

    /// The ports of `protocol`: those below ADVANCED_PORTS_* where the mode, or 2.0 with a configuration of 1.2, has
    /// them, else the list.
    fn ports(&mut self, mode: Mode, protocol: &str) -> Result<Ports> {
        let advanced = format!("ADVANCED_PORTS_{protocol}");
        let is_advanced = match mode {
            Mode::AdvancedTcp | Mode::AdvancedUdp => true,
            Mode::Stealth => self.text(&advanced).is_some(),
            _ => false,
        };
        if !is_advanced {
            return self.list(&format!("{protocol}_PORTS"));
        }
        let limit = match self.number(&advanced, 0..=65_535)? {
            0 => 1024,
            limit => limit,
        };
        let excluded = self.list(&format!("ADVANCED_EXCLUDE_{protocol}"))?;
        Ok(Ports::below(u16::try_from(limit).unwrap_or(u16::MAX)).without(&excluded))
    }

    fn list(&self, key: &str) -> Result<Ports> {
        let text = self.text(key).unwrap_or_default();
        Ports::parse(&text).map_err(|why| anyhow::anyhow!("{}: {key}: {why}", self.place(key)))
    }
}

/// What stands between the quotes; or, without quotes, up to a comment.
fn unquoted(value: &str) -> Result<String, String> {
    match value.strip_prefix('"') {
        Some(rest) => match rest.split_once('"') {
            Some((inner, _)) => Ok(inner.to_owned()),
            None => Err("has no closing quote; end its value with \"".to_owned()),
        },
        None => Ok(value.split(" #").next().unwrap_or_default().trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, mode: Mode) -> Result<Config> {
        Config::parse(text, Path::new("/p.conf"), mode)
    }

    fn error(text: &str) -> String {
        parse(text, Mode::Stealth).unwrap_err().to_string()
    }

    #[test]
    fn either_generations_file_quoted_or_not() {
        let second = parse(
            "TCP_PORTS=\"1-10,20\"\nUDP_PORTS = 7\nBLOCK_TCP=\"2\" # c\nKILL_RUN_CMD=\"/x \"\nSCAN_TRIGGER=2\n",
            Mode::Stealth,
        )
        .unwrap();
        assert_eq!((second.tcp_ports.to_string(), second.udp_ports.to_string()), ("1-10, 20".into(), "7".into()));
        assert_eq!((second.block_tcp, second.hits(Dialect::V2)), (Block::CommandOnly, 3));
        let logs = Config::default();
        assert_eq!((logs.hits(Dialect::V1), logs.hits(Dialect::V2)), (2, 1));
        let first = "TCP_PORTS=\"1,2\"\nADVANCED_PORTS_TCP=\"10\"\nADVANCED_EXCLUDE_TCP=\"5\"\n";
        assert_eq!(parse(first, Mode::AdvancedTcp).unwrap().tcp_ports.to_string(), "1-4, 6-9");
        assert_eq!(parse(first, Mode::StealthTcp).unwrap().tcp_ports.to_string(), "1-2");
        assert_eq!(parse(first, Mode::Stealth).unwrap().tcp_ports.to_string(), "1-4, 6-9");
        assert!(parse(first, Mode::AdvancedTcp).unwrap().udp_ports.is_empty());
    }

    #[test]
    fn the_packet_filter_and_the_whitelist() {
        let filter = |text: &str| Config::parse_lines(text, Path::new("/p.conf"), Mode::Stealth);
        let of = |text: &str| filter(text).unwrap().packet_filter;
        let after = |name: &str| PacketFilter::Iptables { after: Some(name.parse().unwrap()) };
        assert_eq!(of(""), PacketFilter::Nftables);
        assert_eq!(of("FIREWALL=\"iptables\"\n"), PacketFilter::Iptables { after: None });
        assert_eq!(of("WHITELIST_CHAIN=\"friends\"\nFIREWALL=iptables\n"), after("friends"));
        assert!(filter("WHITELIST_CHAIN=\"friends\"\n").unwrap().warnings[0].contains("WHITELIST_CHAIN"));
        for text in ["FIREWALL=\"pf\"\n", "FIREWALL=\"iptables\"\nWHITELIST_CHAIN=\"a b\"\n"] {
            assert!(filter(text).unwrap_err().to_string().contains("/p.conf, line"), "{text}");
        }
    }

    #[test]
    fn metrics_go_where_the_collector_looks() {
        let warnings = |line: &str| parse(&format!("TCP_PORTS=\"1\"\n{line}"), Mode::Stealth).unwrap().warnings;
        assert_eq!(warnings("METRICS_FILE=\"/m/portsentry.prom\"\n"), [] as [&str; 0]);
        assert!(warnings("METRICS_FILE=\"/m/portsentry\"\n")[0].contains("end with .prom"));
    }

    #[test]
    fn the_first_of_a_doubled_key_for_one_and_the_last_for_two() {
        let text = "TCP_PORTS=\"1\"\nTCP_PORTS=\"2\"\n";
        assert_eq!(parse(text, Mode::StealthTcp).unwrap().tcp_ports.to_string(), "1");
        assert_eq!(parse(text, Mode::Stealth).unwrap().tcp_ports.to_string(), "2");
    }

    #[test]
    fn what_cannot_be_understood_is_named_with_file_line_and_remedy() {
        let unknown = error("TCP_PORTS=\"1\"\nBLOCK_TPC=\"1\"\n");
        assert!(unknown.contains("/p.conf, line 2") && unknown.contains("did you mean BLOCK_TCP?"), "{unknown}");
        assert!(parse("TCP_PORTS=\"1\"\nBLOCK_TPC=\"1\"\n", Mode::Tcp).unwrap().warnings[0].contains("BLOCK_TCP"));
        for (text, says) in [
            ("TCP_PORTS=\"1\"\nfoo\n", "line 2"),
            ("TCP_PORTS=\"1,x\"\n", "\"x\" is no port"),
            ("TCP_PORTS=\"1\"\nBLOCK_TCP=\"5\"\n", "from 0 to 2"),
            ("TCP_PORTS=\"1\"\nBLOCK_TCP=\"1\"\n", "KILL_ROUTE must be specified"),
            ("BLOCK_TCP=\"0\"\n", "no TCP_PORTS or UDP_PORTS"),
            ("TCP_PORTS=\"1\n", "no closing quote"),
        ] {
            assert!(error(text).contains(says), "{}", error(text));
        }
    }
}
