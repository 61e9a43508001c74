//! `apply --confirm-within`: what nobody confirms in time is taken back, whatever became of who applied it.

use std::process::Command;

use crate::bed::{Bed, OUTSIDER, PROGRAM, Suite, seconds, wait_for};
use crate::flow::{etc, manual_packages};
use crate::tree::Tree;

const UNIT: &str = "/etc/systemd/system/harden-portsentry-confirm.service";

/// The files of a host and what becomes of its services, by systemd's word.
struct State {
    etc: Tree,
    services: String,
}

impl State {
    fn of(bed: &Bed) -> State {
        // What had failed before is not made to fail again.
        let services = bed.run(
            "for unit in portsentry portsentry@atcp portsentry@audp fail2ban harden-portsentry; do
                 echo $unit $(systemctl is-enabled $unit 2>/dev/null) $(systemctl is-active $unit | sed s/failed/inactive/); done",
        );
        State { etc: etc(bed), services: services.stdout }
    }

    #[track_caller]
    fn must_be(&self, bed: &Bed, what: &str) {
        self.etc.must_equal(&etc(bed), &format!("{what} (left: before)"));
        let services = || State::of(bed).services;
        if self.services != services() {
            wait_for(seconds(60), &format!("{what}: services as {}", self.services), || self.services == services());
        }
        assert!(!bed.exists("/usr/local/sbin/harden-portsentry"), "{what}");
    }
}

fn stock(suite: Suite) -> Bed {
    Bed::stock(suite).with_program().with_its_packages()
}

/// Whether systemd has the timer.
fn is_armed(bed: &Bed) -> bool {
    bed.run("systemctl is-active harden-portsentry-confirm.timer").stdout == "active\n"
}

/// Neither timer nor unit nor program is left of it.
#[track_caller]
fn nothing_waits(bed: &Bed) {
    let left = || {
        bed.run(
            "systemctl list-units --all --plain --no-legend 'harden-portsentry-confirm*'
             ls -d /etc/systemd/system/harden-portsentry-confirm* /etc/systemd/system/*.wants/harden-portsentry-confirm* \
                 /run/systemd/transient/harden-portsentry-confirm* /var/lib/harden-portsentry/confirm 2>/dev/null",
        )
        .stdout
    };
    wait_for(seconds(30), &format!("nothing to be left of it:\n{}", left()), || left().is_empty());
}

#[track_caller]
fn wait_until_taken_back(bed: &Bed) {
    let log = || bed.run("journalctl -u harden-portsentry-confirm --no-pager").stdout;
    let limit = std::time::Instant::now() + seconds(180);
    while bed.exists(UNIT) {
        assert!(std::time::Instant::now() < limit, "it is not taken back:\n{}", log());
        std::thread::sleep(seconds(1) / 5);
    }
    nothing_waits(bed);
}

/// And nothing else may be applied while it waits.
pub fn what_is_confirmed_in_time_stays(suite: Suite) {
    let bed = stock(suite);
    let report = bed.tool("apply --yes --confirm-within 20s --format json").succeeds().stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let until: jiff::Timestamp = report["applied"]["confirm_by"].as_str().expect("a time").parse().expect("a time");
    assert!(is_armed(&bed));
    bed.tool("confirm").succeeds().says("run 1 is confirmed and stays");
    assert!(!is_armed(&bed) && !bed.exists(UNIT), "at once, not when the time is over");
    nothing_waits(&bed);
    let applied = State::of(&bed);
    let clock = || bed.ok("date +%s").trim().parse::<i64>().expect("a number");
    wait_for(seconds(60), "the time to be over", || clock() > until.as_second() + 2);
    nothing_waits(&bed);
    applied.etc.must_equal(&etc(&bed), "it stays (left: as it was applied)");
    assert_eq!(applied.services, State::of(&bed).services);
    bed.tool("verify").succeeds().says_not("confirm");
    bed.tool("confirm").succeeds().says("already");
    bed.tool("runs").succeeds().says("applied").says_not("waits");
    bed.tool("apply --yes --confirm-within 20s").succeeds().says("nothing to change");
    nothing_waits(&bed);
}

/// While it waits, verify and runs say so, nothing is applied on top of it, and undo by hand is the end of it.
pub fn while_it_waits_nothing_is_applied_and_undo_ends_it(suite: Suite) {
    let bed = stock(suite);
    let before = State::of(&bed);
    bed.tool("apply --yes --confirm-within 1h")
        .succeeds()
        .says("unless you confirm it")
        .says("harden-portsentry confirm");
    bed.tool("verify").succeeds().says("whether this stays");
    bed.tool("verify --strict").exits(2).says("whether this stays");
    bed.tool("runs").succeeds().says("waits to be confirmed until");
    bed.tool("apply --yes").succeeds().says("nothing to change").says("run 1 is not confirmed");
    let applied = etc(&bed);
    bed.tool("apply --yes --response reject").exits(1).says("run 1 waits to be confirmed").says("nothing was changed");
    bed.tool("apply --yes --response reject --confirm-within 60s").exits(1).says("run 1 waits to be confirmed");
    applied.must_equal(&etc(&bed), "a second apply is refused (left: before)");
    assert!(is_armed(&bed));
    bed.tool("undo --yes").succeeds();
    nothing_waits(&bed);
    before.must_be(&bed, "undo");
    bed.tool("confirm").exits(1).says("run 1 was taken back");
    bed.apply();
    bed.tool("confirm").exits(1);
}

/// From a machine that never saw portsentry, the build directory gone meanwhile, somebody blocked, a file edited.
pub fn what_nobody_confirms_is_taken_back(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let manual = manual_packages(&bed);
    bed.tool("apply --yes --confirm-within 60s").succeeds();
    let installed: Vec<_> = manual_packages(&bed).into_iter().filter(|name| !manual.contains(name)).collect();
    bed.ok(&format!("mv {PROGRAM} /root/elsewhere; echo '# mine' >>{}", suite.conf()));
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    assert!(is_armed(&bed), "the time is not over yet");
    wait_until_taken_back(&bed);
    bed.ok(&format!("mv /root/elsewhere {PROGRAM}"));
    let undone = etc(&bed);
    assert!(!bed.firewall_names(OUTSIDER) && bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
    assert!(!bed.exists("/usr/local/sbin/harden-portsentry"));
    bed.tool("confirm").exits(1).says("too late");
    bed.tool("runs").succeeds().says("taken back, for nobody confirmed it");
    assert!(bed.ok("cat /var/lib/harden-portsentry/runs/1/edited/*").ends_with("# mine\n"), "the edit is kept");
    drop(bed);

    let control = Bed::pristine(suite).with_policy();
    control.apt(&format!("install {}", installed.join(" ")));
    etc(&control).must_equal(&undone, "what the packages alone would have (left: control, right: ours)");
}

/// The time counts from when everything is done: what was over meanwhile was only for the case that it is never done.
pub fn an_apply_that_takes_longer_has_all_of_the_time_afterwards(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    let fired = "systemctl is-active harden-portsentry-confirm.service";
    bed.ok("mkfifo /tmp/hold; (apt-get -o Dpkg::Pre-Invoke::='cat /tmp/hold' install -q -y netcat-openbsd --reinstall >/dev/null 2>&1 &)
            for i in $(seq 600); do pgrep -f 'cat /tmp/hol[d]' >/dev/null && exit 0; sleep 0.1; done; exit 1");
    bed.ok(&format!("(until [ \"$({fired})\" = active ]; do sleep 0.1; done; echo >/tmp/hold) >/dev/null 2>&1 &"));
    let report = bed.tool("apply --yes --confirm-within 25s --format json").succeeds().stdout;
    assert!(report.contains("confirm_by"), "{report}");
    let log = bed.run("journalctl -o cat -u harden-portsentry-confirm").stdout;
    assert!(log.contains("waiting for another apply"), "its time was over while it was under way: {log}");
    bed.tool("verify").succeeds().says("whether this stays");
    wait_for(seconds(20), "who waited to see that there is time", || bed.run(fired).stdout != "active\n");
    assert!(
        is_armed(&bed) && bed.exists(suite.conf()),
        "{}",
        bed.run("journalctl -u harden-portsentry-confirm").stdout
    );
    wait_until_taken_back(&bed);
    bed.tool("runs").succeeds().says("taken back, for nobody confirmed it");
}

/// SIGKILL at any point after something has changed, as in `kill.rs`: systemd takes it back.
pub fn an_apply_that_was_killed_is_taken_back(suite: Suite) {
    let bed = stock(suite);
    let before = State::of(&bed);
    let traced = |options: &str| bed.run(&format!("cd /root; strace -qq -e trace=fsync {options}"));
    traced(&format!("-o /tmp/calls {PROGRAM} apply --yes --confirm-within 1h")).succeeds();
    let calls: usize = bed.ok("grep -c ^fsync /tmp/calls").trim().parse().expect("a number");
    assert!(calls > 30, "only {calls} calls of fsync: are these still the calls that the program makes?");
    bed.tool("undo --yes").succeeds();
    nothing_waits(&bed);
    for n in [calls / 3, calls * 2 / 3, calls - 6] {
        let at = format!("killed before fsync {n} of {calls}");
        let kill = format!("-o /dev/null -e inject=fsync:signal=SIGKILL:when={n}");
        traced(&format!("{kill} {PROGRAM} apply --yes --confirm-within 10s")).exits(137);
        assert!(is_armed(&bed), "{at}");
        let changes = before.etc.differences(&etc(&bed));
        assert!(changes.matches('\n').count() > 3, "{at} it had hardly begun: {changes}");
        bed.tool("confirm").exits(1).says("cut short");
        wait_until_taken_back(&bed);
        before.must_be(&bed, &at);
    }
    // Killed before it changed anything: what it left of the timer is in nobody's way.
    traced(&format!("-o /dev/null -e inject=fsync:signal=SIGKILL:when=4 {PROGRAM} apply --yes --confirm-within 10s"))
        .exits(137);
    bed.tool("apply --yes --confirm-within 10s").succeeds();
    bed.tool("confirm").succeeds();
    nothing_waits(&bed);
    bed.tool("verify").succeeds();
}

/// Over ssh, at a terminal, whose client is gone from one moment to the next.
pub fn a_lost_connection_takes_it_back(suite: Suite) {
    let bed = stock(suite);
    let place = tempfile::tempdir().expect("a temporary directory");
    let place = place.path().display().to_string();
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &format!("{place}/key")]).status();
    assert!(made.expect("ssh-keygen is installed").success());
    bed.ok("mkdir -p -m 700 /root/.ssh");
    bed.put(format!("{place}/key.pub").as_ref(), "/root/.ssh/authorized_keys");
    let before = State::of(&bed);
    bed.attack(&format!(
        "mkfifo {place}/keys; exec 3<>{place}/keys
         ssh -tt -q -i {place}/key -b 203.0.113.12 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes \
             root@192.168.66.1 'TERM=xterm {PROGRAM} apply --yes --confirm-within 15s' <&3 >{place}/screen 2>&1 &
         client=$!
         for i in $(seq 3000); do grep -q 'Enter keeps it' {place}/screen && break; sleep 0.1; done
         kill -KILL $client
         grep 'Enter keeps it' {place}/screen || {{ cat {place}/screen; exit 1; }}"
    ))
    .succeeds();
    assert!(is_armed(&bed));
    wait_for(seconds(30), "apply to be gone", || bed.run("pgrep -f '[a]pply --yes'").status != 0);
    wait_until_taken_back(&bed);
    before.must_be(&bed, "the connection is lost");
}

/// Whoever cut the power to get in again finds the host as it was, and needs not wait.
pub fn a_boot_within_the_time_takes_it_back(suite: Suite) {
    let bed = stock(suite);
    let before = State::of(&bed);
    bed.tool("apply --yes --confirm-within 1h").succeeds();
    bed.wait_until_it_listens();
    bed.scan(OUTSIDER);
    bed.wait_until_blocked(OUTSIDER);
    bed.ok("sync");
    bed.power_cycle();
    wait_until_taken_back(&bed);
    before.must_be(&bed, "after a boot");
    assert!(!bed.firewall_names(OUTSIDER) && bed.ssh_answers(OUTSIDER), "{}", bed.firewall());
    bed.tool("confirm").exits(1).says("too late");
    // The same boot again, with nothing to take back.
    bed.tool("apply --yes --confirm-within 1h").succeeds();
    bed.tool("confirm").succeeds();
    bed.power_cycle();
    bed.wait_until_it_listens();
    nothing_waits(&bed);
    bed.tool("verify").succeeds();
}

/// At a terminal it waits. What was typed beforehand keeps nothing.
pub fn at_a_terminal_enter_keeps_it_and_ctrl_c_takes_it_back(suite: Suite) {
    let bed = stock(suite);
    let before = State::of(&bed);
    let sits_there = |does: &str| {
        bed.run(&format!(
            "cd /root; rm -f typescript; (printf '\\n'; for i in $(seq 3000); do grep -qs 'Enter keeps it' typescript && break; sleep 0.1; done
             {does}; sleep 20) | timeout 600 script -qfec 'TERM=xterm {PROGRAM} apply --yes --confirm-within 10m' typescript"
        ))
    };
    bed.run(&format!(
        "cd /root; (until grep -qs '\\[y' asked; do sleep 0.1; done; printf n; sleep 1) |
             SSH_CONNECTION='203.0.113.12 1 192.168.66.1 22' timeout 60 script -qfec 'TERM=xterm {PROGRAM} apply' asked"
    ))
    .exits(1)
    .says("apply --confirm-within 60s");
    sits_there("printf '\\003'").exits(130).says("run 1 is taken back");
    nothing_waits(&bed);
    before.must_be(&bed, "Ctrl-C");
    sits_there("printf 'no\\n'; sleep 1; printf '\\n'")
        .succeeds()
        .says("Enter alone keeps it")
        .says("run 2 is confirmed");
    nothing_waits(&bed);
    bed.tool("verify").succeeds();
    bed.tool("undo --yes").succeeds();
    sits_there(&format!("{PROGRAM} confirm")).succeeds().says("run 3 is confirmed");
    nothing_waits(&bed);
    bed.tool("verify").succeeds();
    bed.tool("undo --yes").succeeds();
    sits_there(&format!("{PROGRAM} undo --yes >/dev/null")).exits(1).says("run 4 was taken back by somebody else");
    before.must_be(&bed, "undo from elsewhere");
}

/// Nobody would take it back there, so nothing is begun.
pub fn without_systemd_it_is_refused(suite: Suite) {
    let bed = Bed::up(suite, &["--without-systemd"]).with_program();
    let before = bed.stamps("/etc /usr/local /var/lib");
    bed.tool("apply --yes --confirm-within 60s").exits(1).says("needs systemd").says("nothing was changed");
    assert_eq!(bed.stamps("/etc /usr/local /var/lib"), before);
}
