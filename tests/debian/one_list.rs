//! One list: whoever is freed in one place is free in all of them, and whoever is blocked in one is so in all.

use serde_json::json;

use crate::bed::{Bed, HOST, OTHER_OUTSIDER, OUTSIDER, Suite, is_embedded, seconds, wait_for};

pub fn who_is_freed_in_one_list_is_free_in_the_other(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    let is_banned = |address: &str| bed.ok("fail2ban-client status portsentry").contains(address);
    let caught = |address: &str| {
        bed.scan(address);
        bed.wait_until_blocked(address);
        bed.wait_until_banned(address);
        assert!(!bed.ssh_answers(address), "{}", bed.firewall());
    };
    let is_free = |address: &str| bed.ssh_answers(address) && !bed.firewall_names(address) && !is_banned(address);

    caught(OUTSIDER);
    caught(OTHER_OUTSIDER);
    bed.tool(&format!("unblock {OUTSIDER}")).succeeds().says("is free").says("lifted its ban");
    assert!(is_free(OUTSIDER), "{}", bed.firewall());
    assert!(!is_free(OTHER_OUTSIDER) && is_banned(OTHER_OUTSIDER));

    // Who scans again is caught again, and fail2ban's unban frees as well.
    caught(OUTSIDER);
    bed.ok(&format!("fail2ban-client set portsentry unbanip {OUTSIDER}"));
    wait_for(seconds(30), "him to be free", || is_free(OUTSIDER));
    assert!(!bed.tool("blocked").succeeds().stdout.contains(OUTSIDER));
    caught(OUTSIDER);

    // A restart of fail2ban lifts its bans one after the other, and brings them back: neither says anything of the blocks.
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("portsentry");
    for address in [OUTSIDER, OTHER_OUTSIDER] {
        bed.wait_until_banned(address);
        assert!(bed.firewall_names(address), "{}", bed.firewall());
    }
    let since = |address: &str| {
        let listed = bed.tool("blocked --format json").succeeds().stdout;
        let entries: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let entries = entries["blocked"].as_array().expect("a list").clone();
        entries.into_iter().find(|one| one["address"] == address).expect("blocked")
    };
    let watcher = if is_embedded() { "daemon" } else { "portsentry" };
    assert_eq!(since(OUTSIDER)["by"], watcher, "fail2ban's restart blocked him anew");
    // Of a ban that was brought back as well.
    bed.ok(&format!("fail2ban-client set portsentry unbanip {OUTSIDER}"));
    wait_for(seconds(30), "him to be free", || is_free(OUTSIDER));
    let freed = bed.tool("unblock --all --format json").succeeds().stdout;
    let freed: serde_json::Value = serde_json::from_str(&freed).expect("JSON");
    assert_eq!((&freed["result"]["freed"], &freed["bans_lifted"]), (&json!([OTHER_OUTSIDER]), &json!(1)), "{freed}");
    assert_eq!((&freed["portsentry"]["rules"], &freed["portsentry"]["lines"]), (&json!(0), &json!(0)), "{freed}");
    assert!(is_free(OTHER_OUTSIDER), "{}", bed.firewall());
    // fail2ban 1.1.1 reads the history again; what has stood there for a while says nothing any more.
    // 1.2 has seconds since 1970 there.
    let history = format!("tail -n 1 {} | cut -d' ' -f1 | sed 's/^[0-9]*$/@&/'", suite.history());
    let is_old = || bed.run(&format!("[ $(( $(date +%s) - $(date -d \"$({history})\" +%s) )) -gt 32 ]")).status == 0;
    wait_for(seconds(60), "the history to be old", is_old);
    bed.ok("systemctl restart fail2ban");
    bed.wait_for_jail("portsentry");
    bed.ok("fail2ban-client set portsentry banip 198.51.100.77");
    bed.wait_until_blocked("198.51.100.77"); // a ban by hand blocks, and what fail2ban did before it has ended
    for address in [OUTSIDER, OTHER_OUTSIDER] {
        assert!(!bed.firewall_names(address), "{}", bed.firewall());
    }
    bed.tool("unblock --all").succeeds();

    // A ban that is over because its time is.
    bed.ok("fail2ban-client set portsentry bantime 3");
    bed.scan(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    wait_for(seconds(60), "the ban to be over", || !is_banned(OUTSIDER));
    bed.ok("fail2ban-client set portsentry bantime 86400");
    caught(OTHER_OUTSIDER); // what fail2ban did before it has ended
    assert!(bed.firewall_names(OUTSIDER), "the block has a term of its own: {}", bed.firewall());

    // Who is stopped stays so, whomever it remembers.
    if !is_embedded() {
        bed.ok("systemctl stop 'portsentry*.service'");
        bed.tool(&format!("unblock {OTHER_OUTSIDER}")).succeeds();
        bed.run("pgrep -x portsentry").fails();
    }
}

/// A block that is over is so for everybody: kernel, TCP wrappers, fail2ban, and the portsentry that would not block again whom
/// it remembers. Whoever comes back is caught, for longer.
pub fn who_is_free_is_free_everywhere_and_caught_again(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.set_policy("[block]\nfirst = \"10s\"\n");
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    let is_denied = || bed.read("/var/lib/harden-portsentry/denied").contains(OUTSIDER);
    let is_banned = || bed.ok("fail2ban-client status portsentry").contains(OUTSIDER);
    let caught = |times: u64| {
        bed.scan(OUTSIDER);
        bed.wait_until_blocked(OUTSIDER);
        let listed = bed.tool("blocked --format json").succeeds().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed["blocked"][0]["times"], times, "{listed:#}");
        assert_eq!(listed["differences"], serde_json::json!({}), "{listed:#}");
    };
    caught(1);
    wait_for(seconds(60), "the ban", is_banned);
    wait_for(seconds(60), "the end of the block", || !bed.firewall_names(OUTSIDER));
    wait_for(seconds(60), "the end of the ban", || !is_banned());
    wait_for(seconds(60), "TCP wrappers to know", || !is_denied());
    assert!(bed.ssh_answers(OUTSIDER));
    // portsentry 2.0 is restarted for it, once a minute at most.
    wait_for(seconds(120), "portsentry to forget", || !bed.run(&remembers(&bed)).stdout.contains("caught"));
    bed.wait_until_it_listens();
    bed.tool("verify").succeeds();
    caught(2);
    bed.wait_until_banned(OUTSIDER);
}

/// A command that says whether Debian's portsentry remembers anybody.
fn remembers(bed: &Bed) -> String {
    let files = match bed.suite.has_portsentry_1() {
        true => "/var/lib/portsentry/portsentry.blocked.atcp /var/lib/portsentry/portsentry.blocked.audp",
        false => "/run/portsentry/portsentry.blocked",
    };
    format!("for file in {files}; do [ ! -s $file ] || echo caught; done")
}

/// What other lists say otherwise is named by `blocked`, `verify` and `diff`, and mended by `apply`.
pub fn lists_that_disagree_are_named_and_mended(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    let agree = || bed.tool("verify").status == 0;
    wait_for(seconds(20), "the lists to agree", agree);
    bed.tool("blocked").succeeds().says_not("disagree");

    let keeper = if is_embedded() { "harden-portsentry" } else { "harden-portsentry-keeper" };
    let table = "inet harden_portsentry_blocks blocked4";
    let tampered = |what: &str, says: &str| {
        // Whoever keeps the blocks would mend some of it by itself.
        bed.ok(&format!("systemctl kill --signal=STOP {keeper}"));
        bed.ok(what);
        bed.tool("verify").exits(2).says("the lists of who is blocked disagree").says(says);
        bed.tool("diff").exits(2).says("mend").says(says);
        bed.ok(&format!("systemctl kill --signal=CONT {keeper}"));
        bed.apply();
        wait_for(seconds(20), "the lists to agree", agree);
    };
    tampered(&format!("nft delete element {table} {{ {OUTSIDER} }}"), "not in the kernel's sets");
    tampered(&format!("nft add element {table} {{ {OTHER_OUTSIDER} }}"), "the ledger does not know of it");
    bed.tool("blocked").succeeds().says(OTHER_OUTSIDER);
    bed.tool(&format!("unblock {OTHER_OUTSIDER}")).succeeds();
    tampered("echo 203.0.113.12 >>/var/lib/harden-portsentry/denied", "TCP wrappers shut it out");
    let ban = "set portsentry action harden-portsentry actionban";
    let without_action = format!(
        "old=$(fail2ban-client get portsentry action harden-portsentry actionban); fail2ban-client {ban} '';
         fail2ban-client set portsentry banip 203.0.113.12; sleep 1; fail2ban-client {ban} \"$old\""
    );
    // It is given the time in which it brings back bans.
    let is_old = || bed.run("[ $(ps -o etimes= -C fail2ban-server | head -n 1) -gt 76 ]").status == 0;
    wait_for(seconds(120), "fail2ban to have settled", is_old);
    tampered(&without_action, "holds it for banned");
    assert!(!bed.ok("fail2ban-client status portsentry").contains("203.0.113.12"));
    if !is_embedded() && bed.suite.has_portsentry_1() {
        let line = "1795532234 - 11/24/2026 14:57:14 Host: 203.0.113.12/203.0.113.12 Port: 111 TCP Blocked";
        tampered(&format!("echo '{line}' >>/var/lib/portsentry/portsentry.blocked.atcp"), "which remembers it");
    }
    // Not of one who was blocked a moment ago.
    let listed = || bed.run("harden-portsentry blocked --format json | grep -o '\"since\": \"[^\"]*'").stdout;
    let since = listed().split('"').nth(3).expect("a time").trim().to_owned();
    let is_old = || bed.run(&format!("[ $(( $(date +%s) - $(date -d {since} +%s) )) -gt 11 ]")).status == 0;
    wait_for(seconds(30), "the block to be older", is_old);
    tampered(": >/var/lib/harden-portsentry/denied", "TCP wrappers let it in");
    // By name, too, as the history has it.
    assert!(bed.tool("blocked").succeeds().stdout.contains("NAME"));
}

/// An action of fail2ban's own, by policy.toml: its bans are rules of their own beside the blocks, for all protocols, and stay
/// when these end.
pub fn an_action_of_fail2bans_own(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let action =
        if matches!(suite, Suite::Bullseye | Suite::Bookworm) { "iptables-allports" } else { "nftables-allports" };
    bed.apt("install nftables iptables");
    bed.set_policy("banaction = \"no-such-action\"\n");
    bed.tool("diff").exits(2).says("there is no /etc/fail2ban/action.d/no-such-action.conf");
    bed.set_policy("banaction = \"no such\"\n");
    bed.tool("diff").exits(1).says("banaction");
    bed.set_policy(&format!("banaction = \"{action}\"\n[block]\nfirst = \"20s\"\n"));
    bed.apply();
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    let ruleset = "iptables-save; nft list ruleset | sed '/^table inet harden_portsentry/,/^}/d'";
    wait_for(seconds(60), "the ban's rule", || bed.ok(ruleset).contains(OUTSIDER));
    let is_over = || !bed.ok("harden-portsentry blocked").contains(OUTSIDER);
    wait_for(seconds(60), "the end of the block", is_over);
    assert!(!bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
    // It rejects, so that a closed port tells nothing: who is heard at an open one?
    bed.ok("(timeout 60 nc -u -l -p 40124 >/tmp/heard 2>/dev/null &)");
    let says = |source: &str| bed.attack(&format!("echo {source} | nc -u -w 1 -s {source} {HOST} 40124"));
    says(OUTSIDER);
    wait_for(seconds(30), "somebody else's datagram", || {
        says(OTHER_OUTSIDER);
        bed.read("/tmp/heard").contains(OTHER_OUTSIDER)
    });
    assert!(!bed.read("/tmp/heard").contains(&format!("{OUTSIDER}\n")), "{}", bed.firewall());
    bed.tool("verify").succeeds();
    bed.set_policy("");
    bed.apply();
    bed.wait_for_jail("portsentry");
    assert!(bed.ok("fail2ban-client get portsentry actions").contains("harden-portsentry"));
}

/// Whoever keeps the blocks of Debian's portsentry may be killed: it is there again, and what portsentry catches meanwhile is
/// blocked as well.
pub fn without_its_keeper_portsentry_blocks_as_well(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.ok("systemctl kill --signal=KILL harden-portsentry-keeper");
    let is_back = || bed.run("harden-portsentry blocked && systemctl is-active harden-portsentry-keeper").status == 0;
    wait_for(seconds(30), "the keeper", is_back);
    assert!(bed.firewall_names(OUTSIDER), "{}", bed.firewall());

    bed.ok("systemctl stop harden-portsentry-keeper");
    bed.tool("verify").exits(2).says("nobody keeps whom portsentry blocks");
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);
    bed.ok("systemctl start harden-portsentry-keeper");
    let listed = bed.tool("blocked").succeeds().stdout;
    assert!(listed.contains(OUTSIDER) && listed.contains(OTHER_OUTSIDER), "{listed}");
    wait_for(seconds(20), "verify to be content", || bed.tool("verify").status == 0);
    // Somebody flushes the firewall: it is back at once.
    bed.ok("nft flush ruleset");
    bed.wait_until_blocked(OUTSIDER);
    // Whom portsentry must not block it does not.
    bed.tool("block 192.168.66.9 --by portsentry").exits(1).says("must not be blocked");
}
