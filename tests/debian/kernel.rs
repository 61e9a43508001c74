//! Under Debian's own kernel, emulated, where CHAOS has its module: `.ci/full` runs these (`tests/run --full`).

use crate::bed::{
    Bed, Bookworm, Bullseye, Forky, GATEWAY, HOST, OTHER_OUTSIDER, OUTSIDER, PROGRAM, Suite, Trixie, wait_for,
};
use crate::firewalls::by_iptables_alone;

/// Where the kernel takes the rule, CHAOS it is: with `literal` by a rule for each host, as the article has it, which survives the
/// power going by fail2ban; else by one rule for all whom our sets name. Noise is made on the same kernel.
fn chaos_blocks_where_the_kernel_has_it(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    bed.set_policy("literal = true\n");
    bed.apply().says("CHAOS").says_not("not the article's CHAOS");
    bed.ok("grep -E '^KILL_ROUTE=.*CHAOS' /etc/portsentry/portsentry.conf");
    bed.tool("verify").succeeds().says_not("not the article's CHAOS");
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    assert!(bed.ssh_answers(OUTSIDER), "before the scan");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.ok(&format!("iptables -S INPUT | grep -E -- '-s {OUTSIDER}(/32)? .*-j CHAOS'"));
    wait_for(bed.patience(60), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    wait_for(bed.patience(60), "fail2ban's ban", || bed.ok("fail2ban-client status portsentry").contains(OUTSIDER));

    // What a machine has not yet written when its power goes is lost, and a ban of a second ago would be.
    bed.ok("sync");
    bed.power_cycle();
    bed.wait_until_it_listens();
    bed.wait_until_blocked(OUTSIDER);
    wait_for(bed.patience(60), "ssh to be refused after a boot", || !bed.ssh_answers(OUTSIDER));
    assert!(bed.ssh_answers(GATEWAY));
    bed.tool("verify").succeeds();

    bed.set_policy("");
    bed.apply().says(&format!("move {OUTSIDER} "));
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    let rules = bed.ok("iptables -S INPUT");
    assert_eq!(rules.matches("-m mark --mark 0x504f5254 -j CHAOS").count(), 1, "{rules}");
    assert!(!rules.contains(OUTSIDER) && !rules.contains(OTHER_OUTSIDER), "{rules}");
    for source in [OUTSIDER, OTHER_OUTSIDER] {
        assert_eq!(bed.greetings(source, 20), 0, "{source}: {}", bed.firewall());
    }
    bed.set_policy("response = \"noise\"\n");
    bed.apply();
    let (open, closed) = bed.looks(OUTSIDER);
    assert!(open > 10 && closed > 5, "{open} open, {closed} closed: this is no noise");
    assert_eq!(bed.greetings(OUTSIDER, 20), 0, "{}", bed.firewall());
    assert!(bed.ssh_answers(GATEWAY));
    bed.tool("undo 1 --yes").succeeds();
    assert!(!bed.firewall_names(OUTSIDER), "{}", bed.firewall());
}

/// Without the module, asked to install it: built for the running kernel, loaded, used.
fn install_chaos_builds_the_module(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    bed.apt("purge xtables-addons-dkms");
    bed.reboot();
    bed.run("modprobe xt_CHAOS").fails();
    bed.tool("apply --yes --response chaos").exits(1).says("--install-chaos");
    bed.run(&format!("{PROGRAM} apply --yes --response chaos --install-chaos")).succeeds();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    assert!(bed.firewall().contains("CHAOS"), "{}", bed.firewall());
}

/// The table that picks the packets, on the kernel that this Debian ships: every port of a scan is told, those of both
/// families, and the scanner is blocked.
fn the_embedded_engine_watches(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    // So that the rest of a scan is seen, too, once its first packet blocks: rules of iptables come later.
    bed.set_policy("literal = true\n");
    bed.apply();
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    for source in [OUTSIDER, "fd66::9"] {
        let family = if source.contains(':') { "-6 fd66::1" } else { HOST };
        bed.attack(&format!("nmap -sF -Pn -n --max-retries 0 --max-rate 200 -p 1-100 -S {source} -e wire {family}"))
            .succeeds();
        let told = || {
            bed.ok("cat /var/log/harden-portsentry/portsentry.log")
                .lines()
                .filter(|line| line.contains(&format!("from: [{source}]")))
                .count()
        };
        wait_for(bed.patience(60), &format!("99 ports without 22 of {source}, of which there are {}", told()), || {
            told() == 99
        });
    }
    bed.wait_until_blocked(OUTSIDER);
}

/// The block that is built in, on the kernel that this Debian ships: both families; a time that is renewed, which kernels
/// before 6.12 do not do by themselves; both tables back after a flush, by the transaction that was kept.
fn the_built_in_block_works(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    // This kernel has CHAOS, which would be taken otherwise, and that is a command's.
    bed.set_policy("response = \"drop\"\n");
    bed.apply();
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    let timeout = |address: &str| bed.ok("nft -s list set inet harden_portsentry_blocks blocked4").contains(address);
    for time in ["10m", "2h"] {
        bed.tool(&format!("block 203.0.113.77 --for {time}")).succeeds();
        assert!(timeout(&format!("203.0.113.77 timeout {time}")), "{time}: {}", bed.firewall());
    }
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    wait_for(bed.patience(60), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    assert!(bed.ssh_answers(GATEWAY), "{}", bed.firewall());
    // From now on nobody can start nft in the daemon's place.
    bed.ok("nsenter --mount -t $(systemctl show -p MainPID --value harden-portsentry) mount --bind /bin/false $(readlink -f /usr/sbin/nft)");
    bed.ok("nft flush ruleset");
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_it_listens();
    assert!(!bed.ssh_answers(OUTSIDER) && bed.ssh_answers(GATEWAY), "{}", bed.firewall());
    bed.scan_ipv6("2001:db8:66::10");
    bed.wait_until_blocked("2001:db8:66::10");

    bed.set_policy("response = \"noise\"\n");
    bed.apply();
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    let (open, closed) = bed.looks(OUTSIDER);
    println!("of 100 ports {open} look open and {closed} closed, by noise");
    assert!(open > 10 && closed > 5, "{open} open, {closed} closed");
    // With SYN cookies for everything the kernel knows again what it never sent: synproxy's cookies are its own.
    for cookies in [1, 2] {
        bed.ok(&format!("sysctl -qw net.ipv4.tcp_syncookies={cookies}"));
        assert_eq!(bed.greetings(OUTSIDER, 40), 0, "of 40 with tcp_syncookies={cookies}\n{}", bed.firewall());
    }
    // Nor while the table is loaded anew, by either family.
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| [OUTSIDER, "2001:db8:66::10"].map(|source| bed.greetings(source, 40)));
        for flavour in ["stable", "random", "stable", "random"] {
            bed.set_policy(&format!("response = \"noise\"\n[block]\nnoise = \"{flavour}\"\n"));
            bed.ok("systemctl reload harden-portsentry");
        }
        assert_eq!(tries.join().expect("it tries"), [0, 0], "{}", bed.firewall());
    });
    wait_for(bed.patience(60), "ssh to answer others", || bed.ssh_answers(GATEWAY));
    bed.tool("undo 1 --yes").succeeds();
    assert!(!bed.firewall_names(OUTSIDER), "{}", bed.firewall());
}

/// CHAOS by one rule for all whom our sets name, and noise on the same kernel: who is blocked gets no connection from
/// either, and who flushes the rule frees nobody. The same scans, side by side, are printed.
fn chaos_by_one_rule_and_noise_beside_it(suite: Suite) {
    const RULE: &str = "-A INPUT -m mark --mark 0x504f5254 -j CHAOS";
    let bed = Bed::own_kernel(suite).with_program();
    bed.apply().says("CHAOS").says_not("not the article's CHAOS");
    let rules = || bed.ok("iptables -S INPUT");
    let has_rule = || rules().matches(RULE).count() == 1;
    assert!(has_rule(), "{}", rules());
    bed.tool("verify").succeeds();
    bed.tool("diff").exits(0);
    bed.wait_until_it_listens();
    assert!(bed.ssh_answers(OUTSIDER), "before the scan");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    let is_refused = |when: &str| {
        assert_eq!(bed.greetings(OUTSIDER, 40), 0, "{when}: {}", bed.firewall());
        wait_for(bed.patience(60), "ssh to answer others", || bed.ssh_answers(GATEWAY));
    };
    is_refused("by CHAOS");
    assert!(!rules().contains(OUTSIDER), "a rule of its own: {}", rules());
    let counted = bed.ok("iptables -vnxL INPUT");
    let packets = counted.lines().find(|line| line.contains("CHAOS")).and_then(|line| line.split_whitespace().next());
    assert!(packets.is_some_and(|packets| packets != "0"), "CHAOS answered nobody: {counted}");
    let pictures = |response: &str| {
        (0..3).for_each(|_| println!("{response}: {:?} of 100 look open and closed", bed.looks(OUTSIDER)))
    };
    pictures("chaos");

    // Whoever looks after the rule stands still, to see what is without it.
    bed.ok("systemctl kill --signal=STOP harden-portsentry-chaos; iptables -F INPUT");
    is_refused("without the rule");
    bed.tool("verify").fails().says(RULE.trim_start_matches("-A "));
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    wait_for(bed.patience(60), "the rule, with the next block", has_rule);
    bed.ok("iptables -F INPUT; systemctl kill --signal=CONT harden-portsentry-chaos");
    wait_for(bed.patience(60), "the rule, though nobody is blocked anew", has_rule);
    bed.tool("verify").succeeds();
    bed.power_cycle();
    wait_for(bed.patience(60), "the rule, after a boot", has_rule);
    bed.wait_until_it_listens();
    bed.wait_until_blocked(OUTSIDER);
    is_refused("after a boot");

    bed.set_policy("response = \"noise\"\n");
    bed.apply();
    assert!(!rules().contains("CHAOS"), "{}", rules());
    bed.wait_until_it_listens();
    pictures("noise");
    is_refused("by noise");
    bed.set_policy("response = \"chaos\"\nliteral = true\n");
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    wait_for(bed.patience(60), "a rule of its own", || rules().contains(&format!("-s {OTHER_OUTSIDER}/32 -j CHAOS")));
    bed.tool("undo 1 --yes").succeeds();
    assert!(!bed.firewall().contains("CHAOS"), "{}", bed.firewall());
}

/// A kernel that has no nftables and has not loaded ipset, and CHAOS from its module.
fn blocked_by_iptables_alone(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    bed.ok("echo 'install nf_tables /bin/false' >/etc/modprobe.d/no-nftables.conf");
    bed.reboot();
    for answer in ["drop", "reject", "chaos"] {
        by_iptables_alone(&bed, "legacy", answer);
    }
    bed.run("grep -E '^nf_tables ' /proc/modules").fails();
}

/// A VLAN, and links without frames: tunnels and PPP, between this machine and a namespace of its own.
fn the_embedded_engine_watches_every_kind_of_interface(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.ok("ip netns add peer; ip link add v type veth peer name w; ip link set w netns peer; ip link set v up; ip -n peer link set w up
            ip addr add 10.8.0.1/24 dev v; ip -n peer addr add 10.8.0.2/24 dev w");
    let links = [
        ("vlan", "link add link v name vlan type vlan id 10", "link add link w name vlan type vlan id 10"),
        (
            "tunnel",
            "link add tunnel type ipip local 10.8.0.1 remote 10.8.0.2",
            "link add tunnel type ipip local 10.8.0.2 remote 10.8.0.1",
        ),
        (
            "gre",
            "link add gre type gre local 10.8.0.1 remote 10.8.0.2",
            "link add gre type gre local 10.8.0.2 remote 10.8.0.1",
        ),
    ];
    for (number, (name, here, there)) in links.into_iter().enumerate() {
        let net = 10 + number;
        bed.ok(&format!(
            "ip {here}; ip -n peer {there}; ip addr add 10.8.{net}.1/24 dev {name}; ip link set {name} up
                         ip -n peer addr add 10.8.{net}.2/24 dev {name}; ip -n peer link set {name} up"
        ));
        probe_is_told(&bed, net, name);
    }
    bed.ok("systemd-run --unit=ppp pppd nodetach noauth local 10.8.20.1:10.8.20.2 pty 'ip netns exec peer pppd nodetach noauth notty local 10.8.20.2:10.8.20.1'");
    wait_for(bed.patience(20), "PPP", || bed.run("ip netns exec peer ip addr show ppp0").stdout.contains("10.8.20.2"));
    probe_is_told(&bed, 20, "ppp");
}

/// A probe from 10.8.`net`.2 to .1, through the interface `name`.
fn probe_is_told(bed: &Bed, net: usize, name: &str) {
    let port = 700 + net;
    bed.run(&format!("ip netns exec peer timeout 5 bash -c '</dev/tcp/10.8.{net}.1/{port}'"));
    let told =
        || bed.run("cat /var/log/harden-portsentry/portsentry.log").stdout.contains(&format!("from: [10.8.{net}.2]"));
    wait_for(bed.patience(20), &format!("the probe through {name}"), told);
}

/// Somebody sets the clock a year ahead, and back. A block that was to last an hour lasts an hour, by either clock, and so
/// it does after a restart. Only an emulated machine has a clock of its own.
fn a_clock_that_jumps_makes_no_block_shorter_or_longer(suite: Suite) {
    let bed = Bed::own_kernel(suite).with_program();
    // This kernel has CHAOS, which would be taken otherwise, and that is a command's.
    bed.set_policy("response = \"drop\"\n");
    bed.apply();
    bed.wait_until_it_listens();
    bed.tool(&format!("block {OUTSIDER} --for 1h")).succeeds();
    let seconds_left = || -> i64 {
        let text = bed.tool("blocked --format json").succeeds().stdout;
        let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let one = &document["blocked"][0];
        assert_eq!((&one["address"], &one["in_kernel"]), (&OUTSIDER.into(), &true.into()), "{text}");
        let until: jiff::Timestamp = one["until"].as_str().expect("a time").parse().expect("a time");
        let now: i64 = bed.ok("date +%s").trim().parse().expect("a number");
        until.as_second() - now
    };
    // Emulation takes its time, and the block's runs meanwhile.
    let about_an_hour = |when: &str| {
        let left = seconds_left();
        assert!((1_800..=3_660).contains(&left), "{when}: {left} s");
        assert!(bed.firewall_names(OUTSIDER), "{when}: {}", bed.firewall());
    };
    about_an_hour("before");
    let heard = || bed.ok("journalctl -u harden-portsentry -o cat").matches("the clock was set").count();
    for (number, jump) in ["1 year", "1 year ago"].into_iter().enumerate() {
        bed.ok(&format!("date -s '{jump}'"));
        wait_for(bed.patience(20), "the daemon's notice of it", || heard() > number);
        about_an_hour(jump);
        bed.ok("systemctl restart harden-portsentry");
        bed.wait_until_it_listens();
        about_an_hour(&format!("{jump}, and a restart"));
    }
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
}

macro_rules! under_emulation {
    ($($kernel:ident, $suite:ident, $engine:ident: $($test:ident)*;)*) => {$(
        mod $kernel {
            $(#[test]
            #[ignore = "boots Debian's own kernel under emulation, minutes each: .ci/full runs it"]
            fn $test() {
                crate::bed::with_engine(crate::bed::Engine::$engine, || super::$test(super::$suite));
            })*
        }
    )*};
}

under_emulation! {
    kernel_11, Bullseye, Package: chaos_blocks_where_the_kernel_has_it blocked_by_iptables_alone;
    kernel_12, Bookworm, Package: chaos_blocks_where_the_kernel_has_it install_chaos_builds_the_module;
    kernel_13, Trixie, Package: chaos_blocks_where_the_kernel_has_it;
    kernel_14, Forky, Package: chaos_blocks_where_the_kernel_has_it;
    embedded_kernel_11, Bullseye, Embedded: the_embedded_engine_watches the_built_in_block_works
        chaos_by_one_rule_and_noise_beside_it;
    embedded_kernel_12, Bookworm, Embedded: the_embedded_engine_watches the_embedded_engine_watches_every_kind_of_interface
        the_built_in_block_works chaos_by_one_rule_and_noise_beside_it a_clock_that_jumps_makes_no_block_shorter_or_longer;
    embedded_kernel_13, Trixie, Embedded: the_embedded_engine_watches the_built_in_block_works;
    embedded_kernel_14, Forky, Embedded: the_embedded_engine_watches the_built_in_block_works;
}
