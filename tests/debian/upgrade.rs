//! The next Debian's portsentry over our configuration.

use crate::bed::{Bed, Bookworm, Forky, GATEWAY, OTHER_OUTSIDER, OUTSIDER, Suite, Trixie, seconds, wait_for};

/// Upgrades portsentry and fail2ban, as `apt full-upgrade` would, to the next release's.
fn upgrade(bed: &mut Bed) {
    bed.run(
        "APT_CONFIG=/var/cache/next-release/apt.conf DEBIAN_FRONTEND=noninteractive \
         apt-get -q -y -o Dpkg::Options::=--force-confold install portsentry fail2ban",
    )
    .succeeds();
    bed.suite = if bed.suite == Bookworm { Trixie } else { Forky };
}

fn protects(bed: &Bed) {
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(GATEWAY);
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    wait_for(seconds(30), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    assert!(bed.ssh_answers(GATEWAY), "the gateway stays safe");
}

/// 12 → 13: the postinst links what the default file says, so the units come over by themselves; apply finds the generation and agrees.
pub fn trap_24_upgraded_from_12_to_13(suite: Suite) {
    assert_eq!(suite, Bookworm);
    let mut bed = Bed::pristine(suite).with_program();
    bed.apply();
    let before = bed.read("/etc/portsentry/portsentry.conf");
    upgrade(&mut bed);
    assert_eq!(bed.read("/etc/portsentry/portsentry.conf"), before, "an edited conffile is kept");
    bed.ok("systemctl is-enabled portsentry@atcp portsentry@audp");

    bed.apply();
    bed.tool("verify").succeeds();
    bed.reboot();
    bed.tool("verify").succeeds();
    protects(&bed);
    bed.tool("undo --yes").succeeds();
}

/// The embedded one goes on watching through an upgrade of the Debian under it. The new portsentry's postinst starts
/// that one beside it, and its package names the same log to logrotate; apply ends both.
pub fn the_embedded_one_watches_through_an_upgrade(suite: Suite) {
    let mut bed = Bed::stock(suite).with_program();
    bed.apt("install logrotate");
    bed.apply();
    bed.tool("verify").succeeds();
    upgrade(&mut bed);
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);

    bed.apply();
    bed.tool("verify").succeeds();
    bed.reboot();
    bed.tool("verify").succeeds();
    bed.run("pgrep -x portsentry").fails();
    bed.ok("logrotate --debug /etc/logrotate.conf");
    protects(&bed);
    bed.tool("undo --yes").succeeds();
}

/// 13 → 14: the edited conffile is kept and 2.0 refuses it, without a word to the administrator.
pub fn trap_12_upgraded_from_13_to_14(suite: Suite) {
    assert_eq!(suite, Trixie);
    let mut bed = Bed::pristine(suite).with_program();
    bed.apply();
    upgrade(&mut bed);
    bed.ok("systemctl daemon-reload");
    bed.reboot();
    wait_for(seconds(30), "2.0's refusal of 1.2's keys", || {
        bed.run("journalctl -b -u portsentry").stdout.contains("Invalid config")
    });
    bed.tool("verify").exits(2);

    bed.apply();
    bed.tool("verify").succeeds();
    bed.reboot();
    bed.tool("verify").succeeds();
    protects(&bed);
    bed.tool("undo --yes").succeeds();
}
