//! Files on disks that are full, read-only, linked elsewhere; and two applies at once.

use crate::bed::{Bed, PROGRAM, Suite, is_embedded};

pub fn a_full_disk_leaves_the_old_file(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let own = suite.conf().rsplit_once('/').expect("it is in a directory").0;
    for directory in [own, "/etc/fail2ban"] {
        bed.ok(&format!(
            "cp -a {directory} /tmp/content; size=$(($(du -sk --apparent-size /tmp/content | cut -f1) * 3 + 64)); mount -t tmpfs -o size=${{size}}k none {directory}
             cp -a /tmp/content/. {directory}; dd if=/dev/zero of={directory}/.filler bs=1k 2>/dev/null; true"
        ));
        let before = bed.tree(directory);
        bed.tool("apply --yes").exits(1).says("No space left").says(directory);
        before.must_equal(&bed.tree(directory), "the old files are intact");
        bed.ok(&format!("rm {directory}/.filler; umount {directory}; rm -rf /tmp/content"));
    }
    bed.apply();
    bed.tool("verify").succeeds();
}

pub fn a_read_only_file_system_is_refused(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let before = bed.stamps("/etc");
    bed.ok("mount --bind /etc /etc && mount -o remount,bind,ro /etc");
    let refused = bed.tool("apply --yes").exits(1);
    assert!(refused.text().to_lowercase().contains("read-only"), "{refused}");
    bed.ok("umount /etc");
    assert_eq!(bed.stamps("/etc"), before);
    bed.apply();
}

pub fn a_symlinked_file_is_followed_and_keeps_all_it_has(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let conf = suite.conf();
    // The embedded one is no root, and has to be able to read it.
    let mode = if is_embedded() { "644" } else { "640" };
    // The embedded one's is made by apply, where nobody has one yet.
    bed.ok(&format!(
        "[ -e {conf} ] || echo 'SCAN_TRIGGER=\"1\"' >{conf}
            mkdir /srv/conf; mv {conf} /srv/conf/; ln -s ../../srv/conf/portsentry.conf {conf}
            chown root:adm /srv/conf/portsentry.conf; chmod {mode} /srv/conf/portsentry.conf
            setfacl -m u:daemon:r /srv/conf/portsentry.conf; setfattr -n user.origin -v site /srv/conf/portsentry.conf"
    ));
    let attributes = |bed: &Bed| {
        bed.ok(&format!(
            "readlink {conf}; stat -c '%U:%G %a' /srv/conf/portsentry.conf
                getfacl -p /srv/conf/portsentry.conf; getfattr --absolute-names -n user.origin /srv/conf/portsentry.conf"
        ))
    };
    let (before, content) = (attributes(&bed), bed.read("/srv/conf/portsentry.conf"));
    bed.apply().says("/srv/conf/portsentry.conf");
    assert_eq!(attributes(&bed), before);
    assert!(bed.read("/srv/conf/portsentry.conf") != content);
    bed.tool("undo --yes").succeeds();
    assert_eq!(attributes(&bed), before);
    assert_eq!(bed.read("/srv/conf/portsentry.conf"), content);
}

/// Whichever comes second waits for the other, says so, and then has nothing left to do.
pub fn two_applies_at_once_take_turns(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let both = bed.run(&format!(
        "cd /root; {PROGRAM} apply --yes >/tmp/one 2>&1 & one=$!; {PROGRAM} apply --yes >/tmp/other 2>&1; other=$?
         wait $one; one=$?; cat /tmp/one /tmp/other; [ $one$other = 00 ]"
    ));
    let both = both.succeeds().says("waiting for another apply").says("nothing to change");
    assert_eq!(both.stdout.matches("installed   ").count(), 1, "one of them did it: {both}");
    bed.tool("verify").succeeds();
    bed.tool("diff --dry-run").exits(0);
}

/// Files of its own that it cannot read are named by place, and nothing is touched.
pub fn bad_input_is_refused_by_place(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let before = bed.stamps("/etc /usr/local");
    bed.ok("cp /root/config.env /tmp/config.env; echo 'export LAN_NM=\"255.255.0.255\"' >>/root/config.env");
    bed.tool("apply --yes").exits(1).says("/root/config.env").says("5");
    bed.ok("cp /tmp/config.env /root/config.env; chmod 666 /root/config.env");
    bed.tool("apply --yes").exits(1).says("/root/config.env");
    bed.ok("chmod 600 /root/config.env");
    assert_eq!(bed.stamps("/etc /usr/local"), before, "nothing touched");
    bed.set_policy("fail2bna = false\n");
    bed.tool("apply --yes").exits(1).says("policy.toml").says("fail2ban");
    bed.set_policy("");
    bed.ok(&format!("echo 'KILL_ROUTE=\"unterminated' >>{}", suite.conf()));
    let lines = bed.ok(&format!("wc -l <{}", suite.conf())).trim().to_owned();
    bed.tool("apply --yes").exits(1).says("portsentry.conf").says(&lines);
    bed.ok("useradd -m someone");
    bed.run(&format!("cp {PROGRAM} /tmp/tool; su someone -c '/tmp/tool apply --yes'")).exits(1).says("root");
}
