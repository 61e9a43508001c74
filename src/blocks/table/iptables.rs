//! By iptables: sets of ipset, and a chain in the filter table of each family that is jumped to for whoever is in them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Answer, TOLERANCE, Table, explained};
use crate::blocks::terms::Terms;
use crate::host::{Again, ChainName, Invocation, iptables};
use crate::kernel::{IpSets, Stay};

/// The chain, of both families.
const CHAIN: &str = "harden-portsentry";
/// The sets of addresses, IPv4 and IPv6.
const SETS: [&str; 2] = ["harden-portsentry4", "harden-portsentry6"];
/// Where it is jumped to from: what is for this host, and for those behind it.
const HOOKS: [&str; 2] = ["INPUT", "FORWARD"];
/// How long others may hold the lock of iptables, in seconds.
const PATIENCE: &str = "5";
/// Somebody may change the rules between a look and a change.
const TRIES: usize = 3;

/// The rules and the sets.
pub struct IptablesTable {
    sets: IpSets,
    answer: Answer,
    after: Option<ChainName>,
}

impl IptablesTable {
    /// Loads nothing yet.
    pub fn new(answer: Answer, after: Option<ChainName>) -> IptablesTable {
        IptablesTable { sets: IpSets::new(SETS), answer, after }
    }

    /// Whether its sets are there, without which there can be no rules that ask them.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is_there() -> Result<bool> {
        IpSets::new(SETS).any_is_there()
    }

    /// The chain that is jumped to right before ours.
    ///
    /// # Errors
    /// iptables is not installed, or refuses to tell.
    pub fn stands_after() -> Result<Option<ChainName>> {
        let rules = Rules::ask(iptables(false))?;
        let before = rules.of("INPUT").take_while(|rule| !is_ours(rule)).last().and_then(destination);
        Ok(before.and_then(|name| name.parse().ok()))
    }

    /// Takes all of it away, if it is there: everybody is free.
    ///
    /// # Errors
    /// iptables is not installed, or the kernel refuses.
    pub fn remove() -> Result<()> {
        let mut sets = IpSets::new(SETS);
        if !sets.any_is_there()? {
            return Ok(());
        }
        for family in families() {
            family.remove(family.program()).context("cannot take away the rules of blocked hosts")?;
            // One that cannot be read has none; if it has, the kernel says so of the sets.
            family.others().for_each(|other| drop(family.remove(&other)));
        }
        sets.destroy()
    }
}

impl Table for IptablesTable {
    fn is_current(&self, terms: &Terms) -> Result<bool> {
        let mut sets = IpSets::new(SETS);
        if sets.room()? != Some(terms.in_all) {
            return Ok(false);
        }
        let is_right = |family: Family| -> Result<bool> {
            let wanted = family.rules(terms, self.answer)?;
            Ok(family.is_as_wanted(&Rules::ask(family.program())?, &wanted, self.after.as_ref()))
        };
        // Each takes its milliseconds to start.
        let found = std::thread::scope(|scope| {
            let asked = families().map(|family| scope.spawn(move || is_right(family)));
            asked.collect::<Vec<_>>().into_iter().map(|asked| asked.join()).collect::<Vec<_>>()
        });
        found.into_iter().try_fold(true, |all, one| {
            Ok(one.map_err(|_| anyhow::anyhow!("the rules of iptables cannot be read"))?? && all)
        })
    }

    /// Does nothing: it takes no longer once it is known who is to be in it.
    fn begin(&mut self, _: &Terms) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        // What cannot be loaded leaves all as it was.
        let wanted = families().map(|family| Ok((family, family.rules(terms, self.answer)?)));
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        self.sets.fill(terms.in_all, addresses).map_err(explained)?;
        wanted.iter().try_for_each(|(family, rules)| family.load(rules, self.after.as_ref()))
    }

    /// Does nothing: the rules are loaded from their text each time.
    fn keep(&mut self) {}

    fn load_again(&mut self, terms: &Terms, addresses: &[(IpAddr, Stay)]) -> Result<Again> {
        if self.is_current(terms)? {
            return Ok(Again::Whole);
        }
        self.load(terms, addresses)?;
        Ok(Again::Missing)
    }

    fn answer(&mut self, answer: Answer) -> Answer {
        std::mem::replace(&mut self.answer, answer)
    }

    fn block(&mut self, addresses: &[(IpAddr, Stay)]) -> Result<()> {
        self.sets.put(addresses).map_err(explained)
    }

    fn free(&mut self, addresses: &[IpAddr]) -> Result<()> {
        self.sets.take(addresses)
    }

    fn has(&mut self, address: IpAddr) -> Result<bool> {
        self.sets.has(address)
    }

    fn list(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        self.sets.list()
    }

    fn blocked(&mut self) -> Result<HashMap<IpAddr, Stay>> {
        let mut all = self.sets.list()?;
        for family in families() {
            if !Rules::ask(family.program())?.of("INPUT").any(is_ours) {
                all.retain(|address, _| address.is_ipv6() != family.is_ipv6());
            }
        }
        Ok(all)
    }

    /// A block that is longer than ipset can have it is put in for as long as that can be, and renewed once half of that is
    /// over: not at every look, and long before it ends.
    fn is_right(&self, known: Stay, wanted: Stay) -> bool {
        match (known, wanted) {
            (Some(known), Some(wanted)) if wanted > IpSets::LONGEST => known > IpSets::LONGEST / 2,
            (Some(known), Some(wanted)) => known.abs_diff(wanted) <= TOLERANCE,
            _ => known == wanted,
        }
    }
}

/// IPv4, or IPv6: each has rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Those that this host has: where IPv6 is off ip6tables fails, and nothing comes by it.
fn families() -> impl Iterator<Item = Family> {
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    [Family::V4, Family::V6].into_iter().filter(move |family| *family == Family::V4 || has_ipv6)
}

impl Family {
    fn is_ipv6(self) -> bool {
        self == Family::V6
    }

    fn number(self) -> usize {
        usize::from(self.is_ipv6())
    }

    fn program(self) -> &'static str {
        iptables(self.is_ipv6())
    }

    /// Other programs by which rules can be there: somebody may have made another one of them `iptables` since. What the
    /// kernel has not loaded is not asked, for it would load it.
    fn others(self) -> impl Iterator<Item = String> {
        let names = if self.is_ipv6() { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        let is_legacy = std::fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == "filter"));
        let variants = ["-nft"].into_iter().chain(is_legacy.then_some("-legacy"));
        variants.map(move |variant| format!("{}{variant}", self.program())).filter(|other| Path::new(other).exists())
    }

    /// The rules of our chain, as iptables prints them.
    fn rules(self, terms: &Terms, answer: Answer) -> Result<Vec<String>> {
        let mut rules = vec!["-i lo -j RETURN".to_owned()];
        if self.is_ipv6() {
            // MLD, and routers and neighbours that ask and answer: nobody is cut off from his link.
            let kinds = (130..=136).chain([143]);
            rules.extend(kinds.map(|kind| format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN")));
            rules.push("-d ff00::/8 -p ipv6-icmp -j DROP".to_owned());
        }
        // Routers among themselves: VRRP, OSPF.
        let multicast = if self.is_ipv6() { "ff00::/8" } else { "224.0.0.0/4" };
        rules.push(format!("-d {multicast} ! -p udp -j RETURN"));
        if !terms.cut_established {
            // It would open anew what is remembered.
            let syn = "-p tcp -m tcp --tcp-flags SYN,RST,ACK SYN";
            rules.push(format!("{syn} -m conntrack --ctstate RELATED,ESTABLISHED -j DROP"));
            rules.push("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".to_owned());
        }
        // No more answers than that, and nobody's flood comes back.
        const LIMITED: &str = "-m limit --limit 200/sec --limit-burst 400";
        match answer {
            Answer::Drop => {}
            Answer::Reject => {
                let unreachable = if self.is_ipv6() { "icmp6-port-unreachable" } else { "icmp-port-unreachable" };
                rules.push(format!("-p tcp {LIMITED} -j REJECT --reject-with tcp-reset"));
                let limited = "-m limit --limit 20/sec --limit-burst 20";
                rules.push(format!("! -p tcp {limited} -j REJECT --reject-with {unreachable}"));
            }
            Answer::Chaos if self.is_ipv6() => {}
            Answer::Chaos => rules.push(format!("{LIMITED} -j CHAOS")),
            Answer::Noise => bail!(
                "noise is made by nftables alone; for a firewall of iptables choose drop, reject or chaos as response"
            ),
        }
        rules.push("-j DROP".to_owned());
        Ok(rules.into_iter().map(|rule| format!("-A {CHAIN} {rule}")).collect())
    }

    /// The rule that leads to it from each hook, without the hook's name.
    fn jump(self) -> String {
        format!("-m set --match-set {} src -j {CHAIN}", SETS[self.number()])
    }

    fn is_as_wanted(self, rules: &Rules, wanted: &[String], after: Option<&ChainName>) -> bool {
        let is_in_place = |hook: &str| {
            let all: Vec<&str> = rules.of(hook).collect();
            let ours: Vec<usize> = (0..all.len()).filter(|&at| is_ours(all[at])).collect();
            let jump = format!("-A {hook} {}", self.jump());
            ours == [rules.place(hook, after)] && all[ours[0]] == jump
        };
        rules.of(CHAIN).eq(wanted.iter().map(String::as_str)) && HOOKS.into_iter().all(is_in_place)
    }

    /// Loads the chain in the place of one that is there, and puts the jumps to it where they belong, in one transaction.
    fn load(self, wanted: &[String], after: Option<&ChainName>) -> Result<()> {
        let mut tries = 0;
        loop {
            let rules = Rules::ask(self.program())?;
            let jumps = HOOKS.map(|hook| format!("-I {hook} {} {}", rules.place(hook, after) + 1, self.jump()));
            let old = rules.jumps().filter(|rule| HOOKS.iter().any(|hook| rule.starts_with(&format!("-A {hook} "))));
            let lines = old.map(without).chain(jumps).chain(wanted.iter().cloned()).collect::<Vec<_>>();
            let text = format!("*filter\n:{CHAIN} - [0:0]\n{}\nCOMMIT\n", lines.join("\n"));
            tries += 1;
            match restore(self.program(), text) {
                Err(_) if tries < TRIES => {}
                other => {
                    return other.context(
                        "cannot load the rules of blocked hosts; iptables is in Debian's package of that name, and the \
                         kernel has to have its modules xt_set and xt_conntrack",
                    );
                }
            }
        }
    }

    /// Takes chain and jumps away, if they are there, with `program`.
    fn remove(self, program: &str) -> Result<()> {
        let rules = Rules::ask(program)?;
        if !rules.has_chain() {
            return Ok(());
        }
        let lines = rules.jumps().map(without).collect::<Vec<_>>().join("\n");
        restore(program, format!("*filter\n:{CHAIN} - [0:0]\n{lines}\n-X {CHAIN}\nCOMMIT\n"))
    }
}

fn restore(program: &str, text: String) -> Result<()> {
    // iptables-nft-restore and iptables-legacy-restore, too.
    let (family, variant) = program.split_once("tables").unwrap_or((program, ""));
    let program = format!("{family}tables{variant}-restore");
    Invocation::new(&program, &["-w", PATIENCE, "--noflush"]).input(text).demand().map(drop)
}

/// The rules of the filter table, as `iptables -S` prints them.
struct Rules(Vec<String>);

impl Rules {
    fn ask(program: &str) -> Result<Rules> {
        let listed = Invocation::new(program, &["-w", PATIENCE, "-S"])
            .demand()
            .context("cannot read the rules of iptables, which is in Debian's package of that name")?;
        Ok(Rules(listed.stdout.lines().map(str::to_owned).collect()))
    }

    /// Those of one chain, in their order.
    fn of(&self, chain: &str) -> impl Iterator<Item = &str> {
        let begin = format!("-A {chain} ");
        self.0.iter().map(String::as_str).filter(move |rule| rule.starts_with(&begin))
    }

    fn has_chain(&self) -> bool {
        self.0.iter().any(|line| line == &format!("-N {CHAIN}"))
    }

    /// Whatever leads to our chain.
    fn jumps(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|rule| is_ours(rule))
    }

    /// How many rules of `hook` are to stand before our jump: those up to the last one that leads to the chain `after`.
    fn place(&self, hook: &str, after: Option<&ChainName>) -> usize {
        let Some(after) = after.map(ChainName::to_string) else { return 0 };
        let others: Vec<&str> = self.of(hook).filter(|rule| !is_ours(rule)).collect();
        others.iter().rposition(|rule| destination(rule) == Some(&after)).map_or(0, |last| last + 1)
    }
}

/// The line that takes a rule away.
fn without(rule: &str) -> String {
    rule.replacen("-A", "-D", 1)
}

fn is_ours(rule: &str) -> bool {
    destination(rule) == Some(CHAIN)
}

/// Where a rule leads. What somebody noted beside it stands before that.
fn destination(rule: &str) -> Option<&str> {
    let mut words =
        rule.split_whitespace().rev().scan("", |behind, word| Some((word, std::mem::replace(behind, word))));
    words.find(|(word, _)| matches!(*word, "-j" | "-g")).map(|(_, behind)| behind)
}
