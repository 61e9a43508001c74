//! Which portsentry watches: Debian's, or the one built into the program.

use crate::bed::{Bed, OTHER_OUTSIDER, OUTSIDER, Suite};

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
    let only = |running: &str, other: &str| {
        bed.ok(&format!("systemctl is-active {running} && systemctl is-enabled {running}"));
        bed.run(&format!("systemctl is-active {other}")).fails();
        bed.run(&format!("systemctl is-enabled {other}")).fails();
    };
    bed.tool("apply --yes --engine embedded").succeeds();
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

    bed.tool("diff --engine package").exits(2).says("remove /etc/systemd/system/harden-portsentry.service");
    bed.tool("apply --yes --engine package").succeeds();
    only(&package, "harden-portsentry");
    bed.apply().says("nothing to change");
    bed.tool("verify").succeeds();
    bed.wait_until_it_listens();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);

    bed.tool("undo 1 --yes").succeeds();
    bed.tool("diff --format json").exits(2).says("\"chosen\": \"package\"");
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
