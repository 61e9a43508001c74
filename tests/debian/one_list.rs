//! One list: whoever is freed in one place is free in all of them, and whoever is blocked in one is so in all.

use crate::bed::{Bed, OTHER_OUTSIDER, OUTSIDER, Suite, seconds, wait_for};

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
    assert_eq!(since(OUTSIDER)["by"], "daemon", "fail2ban's restart blocked him anew");
    // Of a ban that was brought back as well.
    bed.ok(&format!("fail2ban-client set portsentry unbanip {OUTSIDER}"));
    wait_for(seconds(30), "him to be free", || is_free(OUTSIDER));
    bed.tool("unblock --all").succeeds();
    assert!(is_free(OTHER_OUTSIDER), "{}", bed.firewall());
    // fail2ban 1.1.1 reads the history again; what has stood there for a while says nothing any more.
    let history = format!("tail -n 1 {} | cut -d' ' -f1", suite.history());
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
}
