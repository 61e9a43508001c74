//! SIGKILL between any two changes: strace cuts the program off before its Nth call of a kind, with no hook in the program.

use crate::bed::{Bed, PROGRAM, Suite, is_embedded};
use crate::tree::ACCOUNTS_BEFORE;

/// Calls that change the system, each with a counter of its own.
const CALLS: &[&str] = &[
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "symlink",
    "symlinkat",
    "fsync",
    "fdatasync",
];

/// One apply that is killed at its first point, the next at its second, and so on till one gets through; and all of it is taken back.
pub fn an_apply_killed_again_and_again_still_ends_and_is_undone(suite: Suite) {
    let bed = Bed::stock(suite).with_program().with_its_packages();
    let before = bed.tree("/etc").without(&ACCOUNTS_BEFORE);
    let mut kills = 0;
    let made = calls_made(&bed);
    bed.tool("undo --yes").succeeds();
    for call in CALLS.iter().filter(|call| made.lines().any(|made| made == **call)) {
        for n in 1.. {
            let run = bed.run(&killed_at(call, n));
            no_file_is_half(&bed, &format!("{call} {n}"));
            if run.status == 0 || run.status == 3 {
                break;
            }
            assert!(run.status == 137, "killed, or done: {run}");
            kills += 1;
            assert!(n < 400, "{call}: it does not end: {run}");
        }
        bed.tool("undo --yes").succeeds();
        before.must_equal(
            &bed.tree("/etc").without(&ACCOUNTS_BEFORE),
            &format!("undone after kills at each {call} (left: before)"),
        );
    }
    assert!(kills > 20, "strace has killed {kills} times: were these the calls that the program makes?");
    bed.apply();
    bed.tool("verify").succeeds();
}

/// A real installation cut off, dpkg with it; the next apply mends what dpkg left half done.
pub fn a_kill_inside_dpkg_is_mended(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let before = bed.tree("/etc").without(&["machine-id"]).without(&ACCOUNTS_BEFORE);
    // The second of the embedded one leaves libraries half unpacked that nobody names.
    let points = if is_embedded() {
        [("unpack", "fail2ban"), ("unpack", "nftables"), ("configure", "fail2ban")]
    } else {
        [("unpack", "fail2ban"), ("unpack", "portsentry"), ("configure", "portsentry")]
    };
    for (point, package) in points {
        bed.ok(&format!(
            "cd /root; : >/var/log/dpkg.log; {PROGRAM} apply --yes >/tmp/out 2>&1 & tool=$!
             for i in $(seq 600); do grep -q ' {point} {package}' /var/log/dpkg.log && break; sleep 0.02; done
             kill -KILL $tool; pkill -KILL apt-get; pkill -KILL dpkg; pkill -KILL -f [p]ortsentry.postinst; wait $tool; true",
        ));
    }
    bed.apply();
    assert_eq!(bed.ok("dpkg --audit"), "");
    bed.tool("verify").succeeds();
    bed.tool("undo --yes --purge-packages").succeeds();
    before.must_equal(&bed.tree("/etc").without(&["machine-id"]).without(&ACCOUNTS_BEFORE), "undone (left: before)");
}

/// Which of the calls an apply makes: a libc has several names for some, and a kill at one that is never made is none.
fn calls_made(bed: &Bed) -> String {
    let calls = CALLS.join(",");
    bed.ok(&format!("cd /root; strace -qq -o /tmp/calls -e trace={calls} {PROGRAM} apply --yes"));
    bed.ok("cut -d'(' -f1 /tmp/calls | sort -u")
}

fn killed_at(call: &str, n: u32) -> String {
    // both names of a call that a libc may use; strace ends as its program does
    format!(
        "cd /root; strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=SIGKILL:when={n} {PROGRAM} apply --yes"
    )
}

fn no_file_is_half(bed: &Bed, point: &str) {
    let left = bed.ok(&format!(
        "for f in {conf} /etc/systemd/system/harden-portsentry.service /etc/hosts.allow /etc/fail2ban/jail.d/*.conf; do
             [ ! -e $f ] || [ -s $f ] || echo empty: $f
         done
         [ ! -e {conf} ] || [ \"$(tail -c1 {conf})\" = '' ] || echo cut: portsentry.conf",
        conf = bed.suite.conf()
    ));
    assert_eq!(left, "", "after a kill at {point}");
}
