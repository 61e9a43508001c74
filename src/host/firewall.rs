//! What the packet filter says: asked of the kernel through iptables and nft, never of our own notes.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

use super::Host;
use super::chaos::CHAOS_RULE;
use super::commands::Invocation;

/// Which kernel interface `iptables` speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Nft,
    Legacy,
    /// There is no /usr/sbin/iptables.
    Missing,
}

/// The packet filter as it stands.
#[derive(Debug, Clone)]
pub struct Firewall {
    pub backend: Backend,
    /// INPUT drops or rejects what no rule accepts: portsentry 1.2 is blind behind it (trap 11).
    pub input_drops: bool,
}

/// The rules of one family, as `iptables -S` prints them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleList(Vec<String>);

impl Firewall {
    /// Asks iptables, and nft for chains that iptables does not show.
    pub fn read(host: &Host) -> Firewall {
        if !host.exists(program(false)) {
            return Firewall { backend: Backend::Missing, input_drops: host.is_live() && nft_input_drops(host) };
        }
        let real = host.real_path(program(false).as_ref()).unwrap_or_default();
        let legacy = real.to_string_lossy().contains("legacy");
        let backend = if legacy { Backend::Legacy } else { Backend::Nft };
        if !host.is_live() {
            return Firewall { backend, input_drops: false };
        }
        let policy = Invocation::new(program(false), &["-S", "INPUT"]).run();
        let drops = policy.is_ok_and(|output| output.stdout.lines().any(|line| line == "-P INPUT DROP"));
        Firewall { backend, input_drops: drops || nft_input_drops(host) }
    }

    /// The backend in the words that administrators use.
    pub fn name(&self) -> &'static str {
        match self.backend {
            Backend::Nft => "iptables-nft",
            Backend::Legacy => "iptables-legacy",
            Backend::Missing => "no iptables",
        }
    }
}

/// `/usr/sbin/iptables` or `ip6tables`: the path that is there on all of Debian 11 to 14, merged /usr or not
/// (trap 16).
pub fn program(ipv6: bool) -> &'static str {
    if ipv6 { "/usr/sbin/ip6tables" } else { "/usr/sbin/iptables" }
}

/// A base chain of the input hook with policy drop, of any table.
fn nft_input_drops(host: &Host) -> bool {
    if !host.exists("/usr/sbin/nft") {
        return false;
    }
    let chains = Invocation::new("/usr/sbin/nft", &["list", "chains"]).run();
    chains.is_ok_and(|output| {
        output.stdout.lines().any(|line| line.contains("hook input") && line.contains("policy drop"))
    })
}

/// What nftables holds, as text, without the tables by which the embedded portsentry only watches: these name
/// everybody who was seen. Empty where there is no nft.
pub fn blocking_tables() -> String {
    let listed = Invocation::new("nft", &["list", "ruleset"]).run().map(|output| output.stdout).unwrap_or_default();
    without_watching(&listed)
}

/// Whether somebody's rules have the kernel track connections, so that it costs nothing more to count on it. Rules that are
/// there tell it, and not the number of connections, which changes by itself.
pub fn tracks_connections(host: &Host) -> bool {
    if !host.is_live() {
        return false;
    }
    let listed = |program: &str, words: &[&str]| {
        Invocation::new(program, words).run().map(|output| output.stdout).unwrap_or_default()
    };
    let nft = listed("nft", &["--stateless", "list", "ruleset"]);
    // There need be no nft for rules of iptables. The legacy ones stand beside those of nft, whichever `iptables` is.
    let mut iptables = listed("iptables-save", &[]) + &listed("ip6tables-save", &[]);
    for (tables, program) in
        [("/proc/net/ip_tables_names", "iptables-legacy-save"), ("/proc/net/ip6_tables_names", "ip6tables-legacy-save")]
    {
        // Asked without need, it loads modules.
        if std::fs::read_to_string(tables).is_ok_and(|names| !names.trim().is_empty()) {
            iptables += &listed(program, &[]);
        }
    }
    let rules = without(&nft, |table| table.starts_with("harden_portsentry")) + &iptables;
    needs_tracking(&rules) && !spares_tracking(&rules)
}

/// Whether a rule takes some packets out of it: what belongs to what cannot be told by it then.
fn spares_tracking(rules: &str) -> bool {
    rules.to_ascii_lowercase().contains("notrack")
}

/// Whether a rule of this text, nft's or of iptables-save, makes the kernel track connections.
fn needs_tracking(rules: &str) -> bool {
    const SIGNS: &str = r#"(?m)\bct (state|status|mark|zone|direction|helper|original|reply|id|count|expiration|label|event)\b|\b(masquerade|snat|dnat|redirect|synproxy)\b|(-m |xt match ")(conntrack|state|connmark|connlimit|connbytes|helper)\b|(-j |xt target ")(CT|CONNMARK|MASQUERADE|SNAT|DNAT|REDIRECT|NETMAP|SYNPROXY)\b"#;
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(SIGNS).expect("it is tested"));
    PATTERN.is_match(rules)
}

fn without_watching(ruleset: &str) -> String {
    without(ruleset, |table| table.starts_with("harden_portsentry") && table != "harden_portsentry_blocks")
}

/// nft's listing without those of the inet tables whose names `is_left_out` takes.
fn without(ruleset: &str, is_left_out: impl Fn(&str) -> bool) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in ruleset.lines() {
        let name = line.strip_prefix("table inet ").and_then(|rest| rest.split_whitespace().next());
        inside |= name.is_some_and(&is_left_out);
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= line != "}";
    }
    kept
}

/// A rule as KILL_ROUTE inserts it and `iptables -S` prints it: one source, one target, nothing else.
pub fn is_block(rule: &str) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    matches!(words.as_slice(), ["-A", "INPUT", "-s", _, "-j", "DROP" | "CHAOS" | "REJECT"])
        || matches!(words.as_slice(), ["-A", "INPUT", "-s", _, "-j", "REJECT", "--reject-with", _])
}

impl RuleList {
    /// The rules of all chains of the filter table; none where the family's program is missing or IPv6 off, or in an image.
    ///
    /// # Errors
    /// The program is there and refuses to list them (no CAP_NET_ADMIN): then nobody knows what is blocked.
    pub fn ask(host: &Host, ipv6: bool) -> anyhow::Result<RuleList> {
        // Where IPv6 is off ip6tables fails, and there is nothing to block.
        let is_off = ipv6 && !std::path::Path::new("/proc/net/if_inet6").exists();
        if !host.is_live() || is_off || !host.exists(program(ipv6)) {
            return Ok(RuleList::default());
        }
        let listed = Invocation::new(program(ipv6), &["-w", "5", "-S"]).demand()?;
        Ok(RuleList(listed.stdout.lines().map(str::to_owned).collect()))
    }

    /// The same, a refusal counting as no rules.
    pub fn read(host: &Host, ipv6: bool) -> RuleList {
        RuleList::ask(host, ipv6).unwrap_or_default()
    }

    /// Both families, IPv4 first.
    ///
    /// # Errors
    /// As [`RuleList::ask`].
    pub fn ask_both(host: &Host) -> anyhow::Result<[RuleList; 2]> {
        Ok([RuleList::ask(host, false)?, RuleList::ask(host, true)?])
    }

    /// The rules that match packets from `address` alone.
    pub fn about(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let wanted = format!(" -s {address}/{bits} ");
        self.0.iter().map(String::as_str).filter(move |rule| rule.contains(&wanted))
    }

    /// Whether this very rule is among them.
    pub fn contains(&self, rule: &str) -> bool {
        self.0.iter().any(|one| one == rule)
    }

    /// How often [`CHAOS_RULE`] is among them.
    pub fn chaos_rules(&self) -> usize {
        self.0.iter().filter(|rule| rule.strip_prefix("-A ") == Some(CHAOS_RULE)).count()
    }

    /// As text, a rule a line.
    pub fn text(&self) -> String {
        self.0.join("\n")
    }

    /// From text, a rule a line.
    pub fn from_text(text: &str) -> RuleList {
        RuleList(text.lines().map(str::to_owned).collect())
    }
}

impl Host {
    /// Deletes the rule that `-A CHAIN …`, as `iptables -S` prints it, stands for.
    ///
    /// # Errors
    /// iptables' own words.
    pub fn delete_rule(&self, ipv6: bool, rule: &str) -> anyhow::Result<()> {
        let mut words = vec!["-w", "5", "-D"];
        words.extend(rule.split_whitespace().skip(1));
        Invocation::new(program(ipv6), &words).demand()?;
        Ok(())
    }

    /// Whether the kernel takes the rule `-s ADDRESS -j target`, tried in a network namespace of its own
    /// that is gone afterwards. `Err` carries what iptables said.
    pub fn try_rule(&self, ipv6: bool, target: &str) -> Result<(), String> {
        let address = if ipv6 { "2001:db8::1" } else { "192.0.2.1" }; // RFC 3849, RFC 5737: documentation
        let words = ["--net", "--", program(ipv6), "-w", "5", "-I", "INPUT", "-s", address, "-j", target];
        tried(&Invocation::new("unshare", &words))
    }

    /// Whether the kernel takes the ruleset `text` (nft's language), tried in the same way.
    pub fn try_ruleset(&self, text: &str) -> Result<(), String> {
        tried(&Invocation::new("unshare", &["--net", "--", "nft", "-f", "-"]).input(text))
    }
}

fn tried(invocation: &Invocation) -> Result<(), String> {
    match invocation.run() {
        Ok(output) if output.ok() => Ok(()),
        Ok(output) => Err(output.last_words()),
        Err(error) => Err(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_more_conditions_is_somebody_elses() {
        assert!(is_block("-A INPUT -s 203.0.113.9/32 -j DROP"));
        assert!(!is_block("-A INPUT -s 203.0.113.9/32 -p tcp -j DROP"));
        assert!(!is_block("-A FORWARD -s 203.0.113.9/32 -j DROP"));
    }

    #[test]
    fn who_tracks_connections_is_seen_by_the_rules() {
        for rules in ["-A PREROUTING -j CT --notrack", "\t\tudp dport 53 notrack", "-A PREROUTING -j NOTRACK"] {
            assert!(spares_tracking(rules), "{rules}");
        }
        for rules in [
            "\t\tct state established,related accept",
            "\t\toifname \"eth0\" masquerade",
            "-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.2",
            "\t\tmeta l4proto tcp xt match \"conntrack\" counter packets 0 bytes 0 accept",
        ] {
            assert!(needs_tracking(rules), "{rules}");
        }
        for rules in
            ["\t\ttcp dport 22 accept", "-A INPUT -s 203.0.113.9/32 -j DROP", "\t\tnotrack", "-A PREROUTING -j NOTRACK"]
        {
            assert!(!needs_tracking(rules), "{rules}");
        }
        let ours = "table inet harden_portsentry_blocks {\n\tchain judged {\n\t\tct state new drop\n\t}\n}\n";
        assert!(
            needs_tracking(ours) && !needs_tracking(&without(ours, |table| table.starts_with("harden_portsentry")))
        );
    }

    #[test]
    fn who_was_only_seen_is_not_taken_for_blocked() {
        let ruleset = "table ip a {\n\tset x {\n\t}\n}\ntable inet harden_portsentry_atcp {\n\tset seen {\n\t\telements = { 203.0.113.9 }\n\t}\n}\ntable ip b {\n}\n";
        assert_eq!(without_watching(ruleset), "table ip a {\n\tset x {\n\t}\n}\ntable ip b {\n}\n");
    }

    #[test]
    fn an_address_is_not_taken_for_its_neighbour() {
        let rules = RuleList::from_text(
            "-P INPUT ACCEPT\n-A INPUT -s 203.0.113.9/32 -j DROP\n-A INPUT -s 203.0.113.99/32 -j DROP",
        );
        let found: Vec<_> = rules.about([203, 0, 113, 9].into()).collect();
        assert_eq!(found, ["-A INPUT -s 203.0.113.9/32 -j DROP"]);
    }
}
