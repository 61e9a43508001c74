//! /etc/harden-portsentry/policy.toml: what the article does not fix, read with places, edited with its
//! comments kept.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use serde::Deserialize;
use toml_edit::{Array, ArrayOfTables, Document, DocumentMut, Item, Table, Value, value};

use crate::host::{ChainName, Host};

use super::choices::{BanTime, Engine, Firewall, Response};
use super::origin::{Origin, Sourced};
use super::terms::{RawLength, RawTerms, Terms};
use super::writers::check_writers;

/// Where it is; the daemon, and whoever blocks, read no other one.
pub const POLICY: &str = "/etc/harden-portsentry/policy.toml";

/// An address that ran apply over ssh and was confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshClient {
    pub address: IpAddr,
    /// Year-month-day.
    pub confirmed: String,
}

/// The file's values, with defaults where it says nothing.
#[derive(Debug, Clone)]
pub struct Policy {
    pub engine: Sourced<Engine>,
    pub response: Sourced<Response>,
    /// CHAOS by a rule for each host, as the article has it, where one rule for all would do.
    pub literal: Sourced<bool>,
    pub firewall: Sourced<Firewall>,
    /// Behind the jumps to this chain hosts are blocked, where iptables does it.
    pub whitelist_chain: Option<Sourced<ChainName>>,
    pub resolve_host: Sourced<bool>,
    pub fail2ban: Sourced<bool>,
    pub bantime: Sourced<BanTime>,
    /// An action of fail2ban's own for the jail, in the place of ours.
    pub banaction: Option<Sourced<String>>,
    pub mend_sshd_jail: Sourced<bool>,
    pub safe: Vec<Sourced<IpNet>>,
    pub lan: LanPolicy,
    pub ssh_clients: Vec<SshClient>,
    pub block: Terms,
}

/// The [lan] table: the four variables for those who keep no config.env.
#[derive(Debug, Clone)]
pub struct LanPolicy {
    values: Vec<(&'static str, Sourced<String>)>,
    pub wide: Sourced<bool>,
}

impl LanPolicy {
    /// The value of LAN_IF, LAN_IP, LAN_NM or LAN_GW.
    pub fn get(&self, name: &str) -> Option<Sourced<String>> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }
}

/// The file as serde reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    engine: Option<Engine>,
    response: Option<Response>,
    literal: Option<bool>,
    firewall: Option<Firewall>,
    whitelist_chain: Option<String>,
    resolve_host: Option<bool>,
    fail2ban: Option<bool>,
    bantime: Option<RawLength>,
    banaction: Option<String>,
    mend_sshd_jail: Option<bool>,
    safe: Vec<String>,
    lan: RawLan,
    ssh_client: Vec<RawClient>,
    block: RawTerms,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLan {
    interface: Option<String>,
    address: Option<String>,
    netmask: Option<String>,
    gateway: Option<String>,
    wide: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    address: IpAddr,
    confirmed: RawDate,
}

/// As this program writes it, with quotes, or as TOML has dates.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "write the date as \"2026-11-24\"")]
enum RawDate {
    Quoted(jiff::civil::Date),
    Toml(toml_edit::Date),
}

impl fmt::Display for RawDate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawDate::Quoted(date) => date.fmt(out),
            RawDate::Toml(date) => date.fmt(out),
        }
    }
}

impl Policy {
    /// Reads the file at `path`; a missing one leaves everything at its default.
    ///
    /// # Errors
    /// Others could write it, it is no TOML, has an unknown key or a wrong type: with file, line and what
    /// was probably meant.
    pub fn read(path: &Path) -> Result<Policy> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if !text.is_empty() {
            check_writers(path)?;
        }
        Policy::parse(&text, path)
    }

    /// As where there is no file.
    ///
    /// # Errors
    /// None.
    pub fn of_nobody() -> Result<Policy> {
        Policy::parse("", Path::new(POLICY))
    }

    fn parse(text: &str, path: &Path) -> Result<Policy> {
        let document = Document::parse(text).map_err(|error| shown(&error, text, path))?;
        let raw: Raw = toml_edit::de::from_str(text).map_err(|error| with_suggestion(&error, text, path))?;
        let place = |table: Option<&str>, key: &str| -> Origin {
            let item = match table {
                Some(table) => document.get(table).and_then(|item| item.get(key)),
                None => document.get(key),
            };
            let line = item.and_then(Item::span).map_or(1, |span| line_of(text, &span));
            Origin::Line(path.to_owned(), line)
        };
        fn or<T>(value: Option<T>, origin: Origin, default: T) -> Sourced<T> {
            match value {
                Some(value) => Sourced { value, origin },
                None => Sourced::default(default),
            }
        }
        let bantime = match &raw.bantime {
            Some(raw) => Some(
                raw.to_string().parse::<BanTime>().map_err(|error| anyhow!("{}: {error}", place(None, "bantime")))?,
            ),
            None => None,
        };
        let banaction = match raw.banaction {
            Some(value) => {
                let origin = place(None, "banaction");
                check_banaction(&value).map_err(|error| anyhow!("{origin}: {error}"))?;
                Some(Sourced { value, origin })
            }
            None => None,
        };
        let whitelist_chain = match &raw.whitelist_chain {
            Some(name) => {
                let origin = place(None, "whitelist_chain");
                let value = name.parse().map_err(|error| anyhow!("{origin}: whitelist_chain: {error}"))?;
                Some(Sourced { value, origin })
            }
            None => None,
        };
        let mut safe = Vec::new();
        for entry in &raw.safe {
            let origin = place(None, "safe");
            let network = parse_network(entry).map_err(|error| anyhow!("{origin}: {error}"))?;
            safe.push(Sourced { value: network, origin });
        }
        let block =
            raw.block.terms().map_err(|(key, error)| anyhow!("{}: {key}: {error}", place(Some("block"), key)))?;
        let mut values = Vec::new();
        for (name, key, value) in [
            ("LAN_IF", "interface", raw.lan.interface),
            ("LAN_IP", "address", raw.lan.address),
            ("LAN_NM", "netmask", raw.lan.netmask),
            ("LAN_GW", "gateway", raw.lan.gateway),
        ] {
            if let Some(value) = value {
                values.push((name, Sourced { value, origin: place(Some("lan"), key) }));
            }
        }
        Ok(Policy {
            engine: or(raw.engine, place(None, "engine"), Engine::Auto),
            response: or(raw.response, place(None, "response"), Response::Auto),
            literal: or(raw.literal, place(None, "literal"), false),
            firewall: or(raw.firewall, place(None, "firewall"), Firewall::Auto),
            whitelist_chain,
            resolve_host: or(raw.resolve_host, place(None, "resolve_host"), true),
            fail2ban: or(raw.fail2ban, place(None, "fail2ban"), true),
            bantime: or(bantime, place(None, "bantime"), BanTime::DAY),
            banaction,
            mend_sshd_jail: or(raw.mend_sshd_jail, place(None, "mend_sshd_jail"), true),
            safe,
            lan: LanPolicy { values, wide: or(raw.lan.wide, place(Some("lan"), "wide"), false) },
            ssh_clients: raw
                .ssh_client
                .into_iter()
                .map(|one| SshClient { address: one.address, confirmed: one.confirmed.to_string() })
                .collect(),
            block,
        })
    }
}

/// The name of a file in action.d, which becomes a line of the jail.
fn check_banaction(name: &str) -> Result<()> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        bail!(
            "banaction is {name:?}, and no action of fail2ban has that name; write one of /etc/fail2ban/action.d, without \
             .conf: \"nftables-allports\""
        );
    }
    Ok(())
}

/// An address or a network in CIDR form; host bits are cut off.
///
/// # Errors
/// It is neither, or everybody.
pub fn parse_network(text: &str) -> Result<IpNet> {
    let text = text.trim();
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| {
                anyhow!("safe has {text:?}, which is no address or network; write \"198.51.100.7\" or \"10.1.0.0/16\"")
            })?
            .trunc(),
    };
    if network.prefix_len() == 0 {
        bail!("safe has {text:?}, which would make every host of the world safe");
    }
    Ok(network)
}

/// The document `text` of policy.toml with one more confirmed ssh client; everything else as it was.
///
/// # Errors
/// The text is no TOML.
pub fn add_ssh_client(text: &str, client: &SshClient) -> Result<String> {
    let mut document: DocumentMut = text.parse().context("policy.toml cannot be read")?;
    let mut table = Table::new();
    table["address"] = value(client.address.to_string());
    table["confirmed"] = value(client.confirmed.as_str());
    let list = document.entry("ssh_client").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    match list.as_array_of_tables_mut() {
        Some(list) => list.push(table),
        None => bail!("policy.toml: ssh_client is not a list of tables; write [[ssh_client]] above each"),
    }
    Ok(document.to_string())
}

/// What `init` asks for beside the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyAnswers {
    pub response: Response,
    pub bantime: BanTime,
    pub safe: Vec<IpNet>,
}

impl Policy {
    /// What the file says today of what `init` asks for.
    pub fn answers(&self) -> PolicyAnswers {
        PolicyAnswers {
            response: self.response.value,
            bantime: self.bantime.value,
            safe: self.safe.iter().map(|one| one.value).collect(),
        }
    }
}

/// Writes into policy.toml at `path` what of `answers` it does not say already; everything else stays as it was.
/// Returns whether there was anything to write.
///
/// # Errors
/// The file cannot be read, trusted or written.
pub fn write_policy(path: &Path, answers: &PolicyAnswers) -> Result<bool> {
    let now = Policy::read(path)?.answers();
    if now == *answers {
        return Ok(false);
    }
    let host = Host::new(Path::new("/"))?;
    let path = std::path::absolute(path)?;
    let text = host.read(&path)?.map(|state| String::from_utf8(state.bytes)).transpose()?.unwrap_or_default();
    let mut document: DocumentMut = text.parse().with_context(|| format!("cannot read {}", path.display()))?;
    let mut set = |key: &str, new: Value| match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        None => document[key] = Item::Value(new),
    };
    if now.response != answers.response {
        set("response", answers.response.to_string().into());
    }
    if now.bantime != answers.bantime {
        set("bantime", answers.bantime.for_policy().into());
    }
    if now.safe != answers.safe {
        set_safe(&mut document, &answers.safe);
    }
    host.write(&path, document.to_string().as_bytes(), 0o644)?;
    Ok(true)
}

/// Takes out of `safe` what is not in `wanted` and adds what is missing, so that comments between entries stay.
fn set_safe(document: &mut DocumentMut, wanted: &[IpNet]) {
    let item = document.entry("safe").or_insert(value(Array::new()));
    let Some(array) = item.as_array_mut() else { return };
    let network = |entry: &Value| entry.as_str().and_then(|text| parse_network(text).ok());
    array.retain(|entry| network(entry).is_some_and(|known| wanted.contains(&known)));
    let known: Vec<IpNet> = array.iter().filter_map(network).collect();
    for new in wanted.iter().filter(|new| !known.contains(new)) {
        // A single address needs no prefix length.
        let single = new.prefix_len() == new.max_prefix_len();
        array.push(if single { new.addr().to_string() } else { new.to_string() });
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes()[..span.start.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn shown(error: &toml_edit::TomlError, text: &str, path: &Path) -> anyhow::Error {
    let line = error.span().map_or(1, |span| line_of(text, &span));
    anyhow!("{}, line {line}: {}", path.display(), error.message())
}

fn with_suggestion(error: &toml_edit::de::Error, text: &str, path: &Path) -> anyhow::Error {
    let line = error.span().map_or(1, |span| line_of(text, &span));
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let suggestion = match (message.starts_with("unknown"), quoted.next()) {
        (true, Some(unknown)) => quoted
            .map(|known| (strsim::osa_distance(unknown, known), known))
            .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
            .min()
            .map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?")),
        _ => String::new(),
    };
    anyhow!("{}, line {line}: {message}{suggestion}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy> {
        Policy::parse(text, Path::new("/etc/p.toml"))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
        let said = error("response = \"drop\"\nbantme = \"1d\"\n");
        assert!(said.starts_with("/etc/p.toml, line 2: unknown field `bantme`"), "{said}");
        assert!(said.ends_with("did you mean `bantime`?"), "{said}");
    }

    #[test]
    fn a_wrong_type_or_value_is_named_with_its_line() {
        assert!(error("\nfail2ban = \"no\"\n").starts_with("/etc/p.toml, line 2: "));
        assert!(error("response = \"drp\"").contains("did you mean `drop`?"), "{}", error("response = \"drp\""));
        assert!(error("bantime = \"1y\"").starts_with("/etc/p.toml, line 1: `1y` is no length of time"));
        assert!(error("safe = [\"10.0.0.0/33\"]").contains("no address or network"));
        assert!(error("safe = [\"0.0.0.0/0\"]").contains("every host of the world"));
        assert!(
            error("bantime = true").starts_with("/etc/p.toml, line 1: write \"1d\""),
            "{}",
            error("bantime = true")
        );
        let client = "[[ssh_client]]\naddress = \"203.0.113.7\"\nconfirmed = ";
        let said = error(&format!("{client}\"last week\""));
        assert!(said.starts_with("/etc/p.toml, line 3: write the date as"), "{said}");
        assert!(error("= 1").starts_with("/etc/p.toml, line 1: "));
    }

    #[test]
    fn terms_of_blocks() {
        let policy =
            parse("[block]\nfirst = \"5m\"\nterm = \"forever\"\nin_all = 10\ncut_established = true\n").unwrap();
        let five = Some(std::time::Duration::from_secs(300));
        assert_eq!((policy.block.first, policy.block.term, policy.block.in_all), (five, None, 10));
        assert!(policy.block.cut_established);
        assert_eq!(parse("").unwrap().block, Terms::default());
        assert!(error("[block]\ngrowth = 0").starts_with("/etc/p.toml, line 2: growth: `0` is not between 1 and 100"));
        assert!(error("[block]\nterm = \"x\"").starts_with("/etc/p.toml, line 2: term: `x` is no length of time"));
        assert!(error("[block]\nremember = \"forever\"").contains("nothing is remembered for ever"));
        assert!(error("[block]\ntrm = 1").ends_with("did you mean `term`?"), "{}", error("[block]\ntrm = 1"));
    }

    #[test]
    fn values_carry_their_line() {
        let policy = parse("# mine\nfail2ban = false\n[lan]\nnetmask = \"24\"\n").unwrap();
        assert_eq!(policy.fail2ban, Sourced { value: false, origin: Origin::Line("/etc/p.toml".into(), 2) });
        assert_eq!(policy.lan.get("LAN_NM").unwrap().origin, Origin::Line("/etc/p.toml".into(), 4));
        assert_eq!(policy.bantime.origin, Origin::Default);
    }

    #[test]
    fn seconds_and_dates_may_be_written_with_and_without_quotes() {
        assert_eq!(parse("bantime = 3600").unwrap().bantime.value, "1h".parse().unwrap());
        for date in ["2026-11-24", "\"2026-11-24\""] {
            let text = format!("[[ssh_client]]\naddress = \"203.0.113.7\"\nconfirmed = {date}\n");
            assert_eq!(parse(&text).unwrap().ssh_clients[0].confirmed, "2026-11-24");
        }
    }

    #[test]
    fn a_client_is_added_and_every_comment_stays() {
        let text = "# mine\nresponse = \"drop\" # why\n";
        let client = SshClient { address: [203, 0, 113, 50].into(), confirmed: "2026-11-24".into() };
        let new = add_ssh_client(text, &client).unwrap();
        assert!(new.starts_with(text), "{new}");
        assert_eq!(parse(&new).unwrap().ssh_clients, [client]);
    }
}
