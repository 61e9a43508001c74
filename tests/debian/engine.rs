//! Which portsentry watches: Debian's, or the one built into the program.

use crate::article::DROP;
use crate::bed::{Bed, OTHER_OUTSIDER, OUTSIDER, PROGRAM, Suite, seconds, wait_for};

/// auto takes Debian's while apt has it; the embedded one is asked for, or is what is left.
pub fn where_apt_has_no_portsentry_the_embedded_one_takes_its_place(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.tool("diff").exits(2).says_not("embedded").says("edit /etc/portsentry/portsentry.conf");

    bed.write("/etc/apt/preferences.d/none", "Package: portsentry\nPin: release *\nPin-Priority: -1\n");
    bed.run("apt-get install -y portsentry").fails().says("no installation candidate");
    bed.tool("diff --engine package").exits(1).says("apt has no package portsentry").says("--engine embedded");
    bed.tool("diff")
        .exits(2)
        .says("apt has no package portsentry, so the portsentry built into this program watches")
        .says("/etc/harden-portsentry/portsentry.conf")
        .says_not("edit /etc/portsentry/portsentry.conf");
    bed.tool("diff --format json").exits(2).says("\"fallback\": \"apt has no package portsentry\"");
}

/// `--engine embedded` is said once; what comes after it, a boot too, keeps it, until the package is asked for by name.
pub fn the_embedded_one_stays_until_the_package_is_asked_for(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let package = suite.units().join(" ");
    // `is-active` and `is-enabled` are content with one of several.
    let only = |running: &str, others: &str| {
        for unit in running.split(' ') {
            bed.ok(&format!("systemctl is-active {unit} && systemctl is-enabled {unit}"));
        }
        for unit in others.split(' ') {
            bed.run(&format!("systemctl is-active {unit}")).fails();
            bed.run(&format!("systemctl is-enabled {unit}")).fails();
        }
    };
    // Root's shell may keep from others whatever it makes; the watcher is one of them.
    bed.run(&format!("cd /root && umask 077 && {PROGRAM} apply --yes --engine embedded")).succeeds();
    only("harden-portsentry", &package);
    let before = bed.stamps("/etc /usr/local");
    bed.tool("diff -v")
        .exits(0)
        .says("an earlier apply set up the embedded one, so it stays; --engine package changes over");
    bed.apply().says("nothing to change");
    bed.tool("verify").succeeds();
    bed.reboot();
    bed.apply().says("nothing to change");
    only("harden-portsentry", &package);
    assert_eq!(bed.stamps("/etc /usr/local"), before, "nothing is written");
    bed.scan_ipv6("2001:db8:66::10");
    bed.wait_until_blocked("2001:db8:66::10");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);

    bed.wait_until_banned(OUTSIDER);
    assert!(!bed.ssh_answers(OUTSIDER), "it is blocked");

    bed.tool("diff --engine package").exits(2).says("remove /etc/systemd/system/harden-portsentry.service");
    bed.tool("apply --yes --engine package").succeeds();
    only(&package, "harden-portsentry harden-portsentry-responder.socket harden-portsentry-names.socket");
    only("harden-portsentry-blocks harden-portsentry-keeper", "harden-portsentry");
    nothing_is_left_of_the_embedded_one(&bed);
    assert!(
        !bed.ssh_answers(OUTSIDER) && bed.firewall_names(OUTSIDER),
        "whoever is blocked stays so:\n{}",
        bed.firewall()
    );
    assert!(bed.ok("harden-portsentry blocked").contains("2001:db8:66::10"));
    bed.apply().says("nothing to change");
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);

    bed.tool("undo 1 --yes").succeeds();
    assert!(bed.ssh_answers(OUTSIDER) && !bed.firewall_names(OUTSIDER), "undo frees:\n{}", bed.firewall());
    bed.tool("diff --format json").exits(2).says("\"chosen\": \"package\"");
}

/// Whom the ledger blocks though he is safe, a responder that nobody can ask, blocks that did not come back at boot.
pub fn verify_names_what_fails_beside_the_watcher(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();

    // What an ACL lets the watcher read it can read.
    bed.ok(&format!("chmod 640 {}", suite.conf()));
    bed.tool("diff -v").says("cannot be read by the user harden-portsentry").says("setfacl -m");
    bed.ok(&format!("setfacl -m u:harden-portsentry:r {}", suite.conf()));
    bed.tool("diff -v").says_not("cannot be read by");
    bed.apply(); // which restarts it, for the file was touched

    bed.ok("systemctl stop harden-portsentry-responder.socket");
    bed.tool("verify")
        .exits(2)
        .says("harden-portsentry-responder.socket is inactive")
        .says("systemctl status harden-portsentry-responder.socket");
    bed.ok("systemctl start harden-portsentry-responder.socket");

    let drop_in = "/run/systemd/system/harden-portsentry-blocks.service.d";
    bed.ok(&format!(
        "mkdir -p {drop_in}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >{drop_in}/test.conf"
    ));
    bed.run("systemctl daemon-reload; systemctl restart harden-portsentry-blocks").fails();
    bed.tool("verify")
        .exits(2)
        .says("harden-portsentry-blocks.service is failed")
        .says("systemctl status harden-portsentry-blocks.service");
    bed.ok(&format!("rm -r {drop_in}; systemctl daemon-reload; systemctl start harden-portsentry-blocks"));
    bed.tool("verify").succeeds();

    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    bed.set_policy(&format!("safe = [\"{OUTSIDER}\"]\n"));
    bed.tool("verify")
        .exits(2)
        .says("a safe address is blocked")
        .says(&format!("harden-portsentry unblock {OUTSIDER}"));
    bed.ok(&format!("harden-portsentry unblock {OUTSIDER}"));
    bed.apply();
    bed.tool("verify").succeeds();
}

/// As if the kernel had CHAOS: its extension is there, a module is listed, and what iptables is told to do with it is done
/// with DROP.
const CHAOS: &str = r#"
    mkdir -p /lib/modules/$(uname -r); echo 'updates/dkms/xt_CHAOS.ko:' >>/lib/modules/$(uname -r)/modules.dep
    rm /usr/sbin/iptables
    printf '%s\n' '#!/bin/sh' 'for word; do shift; [ "$word" != CHAOS ] || word=DROP; set -- "$@" "$word"; done' \
        'exec /usr/sbin/xtables-nft-multi iptables "$@"' >/usr/sbin/iptables
    chmod 755 /usr/sbin/iptables"#;

/// CHAOS by a rule for each host is iptables' alone: the ledger ends with the block that was built in, and does not come
/// back with a boot.
pub fn a_change_to_the_literal_chaos_frees_whom_the_ledger_holds(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    bed.apt("install xtables-addons-common");
    bed.ok(CHAOS);
    bed.set_policy("literal = true\n");
    bed.tool("diff")
        .exits(2)
        .says("by a rule of CHAOS a host")
        .says("one host is blocked by portsentry or by hand: freed, and forgotten");
    bed.apply();
    let is_free = || bed.ssh_answers(OUTSIDER) && !bed.firewall_names(OUTSIDER);
    assert!(is_free(), "{}", bed.firewall());
    assert!(!bed.exists("/var/lib/harden-portsentry/blocks/ledger"));
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    assert!(bed.ok("iptables -S INPUT").contains(OTHER_OUTSIDER), "by a rule");
    bed.tool("verify").succeeds();
    bed.reboot();
    bed.run("nft list tables | grep harden_portsentry_blocks").fails();
    bed.wait_until_it_listens();
    assert!(is_free(), "{}", bed.firewall());
}

/// What README says about freeing somebody, done as it stands there.
pub fn whom_readme_frees_is_free(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    wait_for(seconds(30), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    let lines = include_str!("../../README.md").lines().skip_while(|line| !line.starts_with("## Who is blocked"));
    let is_it = |line: &&str| line.trim_start().starts_with("harden-portsentry unblock 203.0.113.9");
    let command = lines.take_while(|line| !line.starts_with("**You have")).find(is_it).expect("a command");
    let command = command.replace("free at once, everywhere", "");
    let is_free = || {
        bed.ssh_answers(OUTSIDER)
            && !bed.firewall_names(OUTSIDER)
            && !bed.ok("cat /etc/hosts.deny; fail2ban-client status portsentry").contains(OUTSIDER)
    };
    bed.ok(&command);
    assert!(is_free(), "{}", bed.firewall());
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();

    // Whoever is free and scans again is blocked again.
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    bed.wait_until_banned(OTHER_OUTSIDER);
    bed.ok("harden-portsentry unblock --all");
    assert!(is_free() && bed.ssh_answers(OTHER_OUTSIDER), "{}", bed.firewall());
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();
    bed.tool(&format!("unblock {OUTSIDER}")).succeeds().says("was not blocked");
}

/// Whoever is blocked when policy.toml begins to name him is free as soon as that is applied, over a boot, too.
pub fn whom_safe_names_is_freed_by_apply(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    for address in [OUTSIDER, OTHER_OUTSIDER] {
        bed.scan(address);
        bed.wait_until_blocked(address);
    }
    bed.set_policy(&format!("safe = [\"{OUTSIDER}\"]\n"));
    bed.apply();
    let is_right = || !bed.firewall_names(OUTSIDER) && bed.ssh_answers(OUTSIDER) && !bed.ssh_answers(OTHER_OUTSIDER);
    assert!(is_right(), "{}", bed.firewall());
    assert!(!bed.ok("harden-portsentry blocked").contains(&format!("{OUTSIDER} ")), "the ledger has forgotten him");
    bed.tool("verify").succeeds();
    bed.power_cycle();
    bed.wait_until_it_listens();
    assert!(is_right(), "{}", bed.firewall());
}

/// A host that was set up by hand, as in the article: whoever is blocked there by rules and lines of his own comes into the
/// ledger, is never free meanwhile, and ends as every block does. What somebody else wrote stays, and is named.
pub fn what_was_blocked_before_comes_into_the_ledger(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok("printf 'ALL: 198.51.100.1 : DENY\n' >>/etc/hosts.deny; iptables -I INPUT -s 198.51.100.1 -j DROP");
    bed.block_by_hand(DROP);
    bed.scan(OUTSIDER);
    wait_for(seconds(30), "a rule", || bed.ok("iptables -S INPUT").contains(OUTSIDER));
    // Stock, 2.0 writes none.
    let has_line = || bed.read("/etc/hosts.deny").contains(OUTSIDER);
    wait_for(seconds(30), "a line", || has_line() == suite.has_portsentry_1());
    // He is one of us from now on.
    bed.scan(OTHER_OUTSIDER);
    wait_for(seconds(30), "a rule", || bed.ok("iptables -S INPUT").contains(OTHER_OUTSIDER));
    bed.set_policy(&format!("safe = [\"{OTHER_OUTSIDER}\"]\n"));
    assert!(!bed.ssh_answers(OUTSIDER) && !bed.ssh_answers(OTHER_OUTSIDER));
    let before = bed.read("/etc/hosts.deny");

    // On one of them the embedded one takes over.
    let engine = if suite == Suite::Trixie { "embedded" } else { "package" };
    let diff = bed.tool(&format!("diff --engine {engine}")).exits(2).says("move").says(&format!("{OUTSIDER} ")).stdout;
    assert!(diff.contains(&format!("{OTHER_OUTSIDER} is never blocked")), "{diff}");
    assert_eq!(diff.contains("-ALL: 203.0.113.9 : DENY"), suite.has_portsentry_1(), "{diff}");
    bed.tool(&format!("apply --yes --engine {engine}"))
        .succeeds()
        .says("rules as Debian's portsentry makes them")
        .says("until you remove them: 198.51.100.1");
    assert!(!bed.ssh_answers(OUTSIDER) && bed.ssh_answers(OTHER_OUTSIDER), "{}", bed.firewall());
    let rules = bed.ok("iptables -S INPUT");
    assert!(!rules.contains(OUTSIDER) && !rules.contains(OTHER_OUTSIDER) && rules.contains("198.51.100.1"), "{rules}");
    let denied = bed.read("/etc/hosts.deny");
    assert!(!denied.contains(OUTSIDER) && denied.contains("198.51.100.1"), "{denied}");
    let listed = bed.tool("blocked").succeeds().says("blocked before").stdout;
    assert!(listed.contains(&format!("{OUTSIDER} ")), "{listed}");
    assert!(!listed.contains(OTHER_OUTSIDER) && !listed.contains("198.51.100.1"), "{listed}");
    bed.tool("verify").succeeds();
    bed.apply().says("nothing to change");

    bed.tool(&format!("unblock {OUTSIDER}")).succeeds();
    assert!(bed.ssh_answers(OUTSIDER) && !bed.firewall_names(OUTSIDER), "{}", bed.firewall());
    bed.tool("undo --yes").succeeds();
    assert_eq!(bed.read("/etc/hosts.deny"), before);
}

/// Neither in the kernel nor on the disk, but for its history, and the blocks, which are the keeper's now.
fn nothing_is_left_of_the_embedded_one(bed: &Bed) {
    bed.run("nft list tables | grep -x 'table inet harden_portsentry'").fails();
    bed.run("getent passwd harden-portsentry").fails();
    bed.run("pgrep -f 'harden-portsentry [dr](aemon|esponder)'").fails();
    let places =
        "/run/harden-portsentry-responder.sock /run/harden-portsentry-names.sock /var/lib/harden-portsentry/metrics";
    assert_eq!(bed.run(&format!("ls -d {places} 2>/dev/null")).stdout, "", "left behind");
    let owners = bed.ok("stat -c %U /var/lib/harden-portsentry/blocks /var/lib/harden-portsentry/blocks/*");
    assert!(owners.lines().all(|owner| owner == "root"), "{owners}");
}

/// Whoever installs Debian's package later is asked nothing, and has one portsentry that watches, still the embedded one.
pub fn a_later_apt_install_starts_no_second_daemon(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.tool("apply --yes --engine embedded").succeeds();
    bed.run("DEBIAN_FRONTEND=noninteractive apt-get install -y portsentry </dev/null")
        .succeeds()
        .says_not("onfiguration file");
    bed.run("pgrep -x portsentry").fails();
    bed.ok("systemctl is-active harden-portsentry");
    for unit in ["portsentry", "portsentry@atcp"] {
        let _ = bed.run(&format!("systemctl start {unit}"));
    }
    bed.run("pgrep -x portsentry").fails();
    bed.apply();
    bed.tool("verify").succeeds();
    bed.apply().says("nothing to change");
    bed.tool("apply --yes --engine package").succeeds();
    bed.tool("verify").succeeds();
    bed.run("systemctl is-active harden-portsentry").fails();
    bed.run("pgrep -x portsentry").succeeds();
}

/// An undo of the change from the article's rules to our table leaves nothing of that, though the first apply stays.
pub fn an_undo_back_to_the_literal_chaos_leaves_no_table(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apt("install xtables-addons-common");
    bed.ok(CHAOS);
    bed.set_policy("literal = true\n");
    bed.apply().says("by a rule of CHAOS a host");
    bed.set_policy("");
    // Its rule is one of DROP here.
    bed.tool("apply --yes").exits(3).says("blocked hosts meet silence, not CHAOS");
    bed.tool("block 203.0.113.77 --for forever").succeeds();
    assert!(bed.firewall_names("203.0.113.77"));
    bed.tool("undo --yes").succeeds();
    bed.run("nft list tables | grep harden_portsentry_blocks").fails();
    bed.run("systemctl is-active harden-portsentry-keeper").fails();
    assert!(!bed.exists("/var/lib/harden-portsentry/blocks/ledger"));
    assert!(bed.read(suite.conf()).contains("-j CHAOS"));
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    wait_for(seconds(60), "a rule", || bed.ok("iptables -S INPUT").contains(OUTSIDER));
}
