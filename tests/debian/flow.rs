//! The main job from a machine that has never seen portsentry to one that has forgotten it.

use std::fs;
use std::process::{Command, Stdio};

use crate::bed::{Bed, GATEWAY, OUTSIDER, PROGRAM, seconds, wait_for};
use crate::bed::{OTHER_OUTSIDER, Suite};
use crate::tree::{ACCOUNTS, ACCOUNTS_BEFORE, Node, Tree};

/// What any boot or any package's installation writes, whoever asked for it.
const NOISE: &[&str] = &["machine-id", "ld.so.cache", "mtab", ".pwd.lock", "resolv.conf", "ssh/ssh_host"];

pub fn fresh_to_undo(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let diff = diff_changes_nothing(&bed);
    let manual = manual_packages(&bed);
    bed.apply();
    let applied = etc(&bed);
    let installed: Vec<_> = manual_packages(&bed).into_iter().filter(|p| !manual.contains(p)).collect();
    bed.tool("verify").succeeds();
    second_apply_changes_nothing(&bed);

    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    assert!(bed.ssh_answers(OUTSIDER), "before the scan");
    bed.scan(OUTSIDER);
    blocked_in_every_way(&bed);
    bed.scan(GATEWAY);
    bed.scan_udp(GATEWAY);
    assert!(
        bed.ssh_answers(GATEWAY) && !bed.firewall_names(GATEWAY),
        "the safe address scans and is not blocked:\n{}",
        bed.firewall()
    );
    bed.tool("verify").succeeds();
    bed.wait_until_banned(OUTSIDER);

    bed.power_cycle();
    bed.wait_until_it_listens();
    blocked_in_every_way(&bed);
    restored_by_its_unit(&bed);
    // Out of its database, or, where the power went before that was written, out of the history again.
    bed.wait_until_banned(OUTSIDER);
    bed.tool("verify").succeeds();
    bed.scan(OTHER_OUTSIDER);
    bed.wait_until_blocked(OTHER_OUTSIDER);

    bed.tool("undo --yes").succeeds();
    let undone = etc(&bed);
    let rules = bed.firewall();
    assert!(
        !bed.firewall_names(OUTSIDER) && !bed.firewall_names(OTHER_OUTSIDER),
        "undo takes the blocks with it:\n{rules}"
    );
    assert!(bed.ssh_answers(OUTSIDER));
    nothing_is_left(&bed);
    bed.tool("diff --dry-run").exits(2);

    drop(bed);

    let control = Bed::pristine(suite).with_policy();
    control.apt(&format!("install {}", installed.join(" ")));
    let stock = etc(&control);
    the_diff_is_the_truth(&diff, &stock, &applied);
    stock.must_equal(&undone, "undo leaves what the packages alone would have (left: control, right: ours)");
}

/// With the packages that apply installed, and all that came with them, undo leaves a machine that never saw any of it.
pub fn undo_with_the_packages_leaves_no_trace(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let (before, packages) = (etc(&bed), bed.ok("dpkg-query -W -f '${Package} ${Status}\\n'"));
    bed.apply();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.tool("undo --yes --purge-packages").succeeds();
    before.must_equal(&etc(&bed), "/etc (left: before, right: after)");
    assert_eq!(bed.ok("dpkg-query -W -f '${Package} ${Status}\\n'"), packages);
    nothing_is_left(&bed);
    assert_eq!(
        bed.run("ls -d /usr/local/sbin/harden-portsentry /var/lib/portsentry /var/lib/fail2ban 2>/dev/null").stdout,
        ""
    );
    assert!(!bed.firewall_names(OUTSIDER) && bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
    // Who asked for the tables went with the packages.
    bed.apt("install nftables");
    nothing_is_left(&bed);
}

/// Neither in the kernel nor on the disk, the history and the journals of the runs excepted.
fn nothing_is_left(bed: &Bed) {
    bed.run("nft list tables | grep harden_portsentry").fails();
    bed.run("getent passwd harden-portsentry").fails();
    let places = "/run/*portsentry* /var/lib/harden-portsentry/blocks /var/lib/harden-portsentry/metrics
                  /var/lib/harden-portsentry/denied";
    assert_eq!(bed.run(&format!("ls -d {} 2>/dev/null", places.replace('\n', " "))).stdout, "", "left behind");
}

pub fn etc(bed: &Bed) -> Tree {
    bed.tree("/etc").without(NOISE).without(&ACCOUNTS_BEFORE).without_days()
}

pub fn manual_packages(bed: &Bed) -> Vec<String> {
    bed.ok("apt-mark showmanual").lines().map(str::to_owned).collect()
}

fn diff_changes_nothing(bed: &Bed) -> String {
    let state = |bed: &Bed| (bed.stamps("/etc /usr /root"), bed.ok("dpkg-query -W; ls /var/lib"));
    let before = state(bed);
    let diff = bed.tool("diff --dry-run").exits(2).stdout;
    assert!(state(bed) == before, "diff --dry-run writes nothing");
    assert_eq!(bed.tool("diff").exits(2).stdout, diff, "diff is diff --dry-run");
    diff
}

/// No write, no restart, no rule made anew.
pub fn second_apply_changes_nothing(bed: &Bed) {
    let state = |bed: &Bed| {
        let written = bed.stamps("/etc /usr/local /var/lib/harden-portsentry /root");
        let processes = bed.ok("for name in portsentry fail2ban-server; do for pid in $(pgrep -f $name); do [ $pid = $$ ] || awk '{ print $1, $22 }' /proc/$pid/stat; done; done 2>/dev/null");
        (written, processes, bed.firewall())
    };
    let before = state(bed);
    bed.tool("apply --yes").succeeds().says("nothing to change");
    bed.tool("diff --dry-run").exits(0);
    let after = state(bed);
    assert_eq!(before.0, after.0, "no file is written");
    assert_eq!(before.1, after.1, "no daemon is restarted");
    assert_eq!(before.2, after.2, "no rule is touched");
}

/// Before the network was up, by root in a cage of its own: the kernel's sets, and the file that hosts.deny names.
fn restored_by_its_unit(bed: &Bed) {
    let said = bed.run("journalctl -b -u harden-portsentry-blocks").stdout;
    assert_eq!(bed.ok("systemctl is-active harden-portsentry-blocks"), "active\n", "{said}");
    let denied = "/var/lib/harden-portsentry/denied";
    assert_eq!(bed.ok(&format!("stat -c '%U %a %F' {denied}")), "root 644 regular file\n", "{said}");
    assert!(bed.read(denied).lines().any(|line| line == OUTSIDER), "{said}");
}

fn blocked_in_every_way(bed: &Bed) {
    bed.wait_until_blocked(OUTSIDER);
    wait_for(seconds(60), "ssh to be refused", || !bed.ssh_answers(OUTSIDER));
    assert!(!bed.udp_answers(OUTSIDER), "and UDP is:\n{}", bed.firewall());
    assert!(bed.ssh_answers(GATEWAY), "and nobody else's");
}

/// The diffs shown beforehand turn the files that the packages bring into those that apply left, byte for byte; the rest is as the packages bring it.
fn the_diff_is_the_truth(diff: &str, stock: &Tree, applied: &Tree) {
    let shown = patch(diff, stock);
    for (path, node) in &applied.0 {
        let Node::File { bytes, .. } = node else {
            continue;
        };
        // Not ours: 1.2's start builds it out of the list that the diff does show.
        if ACCOUNTS.contains(&path.as_str()) {
            continue;
        }
        if path == "portsentry/portsentry.ignore" && stock.bytes("portsentry/portsentry.ignore.static").is_some() {
            continue;
        }
        let expected = shown.bytes(path).or(stock.bytes(path));
        assert!(
            expected == Some(bytes),
            "apply left {path} other than diff --dry-run had shown it:\n{}",
            shown.differences(applied)
        );
    }
    for path in stock.0.keys() {
        assert!(applied.0.contains_key(path), "apply removed {path} without showing it");
    }
}

/// `patch` is the judge of what a unified diff says.
fn patch(diff: &str, stock: &Tree) -> Tree {
    let root = tempfile::tempdir().expect("a temporary directory");
    for line in diff.lines() {
        let Some(path) = line.trim_start().strip_prefix("--- ").and_then(|label| label.split('\t').next()) else {
            continue;
        };
        let Some(path) = path.trim_start_matches('a').strip_prefix("/etc/") else {
            continue;
        };
        if let Some(bytes) = stock.bytes(path) {
            let file = root.path().join("etc").join(path);
            fs::create_dir_all(file.parent().expect("it is below etc")).expect("a writable directory");
            fs::write(file, bytes).expect("a writable directory");
        }
    }
    let mut child = Command::new("patch")
        .args(["-p1", "--force", "--directory"])
        .arg(root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("patch is installed (tests/run does it)");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), diff.as_bytes()).expect("patch reads");
    let output = child.wait_with_output().expect("patch ends");
    assert!(
        output.status.success(),
        "patch does not understand the diff:\n{}\n{diff}",
        String::from_utf8_lossy(&output.stdout)
    );
    Tree::read(&root.path().join("etc"))
}

/// Applied out of a build directory that goes away: nothing that runs or blocks points back there.
pub fn it_installs_itself_where_it_stays(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    bed.ok(&format!("mkdir -p /home/dev/checkout/target/release; mv {PROGRAM} /home/dev/checkout/target/release/; chmod -R a+rwX /home/dev"));
    bed.run("cd /home/dev/checkout && target/release/harden-portsentry apply --yes").succeeds();
    bed.ok("rm -rf /home/dev");
    bed.run("grep -rn '/home/dev' /etc").fails();
    let path = bed.ok("command -v harden-portsentry");
    assert_eq!(bed.ok(&format!("stat -c '%U:%G %a' {path}")).trim(), "root:root 755");
    bed.wait_until_it_listens();
    bed.wait_for_jail("portsentry");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.wait_until_banned(OUTSIDER);
    bed.ok("harden-portsentry verify");
    bed.reboot();
    blocked_in_every_way(&bed);
}

/// The one who applies over ssh from outside the LAN does not lock itself out, not even by a later apply from cron.
pub fn the_ssh_client_of_apply_stays_safe(suite: Suite) {
    let admin = "203.0.113.12";
    let bed = Bed::stock(suite).with_program();
    let key = tempfile::tempdir().expect("a temporary directory");
    let key = key.path().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status()
        .expect("ssh-keygen is installed");
    assert!(made.success());
    bed.ok("mkdir -p -m 700 /root/.ssh");
    bed.put(&key.with_extension("pub"), "/root/.ssh/authorized_keys");
    let ssh = format!(
        "ssh -q -i {} -b {admin} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes root@192.168.66.1",
        key.display()
    );
    // In a window of tmux that was made in an earlier session, from elsewhere.
    let earlier = "SSH_CONNECTION=\"203.0.113.13 40000 192.168.66.1 22\"";
    bed.attack(&format!("{ssh} 'env {earlier} {PROGRAM} apply --yes; exit $?'")).succeeds().says(admin);
    let policy = bed.read("/etc/harden-portsentry/policy.toml");
    assert!(policy.contains(admin) && !policy.contains("203.0.113.13"), "it is kept in the policy: {policy}");
    bed.run(&format!("env -i PATH=/usr/bin:/bin {PROGRAM} apply --yes")).succeeds().says("nothing to change");
    bed.wait_until_it_listens();
    bed.scan(admin);
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    assert!(bed.ssh_answers(admin) && !bed.firewall_names(admin), "{}", bed.firewall());
}

/// A file that someone edited after apply is shown and kept, unless forced.
pub fn undo_does_not_overwrite_later_edits(suite: Suite) {
    let bed = Bed::stock(suite).with_program().with_its_packages();
    let before = etc(&bed);
    bed.apply();
    bed.ok(&format!("echo '# mine' >>{}", suite.conf()));
    let refused = bed.tool("undo --yes").fails();
    assert!(refused.text().contains("# mine") && refused.text().contains("--force"), "{refused}");
    assert!(bed.read(suite.conf()).ends_with("# mine\n"));
    bed.tool("undo --yes --force").succeeds();
    before.must_equal(&etc(&bed), "undo --force (left: before apply)");
    bed.tool("runs").succeeds();
}

/// Entries that blocks made since go with undo; those of other people stay, in their places.
pub fn undo_takes_exactly_our_entries(suite: Suite) {
    let bed = Bed::stock(suite).with_program().with_its_packages();
    bed.run("touch /etc/hosts.allow /etc/hosts.deny");
    bed.ok("echo 'sshd: 198.51.100.1' >>/etc/hosts.deny; echo 'ALL: 198.51.100.2' >>/etc/hosts.allow");
    let before = etc(&bed);
    bed.apply();
    bed.wait_until_it_listens();
    bed.ok("echo 'sshd: 198.51.100.3' >>/etc/hosts.deny");
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.tool("undo --yes").succeeds();
    assert!(
        bed.read("/etc/hosts.deny").ends_with("sshd: 198.51.100.1\nsshd: 198.51.100.3\n"),
        "{}",
        bed.read("/etc/hosts.deny")
    );
    bed.ok("sed -i '/198.51.100.3/d' /etc/hosts.deny");
    before.must_equal(&etc(&bed), "all else is as before (left: before)");
}

pub fn without_a_terminal_and_without_yes_apply_refuses(suite: Suite) {
    let bed = Bed::stock(suite).with_program();
    let before = bed.stamps("/etc /usr/local");
    bed.tool("apply").exits(1).says("--yes");
    bed.run(&format!(
        "cd /tmp; (until grep -qs '\\[y' typescript; do sleep 0.1; done; printf '\\003'; sleep 1) | timeout 60 script -qfec '{PROGRAM} apply' typescript"
    ))
    .exits(130);
    assert_eq!(bed.stamps("/etc /usr/local"), before, "nothing changed");
    bed.tool("aply").exits(64);
    bed.tool("diff --nonsense").exits(64);
    bed.tool("verify --nonsense").exits(64);
}
