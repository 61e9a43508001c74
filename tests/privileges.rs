//! The daemon without the right that it needs: it says which, and never that it watches (trap 19).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The daemon with these words, in a network namespace of its own, as root without CAP_NET_ADMIN.
fn daemon(directory: &std::path::Path, words: &[&str]) -> Command {
    assert!(rustix::process::geteuid().is_root(), "this test makes a network namespace: run it as root");
    let at = |name: &str| directory.join(name).display().to_string();
    fs::write(at("ignore"), "").expect("a file");
    let conf = format!("TCP_PORTS=\"81\"\nIGNORE_FILE=\"{}\"\nHISTORY_FILE=\"{}\"\n", at("ignore"), at("history"));
    fs::write(at("conf"), conf).expect("a file");
    let program = std::env::var_os("HARDEN_PORTSENTRY")
        .map_or_else(|| env!("CARGO_BIN_EXE_harden-portsentry").into(), PathBuf::from);
    let mut command = Command::new("unshare");
    command.args([
        "-n",
        "sh",
        "-c",
        "ip link set lo up && exec setpriv --bounding-set -net_admin --inh-caps -net_admin \"$@\"",
        "sh",
    ]);
    command.arg(program).args(["daemon", "-c", &at("conf")]).args(words).stdin(Stdio::null());
    command
}

#[test]
fn without_cap_net_admin_it_names_it_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = daemon(directory.path(), &[]).output().expect("unshare starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_NET_ADMIN") && !said.contains("now active and listening"), "{said}");
}

#[test]
fn connect_mode_needs_none_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = fs::File::create(directory.path().join("out")).expect("a file");
    let mut process = daemon(directory.path(), &["--connect", "-L"]).stdout(out).spawn().expect("unshare starts");
    let wait = |what: &str, file: &str, text: &str| {
        let start = Instant::now();
        while !fs::read_to_string(directory.path().join(file)).unwrap_or_default().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(20), "waited for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("that it listens", "out", "now active and listening");
    let pid = process.id().to_string();
    let knock = ["-t", &pid, "-n", "bash", "-c", "</dev/tcp/127.0.0.1/81"];
    assert!(Command::new("nsenter").args(knock).status().expect("nsenter starts").success());
    wait("the connection", "history", "protocol: [TCP] port: [81] type: [Connect]");
    kill_process(Pid::from_child(&process), Signal::TERM).expect("it is there");
    assert!(process.wait().expect("it ends").success());
}
