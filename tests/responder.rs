//! Who does what the watcher may not: with which rights, for whom, and where there is no systemd. In network namespaces,
//! as root.

mod neighbourhood;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use neighbourhood::blocks::{BLOCK, blocked, run};
use neighbourhood::daemon::program;
use neighbourhood::home::Home;
use neighbourhood::{CLIENT, HOST, Net, scanner, wait_until, waited};
use rustix::process::{Pid, Signal, kill_process};

const CONF: &str = "/etc/harden-portsentry/portsentry.conf";
const DENIED: &str = "/var/lib/harden-portsentry/denied";
const METRICS: &str = "/var/lib/harden-portsentry/metrics";
/// The user's number, of the test's own passwd.
const USER: u32 = 64_999;

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A responder with these words in `home`, and the end of its standard input.
fn responder(net: &Net, home: &Home, words: &[&str]) -> (Ends, UnixStream) {
    let (near, far) = UnixStream::pair().expect("sockets");
    near.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let words = [&["responder"], words].concat();
    let mut command = home.prepared(net, &program(), &words);
    let process = command.stdin(OwnedFd::from(far)).stdout(Stdio::null()).spawn().expect("ip runs");
    (Ends(process), near)
}

fn ask(stream: &UnixStream, question: &str) -> String {
    let mut stream = stream;
    writeln!(stream, "{question}").expect("it listens");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line.trim_end().to_owned()
}

/// What /proc says of each thread: the line that begins with `name`.
fn of_each_thread(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let line = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line").to_owned();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    tasks.flatten().map(|task| line(&fs::read_to_string(task.path().join("status")).expect("a file"))).collect()
}

/// The processes of this program in the host's network namespace whose first words are these.
fn processes(net: &Net, words: &str) -> Vec<u32> {
    let wanted = format!("{} {words}", program().display());
    let all = Command::new("ip").args(["netns", "pids", &net.name("host")]).output().expect("ip runs");
    let says = |pid: &u32| {
        let words_of = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words_of).replace('\0', " ").starts_with(&wanted)
    };
    String::from_utf8_lossy(&all.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).filter(says).collect()
}

/// What a name server answers is parsed by nobody, in each of its threads.
#[test]
fn names_are_looked_up_without_any_right() {
    let (net, home) = (Net::new("names"), Home::new());
    let (process, stream) = responder(&net, &home, &["names"]);
    let answer = ask(&stream, "\"127.0.0.1\"");
    assert!(answer.starts_with("[\"127.0.0.1\","), "{answer}");
    let pid = process.0.id();
    let threads = of_each_thread(pid, "Uid:");
    assert!(threads.len() > 1, "lookups have threads of their own");
    for (name, wanted) in [
        ("Uid:", "65534 65534 65534 65534"),
        ("Gid:", "65534 65534 65534 65534"),
        ("Groups:", ""),
        ("CapEff:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
    ] {
        assert!(of_each_thread(pid, name).iter().all(|value| value == wanted), "{name}");
    }
}

fn configure(home: &Home, more: &str) {
    let text = format!(
        "TCP_PORTS=\"1-1023\"\nUDP_PORTS=\"1-1023\"\nHISTORY_FILE=\"/var/log/harden-portsentry/portsentry.log\"\n{BLOCK}{more}"
    );
    home.write(CONF, &text);
}

fn run_question(number: u64, deed: &str, target: &str) -> String {
    format!(
        "{{\"number\":{number},\"what\":{{\"run\":{{\"deed\":\"{deed}\",\"target\":\"{target}\",\"port\":7,\"mode\":\"stealth\"}}}}}}"
    )
}

/// Of `ALL: 203.0.113.9` the beginning denies a network.
#[test]
fn a_line_of_hosts_deny_that_does_not_fit_leaves_nothing_behind() {
    let (net, home) = (Net::new("half"), Home::new());
    configure(&home, "KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\n");
    let before = "#".repeat(1_000) + "\n";
    home.write("/etc/hosts.deny", &before);
    // As on a full disk: what is beyond so many bytes is not written.
    let words = ["-c", "trap '' XFSZ; exec prlimit --fsize=1010 \"$@\"", "sh", program().to_str().expect("a path")]
        .map(str::to_owned);
    let (near, far) = UnixStream::pair().expect("sockets");
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["responder", "commands", "-c", CONF]).collect();
    let mut command = home.prepared(&net, Path::new("sh"), &words);
    // Not into a file, which would be too long as well.
    command.stdin(OwnedFd::from(far)).stderr(Stdio::null());
    let _process = Ends(command.spawn().expect("ip runs"));
    assert_eq!(
        ask(&near, &run_question(1, "deny", "203.0.113.9")),
        "{\"number\":1,\"what\":{\"ended\":\"notstarted\"}}"
    );
    assert_eq!(home.read("/etc/hosts.deny"), before);
}

#[test]
fn it_does_what_the_configuration_says_and_no_more() {
    let (net, home) = (Net::new("more"), Home::new());
    configure(
        &home,
        "KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\nKILL_RUN_CMD=\"sleep 60 >/dev/null 2>&1 </dev/null &\"\n",
    );
    home.write("/etc/hosts.deny", "");
    home.write("/etc/harden-portsentry/policy.toml", "safe = [\"198.51.100.0/24\"]\n");
    let (_process, stream) = responder(&net, &home, &["commands", "-c", CONF]);
    let asked = |number, deed, target| ask(&stream, &run_question(number, deed, target));
    assert_eq!(asked(1, "deny", "203.0.113.9"), "{\"number\":1,\"what\":{\"ended\":\"done\"}}");
    for (number, safe) in [(2, "198.51.100.7"), (3, HOST), (4, "127.0.0.1")] {
        assert!(asked(number, "deny", safe).contains("notstarted"), "{safe}");
    }
    assert_eq!(home.read("/etc/hosts.deny"), "ALL: 203.0.113.9 : DENY\n");
    assert_eq!(asked(5, "command", "203.0.113.9"), "{\"number\":5,\"what\":{\"ended\":\"done\"}}", "it goes on behind");
    let listen = "{\"number\":6,\"what\":{\"listen\":{\"port\":7,\"tcp\":true,\"mode\":\"connect\"}}}";
    assert_eq!(ask(&stream, listen), "{\"number\":6,\"what\":{\"listening\":null}}", "this daemon opens no sockets");
}

/// A home in which the daemon splits: the user, and a /var/log of its own.
fn without_systemd() -> Home {
    let home = Home::with("mount -t tmpfs tmpfs /var/log");
    home.open_to_all();
    let passwd = fs::read_to_string("/etc/passwd").expect("a file");
    home.write("/etc/passwd", &format!("{passwd}harden-portsentry:x:{USER}:{USER}::/:/usr/sbin/nologin\n"));
    home.write("/etc/hosts.deny", &format!("ALL: {DENIED}\n"));
    home
}

/// Ends the daemon in the background, and with it what it started.
struct Background<'a>(&'a Net);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        for pid in processes(self.0, "daemon") {
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), Signal::TERM);
        }
        let gone = || if processes(self.0, "").is_empty() { Ok(()) } else { Err("they run".to_owned()) };
        let _ = waited(Duration::from_secs(20), gone);
    }
}

/// As a sysv script starts it: nobody holds what the caller reads, and root is left behind.
#[test]
fn the_caller_of_a_daemon_in_the_background_gets_its_shell_back() {
    let (net, home) = (Net::new("back"), without_systemd());
    configure(&home, &format!("RESOLVE_HOST=\"1\"\nMETRICS_FILE=\"{METRICS}/harden-portsentry.prom\"\n"));
    let start = format!("umask 077 && exec {} daemon -D -c {CONF}", program().display());
    let mut command = home.prepared(&net, Path::new("/bin/sh"), &["-c", &start]);
    let end = Background(&net);
    let caller = std::thread::spawn(move || command.stdin(Stdio::null()).output().expect("ip runs"));
    wait_until("the end of what the caller reads", || caller.is_finished());
    let output = caller.join().expect("it ended");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");

    let all = |words: &str| processes(&net, words);
    let [daemon] = all("daemon")[..] else { panic!("one daemon: {said}") };
    let uids = |uid: u32| format!("{uid} {uid} {uid} {uid}");
    assert!(of_each_thread(daemon, "Uid:").iter().all(|uid| *uid == uids(USER)));
    assert!(of_each_thread(daemon, "CapEff:").iter().all(|rights| rights == "0000000000001000"), "CAP_NET_ADMIN alone");
    let [names] = all("responder names")[..] else { panic!("one for names") };
    assert_eq!(of_each_thread(names, "Uid:"), [uids(65_534)]);
    assert_eq!(all("responder commands").len(), 1);

    net.scan(&scanner(0), "1-20");
    wait_until("the block", || blocked(&net).contains(&scanner(0)));
    wait_until("that it is denied", || home.read(DENIED).contains(&scanner(0)));
    let denied = home.path(DENIED).symlink_metadata().expect("a file");
    assert!(denied.is_file() && denied.uid() == 0, "root reads it");
    // As the unit has them.
    let directories =
        [("/var/lib/harden-portsentry/blocks", 0o755), (METRICS, 0o755), ("/run/harden-portsentry", 0o700)];
    for (directory, mode) in directories {
        let metadata = home.path(directory).metadata().expect("a directory");
        assert_eq!((metadata.mode() & 0o777, metadata.uid()), (mode, USER), "{directory}");
    }
    assert!(home.read(&format!("{METRICS}/harden-portsentry.prom")).contains("harden_portsentry_blocked_hosts"));
    drop(end);
    assert!(processes(&net, "responder").is_empty(), "they end with the daemon");
}

#[test]
fn a_daemon_whose_responder_is_gone_says_so_and_ends() {
    let (net, home) = (Net::new("gone"), without_systemd());
    configure(&home, "");
    let out = tempfile::NamedTempFile::new().expect("a file");
    let mut command = home.prepared(&net, &program(), &["daemon", "-c", CONF]);
    command.stdout(out.reopen().expect("a file")).stderr(out.reopen().expect("a file"));
    let mut process = Ends(command.spawn().expect("ip runs"));
    let said = || fs::read_to_string(out.path()).unwrap_or_default();
    wait_until("that it watches", || said().contains("now active and listening"));
    for pid in processes(&net, "responder commands") {
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), Signal::KILL).expect("it runs");
    }
    let status = process.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", said());
    assert!(said().contains("the process that runs the commands of the configuration is gone"), "{}", said());
}

/// The directory of another is not given away, whatever it is called.
#[test]
fn a_history_in_a_directory_of_somebody_else_is_refused() {
    let (net, home) = (Net::new("dirs"), without_systemd());
    for directory in ["/etc/harden-portsentry", "/var/lib/harden-portsentry"] {
        fs::create_dir_all(home.path(directory)).expect("a directory");
        configure(&home, &format!("HISTORY_FILE=\"{directory}/history\"\n"));
        let (said, is_content) = run(&net, &home, &["daemon", "-c", CONF]);
        assert!(
            !is_content && said.contains("HISTORY_FILE is in") && said.contains("/var/log/harden-portsentry"),
            "{said}"
        );
        assert_eq!(home.path(directory).metadata().expect("a directory").uid(), 0, "{directory}");
    }
}

/// Root by hand, and the one of the unit: they would take each other's table away.
#[test]
fn two_daemons_of_one_mode_are_one_too_many_whoever_they_run_as() {
    let (net, home) = (Net::new("two"), without_systemd());
    configure(&home, "");
    let _end = Background(&net);
    let (said, is_content) = run(&net, &home, &["daemon", "-D", "-c", CONF]);
    assert!(is_content, "{said}");
    home.write("/etc/other.conf", "TCP_PORTS=\"1-9\"\nHISTORY_FILE=\"/run/history\"\n");
    let (said, is_content) = run(&net, &home, &["daemon", "-c", "/etc/other.conf"]);
    assert!(!is_content && said.contains("another one is watching already"), "{said}");
    drop(_end);
    // And the other way round.
    let by_root =
        home.prepared(&net, &program(), &["daemon", "-D", "-c", "/etc/other.conf"]).output().expect("ip runs");
    assert!(by_root.status.success());
    let _end = Background(&net);
    let (said, is_content) = run(&net, &home, &["daemon", "-c", CONF]);
    assert!(!is_content && said.contains("another one is watching already"), "{said}");
}

/// A daemon of connect mode that may have so many files open.
fn connecting(net: &Net, home: &Home, files: &str, more: &str) -> (Ends, tempfile::NamedTempFile) {
    home.write("/etc/connect.conf", &format!("IGNORE_FILE=\"\"\nHISTORY_FILE=\"/run/history\"\n{more}"));
    let program = program();
    let nofile = format!("--nofile={files}");
    let words = [&nofile, program.to_str().expect("a path"), "daemon", "--connect", "-c", "/etc/connect.conf"];
    let out = tempfile::NamedTempFile::new().expect("a file");
    let mut command = home.prepared(net, Path::new("prlimit"), &words);
    command.stdout(out.reopen().expect("a file")).stderr(out.reopen().expect("a file"));
    (Ends(command.spawn().expect("ip runs")), out)
}

#[test]
fn ports_that_do_not_fit_are_refused_with_the_numbers() {
    let (net, home) = (Net::new("fit"), Home::new());
    let ports = "TCP_PORTS=\"1-1023\"\nUDP_PORTS=\"1-1023\"\n";
    let (mut process, out) = connecting(&net, &home, "256:256", ports);
    assert_eq!(process.0.wait().expect("it ends").code(), Some(1));
    let said = fs::read_to_string(out.path()).expect("a file");
    assert!(said.contains("2046 ports") && said.contains("may have 256") && said.contains("LimitNOFILE="), "{said}");
    // The kernel would let it have more.
    let (_process, out) = connecting(&net, &home, "256:8192", ports);
    wait_until("that it listens", || fs::read_to_string(out.path()).unwrap_or_default().contains("now active"));
    net.run("client", "nc", &["-z", "-w", "5", HOST, "1000"]);
    wait_until("the connection", || home.read("/run/history").contains("port: [1000]"));
}

/// Who holds all connections open that it greets makes it blind to nobody.
#[test]
fn a_connection_is_seen_though_no_more_files_can_be_open() {
    let (net, home) = (Net::new("files"), Home::new());
    let (process, out) =
        connecting(&net, &home, "1024:1024", "TCP_PORTS=\"7,9\"\nSCAN_TRIGGER=\"0\"\nPORT_BANNER=\"Go away\"\n");
    wait_until("that it listens", || fs::read_to_string(out.path()).unwrap_or_default().contains("now active"));
    let pid = process.0.id();
    let connect = |source: &str, port: &str| net.run("client", "nc", &["-d", "-w", "5", "-s", source, HOST, port]);
    assert!(connect(CLIENT, "7").contains("Go away"));
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let limit = format!("--nofile={open}:{open}");
    for source in [scanner(0), scanner(1), scanner(2)] {
        assert!(Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().expect("it runs").success());
        connect(&source, "9");
        wait_until("the connection", || home.read("/run/history").contains(&source));
    }
}
