//! The embedded engine beside the firewalls that people run: each drops what is not for ssh, and is loaded again.

use crate::bed::{Bed, GATEWAY, HOST, OTHER_OUTSIDER, OUTSIDER, PROGRAM, Suite, is_embedded, wait_for};

/// Sees a scan of closed ports that the firewall drops, before and after `reload`; the scanner is blocked.
fn seen_behind(bed: &Bed, reload: &str) {
    bed.apply();
    bed.wait_until_it_listens();
    seen(bed, OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.ok(reload);
    bed.wait_until_it_listens();
    seen(bed, OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    // With that ban fail2ban finds that its rules were flushed, and brings back all of them.
    bed.wait_until_banned(OTHER_OUTSIDER);
    bed.tool("verify").succeeds();
    if is_embedded() {
        // Connections are tracked anyway.
        let (open, closed) = bed.looks(OUTSIDER);
        assert!(open > 10 && closed > 5, "{open} open, {closed} closed: this is no noise");
        assert!(!bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
        assert!(bed.ssh_answers(GATEWAY), "{}", bed.firewall());
        bed.tool("diff").exits(0);
    }
}

fn seen(bed: &Bed, source: &str) {
    assert!(bed.ssh_answers(source), "the firewall lets ssh through");
    let unblocked = bed.attack("nmap -sS -Pn -n --max-retries 0 -p 1-3 192.168.66.1");
    assert!(!unblocked.stdout.contains("closed"), "the firewall drops the rest: {unblocked}");
    bed.scan(source);
    // The first probe is enough: those behind it meet the block.
    let told =
        || bed.run("cat /var/log/harden-portsentry/portsentry.log").stdout.contains(&format!("from: [{source}]"));
    wait_for(bed.patience(20), &format!("{source} in the history"), told);
}

pub fn behind_nftables(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install nftables");
    bed.write(
        "/etc/nftables.conf",
        "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tct state established,related accept\n\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n\t\ttcp dport 22 accept\n\t}\n}\n",
    );
    bed.ok("systemctl enable nftables; systemctl restart nftables");
    seen_behind(&bed, "systemctl restart nftables");
}

pub fn behind_iptables_legacy(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install iptables");
    bed.ok("update-alternatives --set iptables /usr/sbin/iptables-legacy; update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy");
    let rules = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -P INPUT DROP";
    bed.ok(rules);
    seen_behind(&bed, &format!("iptables -P INPUT ACCEPT; iptables -F INPUT; {rules}"));
}

pub fn behind_ufw(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install ufw");
    bed.ok("ufw allow 22/tcp; ufw --force enable");
    seen_behind(&bed, "ufw reload");
}

pub fn behind_firewalld(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.apt("install firewalld");
    bed.wait_for_service("firewalld");
    bed.ok("firewall-cmd --set-default-zone=drop; firewall-cmd --permanent --zone=drop --add-service=ssh; firewall-cmd --reload");
    seen_behind(&bed, "firewall-cmd --reload");
}

/// What runs in the container: it greets whoever comes by TCP or UDP.
const GREETER: &str = r#"
use IO::Socket::INET; use IO::Select;
my $tcp = IO::Socket::INET->new(Listen => 9, LocalPort => 80, ReuseAddr => 1) or die;
my $udp = IO::Socket::INET->new(Proto => "udp", LocalPort => 53) or die;
for (;;) {
    for my $ready (IO::Select->new($tcp, $udp)->can_read) {
        if ($ready == $tcp) { my $client = $tcp->accept or next; print $client "by TCP\n"; close $client }
        else { $udp->recv(my $question, 99); $udp->send("by UDP\n") }
    }
}
"#;

/// Docker's published ports lead past INPUT to a container. Its restarts leave the blocks whole, and a flush of its filter
/// rules does; apply, verify and undo leave its rules as they were.
pub fn behind_docker(suite: Suite) {
    let bed = Bed::up(suite, &["--docker"]).with_program();
    bed.tool("diff").exits(2).says("response drop");
    bed.ok("export APT_CONFIG=/var/cache/docker/apt.conf DEBIAN_FRONTEND=noninteractive
            apt-get -q -y --no-install-recommends install docker.io $(apt-cache pkgnames docker-cli)");
    bed.wait_for_service("docker");
    // Its programs are this host's.
    bed.write("/srv/greeter", GREETER);
    bed.ok("tar -c --files-from=/dev/null | docker import - nothing
            docker run --detach --restart=always --stop-signal=KILL --publish 8080:80 --publish 5353:53/udp \
                $(printf -- ' --volume %s:%s:ro' /usr /usr /lib /lib /lib64 /lib64 /srv /srv) nothing perl /srv/greeter");
    let reaches_all = |source: &str| greets(&bed, source) == [true; 3];
    let only_others_reach = |when: &str| {
        wait_for(bed.patience(60), &format!("what an innocent reaches, {when}"), || reaches_all(OTHER_OUTSIDER));
        assert_eq!(greets(&bed, OUTSIDER), [false; 3], "{when}: {}", bed.firewall());
        bed.tool("verify").succeeds();
        bed.tool("diff").exits(0);
    };
    wait_for(bed.patience(60), "what nobody is kept from", || reaches_all(OUTSIDER) && reaches_all(OTHER_OUTSIDER));

    let before = dockers_rules(&bed);
    assert!(before.contains("DNAT --to-destination"), "{before}");
    // It has the kernel track connections.
    bed.tool("diff").exits(2).says("response noise");
    for response in ["auto", "drop"] {
        bed.set_policy(&format!("response = \"{response}\"\n"));
        let before = dockers_rules(&bed);
        bed.apply();
        bed.wait_until_it_listens();
        if response == "auto" {
            bed.scan(OUTSIDER);
            bed.wait_until_blocked(OUTSIDER);
            bed.wait_until_banned(OUTSIDER);
        }
        only_others_reach("blocked");
        assert_eq!(dockers_rules(&bed), before);
        let (open, closed) = bed.looks(OUTSIDER);
        let is_noise = open > 10 && closed > 5;
        assert_eq!(is_noise, response == "auto", "{response}: {open} open, {closed} closed");

        bed.ok("systemctl reset-failed docker; systemctl restart docker");
        only_others_reach("after Docker's restart");
        bed.ok("iptables -P FORWARD ACCEPT; iptables -F");
        only_others_reach("without Docker's filter");
        bed.ok("systemctl reset-failed docker; systemctl restart docker");
        only_others_reach("with Docker's filter again");
    }
    // As compose makes one for each project, with a bridge whose name and address are other ones the next time.
    bed.ok("docker network create --subnet 172.30.0.0/24 --gateway 172.30.0.1 project");
    bed.ok("ip -brief address | grep 172.30.0.1/");
    bed.tool("diff").exits(0);
    bed.tool("verify").succeeds();
    bed.tool("block 172.30.0.1").fails().says("own address");
    bed.ok("docker network rm project");
    let before = dockers_rules(&bed);
    bed.tool("undo 1 --yes").succeeds();
    assert_eq!(dockers_rules(&bed), before);
    wait_for(bed.patience(60), "what nobody is kept from any more", || reaches_all(OUTSIDER));
}

/// What of this host's ssh and the container's two services greets that source; each of them is tried five times at once.
fn greets(bed: &Bed, source: &str) -> [bool; 3] {
    let tried = format!(
        "for i in $(seq 5); do
            nc -w 3 -s {source} {HOST} 22 </dev/null & nc -w 3 -s {source} {HOST} 8080 </dev/null &
            echo hello | nc -u -w 1 -s {source} {HOST} 5353 &
         done; wait"
    );
    let heard = bed.attack(&tried).stdout;
    ["SSH-", "by TCP", "by UDP"].map(|greeting| heard.contains(greeting))
}

/// All rules of both families, without comments and counters.
fn dockers_rules(bed: &Bed) -> String {
    bed.ok("(iptables-save; ip6tables-save) | sed '/^#/d; s/ \\[[0-9:]*\\]$//'")
}

/// Only iptables, of either kind, and no package beside it.
pub fn blocked_by_iptables_alone(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    for (kind, answer) in [("nft", "drop"), ("nft", "reject"), ("legacy", "reject")] {
        // Those of the other kind would go on.
        bed.ok("iptables -F; ip6tables -F");
        by_iptables_alone(&bed, kind, answer);
    }
}

/// Who is blocked is, behind a chain with a whitelist and after a flush; and what this Debian's iptables prints of our
/// rules is what was loaded: rules that are as they should be are not loaded again.
pub fn by_iptables_alone(bed: &Bed, kind: &str, answer: &str) {
    assert!(!bed.exists("/usr/sbin/ipset") && !bed.exists("/usr/sbin/nft"));
    bed.ok(&format!(
        "update-alternatives --set iptables /usr/sbin/iptables-{kind}
         update-alternatives --set ip6tables /usr/sbin/ip6tables-{kind}
         iptables -F; iptables -N friends 2>/dev/null; iptables -A INPUT -j friends; iptables -A INPUT -j ACCEPT
         mkdir -p /etc/harden-portsentry"
    ));
    let lines = "TCP_PORTS=\"1-1023\"\nFIREWALL=\"iptables\"\nWHITELIST_CHAIN=\"friends\"\n";
    bed.write("/etc/harden-portsentry/blocks.conf", &format!("{lines}KILL_NFT=\"{answer}\"\n"));
    let is_blocked = || {
        assert!(!bed.ssh_answers(OUTSIDER), "{kind}, {answer}: {}", bed.firewall());
        assert!(bed.ssh_answers(OTHER_OUTSIDER), "{kind}, {answer}: {}", bed.firewall());
    };
    bed.tool(&format!("block {OUTSIDER} --for 1h")).succeeds();
    bed.tool("block 2001:db8:66::9 --for forever").succeeds();
    is_blocked();
    let loads =
        || bed.ok(&format!("strace -f -e trace=execve {PROGRAM} restore 2>&1")).matches("tables-restore\", [").count();
    assert_eq!(loads(), 0, "{kind}, {answer}: {}", bed.firewall());
    bed.ok("iptables -F; ip6tables -F");
    assert!(bed.ssh_answers(OUTSIDER));
    assert_eq!(loads(), 2, "{kind}, {answer}");
    is_blocked();
    bed.tool("unblock --all").succeeds();
    assert!(bed.ssh_answers(OUTSIDER), "{kind}, {answer}: {}", bed.firewall());
}

/// `firewall = "iptables"` of policy.toml: whom Debian's portsentry catches a chain of iptables blocks, behind the whitelist that
/// is named and before what accepts all, over a flush and a boot; nothing of it stays after undo.
pub fn portsentry_blocks_by_iptables_alone(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok(&format!(
        "iptables -N friends; iptables -A friends -s {OTHER_OUTSIDER} -j ACCEPT
         iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -j friends; iptables -A INPUT -j ACCEPT"
    ));
    let before = bed.ok("iptables -S; ip6tables -S");
    bed.set_policy("firewall = \"iptables\"\nwhitelist_chain = \"friends\"\n");
    bed.tool("diff --engine embedded").exits(1).says("firewall = \"iptables\"").says("--engine package");
    bed.tool("diff --response noise").exits(1).says("made by nftables");
    bed.tool("apply --yes").succeeds().says("behind the jumps to friends");
    bed.wait_until_it_listens();
    let rules = bed.ok("iptables -S INPUT");
    let place = |what: &str| rules.lines().position(|rule| rule.contains(what)).expect(what);
    assert!(place("-j friends") < place("-j harden-portsentry"), "{rules}");
    assert!(rules.trim_end().ends_with("-A INPUT -j ACCEPT"), "{rules}");

    let listed = |address: &str| bed.ok("harden-portsentry blocked").contains(address);
    for address in [OUTSIDER, OTHER_OUTSIDER] {
        bed.scan(address);
        wait_for(bed.patience(60), &format!("{address} to be blocked"), || listed(address));
    }
    let is_right = || !bed.ssh_answers(OUTSIDER) && bed.ssh_answers(OTHER_OUTSIDER) && bed.ssh_answers(GATEWAY);
    // TCP wrappers shut a friend out, too, and it is the firewall that is asked about here.
    bed.ok("echo 'ALL: ALL' >>/etc/hosts.allow");
    assert!(is_right(), "{}", bed.firewall());
    bed.tool("verify").succeeds();
    bed.run("nft list tables 2>/dev/null | grep harden_portsentry").fails();

    bed.ok("iptables -F INPUT; iptables -A INPUT -j friends; iptables -A INPUT -j ACCEPT; harden-portsentry restore");
    assert!(is_right(), "{}", bed.firewall());
    bed.reboot();
    wait_for(bed.patience(30), "the block after a boot", || !bed.ssh_answers(OUTSIDER));
    bed.ok("systemctl is-active harden-portsentry-blocks harden-portsentry-keeper");

    bed.ok("sed -i '/^ALL: ALL$/d' /etc/hosts.allow");
    bed.tool("undo --yes").succeeds();
    assert!(bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
    let after = bed.ok("iptables -S; ip6tables -S");
    assert!(!after.contains("harden-portsentry"), "{after} (before: {before})");
    bed.apt("install ipset");
    assert_eq!(bed.ok("ipset list -n"), "");
}
