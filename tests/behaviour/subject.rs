//! The program under test, in a Debian box, and an attacker on its wire.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::bed::{Bed, Bookworm, Forky, HOST, Output, program, seconds};

/// Whose words the program speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    First,
    Second,
}
pub use Generation::{First, Second};

/// Where everything of a test lies, in the box.
const PLACE: &str = "/t";
/// The commands of most tests: each leaves a line of what it was given.
pub const COMMANDS: &str = r#"KILL_ROUTE="/bin/echo route $TARGET$ $PORT$ $MODE$ >>/t/ran"
KILL_HOSTS_DENY="ALL: $TARGET$ : DENY"
KILL_RUN_CMD="/bin/echo run $TARGET$ $PORT$ $MODE$ >>/t/ran"
"#;

/// One program of one generation.
pub struct Subject {
    pub generation: Generation,
    /// Ours, which sees and says some things that the others do not.
    pub embedded: bool,
    bed: Bed,
    program: String,
    modes: Mutex<Vec<&'static str>>,
}

/// The subject that PORTSENTRY_UNDER_TEST names, nobody else using it meanwhile.
pub fn subject() -> MutexGuard<'static, Subject> {
    static SUBJECT: OnceLock<Mutex<Subject>> = OnceLock::new();
    let subject = SUBJECT.get_or_init(|| Mutex::new(Subject::from_environment()));
    let guard = subject.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    guard.clean();
    guard
}

impl Subject {
    fn from_environment() -> Subject {
        let name = std::env::var("PORTSENTRY_UNDER_TEST").unwrap_or_else(|_| "embedded-2.0".to_owned());
        let (suite, generation, embedded) = match name.as_str() {
            "1.2" => (Bookworm, First, false),
            "2.0.7" => (Forky, Second, false),
            "embedded-1.2" => (Bookworm, First, true),
            "embedded-2.0" => (Forky, Second, true),
            other => panic!("PORTSENTRY_UNDER_TEST is {other:?}: 1.2, 2.0.7, embedded-1.2 or embedded-2.0"),
        };
        let bed = Bed::stock(suite);
        // Debian 11 and 12 have none of these in a minimal server, and the embedded one needs nft.
        bed.apt("install nftables iptables procps");
        bed.run("systemctl disable --now portsentry fail2ban nftables");
        let program = if embedded { "/opt/embedded/portsentry" } else { "portsentry" };
        if embedded {
            bed.ok("mkdir -p /opt/embedded");
            bed.put(self::program(), program);
            bed.ok(&format!("chmod 755 {program}"));
        }
        bed.ok("cp /etc/hosts.deny /root/hosts.deny.stock; cp -L /etc/resolv.conf /root/resolv.conf.stock");
        Subject { generation, embedded, bed, program: program.to_owned(), modes: Mutex::default() }
    }

    fn clean(&self) {
        self.run("pkill -x portsentry; nft flush ruleset; for i in $(seq 100); do pgrep -x portsentry >/dev/null || break; sleep 0.05; done");
        self.run(&format!("rm -rf {PLACE}; mkdir -p {PLACE}; cp /root/hosts.deny.stock /etc/hosts.deny; cp --remove-destination /root/resolv.conf.stock /etc/resolv.conf; : >{PLACE}/ignore; : >{PLACE}/ran"));
        self.forget_log();
    }

    /// What was logged until now is not looked at any more.
    pub fn forget_log(&self) {
        self.ok("journalctl --sync; journalctl -n 1 --show-cursor --quiet | sed -n 's/^-- cursor: //p' >/root/cursor; : >/t/out");
    }

    pub fn run(&self, command: &str) -> Output {
        self.bed.run(command)
    }

    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.bed.ok(command)
    }

    /// The attacker's network namespace.
    pub fn attackers_network(&self) -> std::path::PathBuf {
        self.bed.attackers_network()
    }

    /// Has the configuration ask for names, and this server for them. [`Subject::clean`] takes it back.
    pub fn resolve_by(&self, server: &str) {
        self.ok("sed -i 's/^RESOLVE_HOST=.*/RESOLVE_HOST=\"1\"/' /etc/portsentry/portsentry.conf");
        self.ok(&format!("rm -f /etc/resolv.conf; echo nameserver {server} >/etc/resolv.conf"));
    }

    /// The address list that is ignored.
    pub fn ignore(&self, lines: &str) {
        self.bed.write(&format!("{PLACE}/ignore"), lines);
    }

    /// Writes the configuration: every port below 1024, and `more`.
    pub fn configure(&self, more: &str) {
        let ports = match self.generation {
            First => {
                "TCP_PORTS=\"11,12,13\"\nUDP_PORTS=\"11,12,13\"\nADVANCED_PORTS_TCP=\"1024\"\nADVANCED_PORTS_UDP=\"1024\"\nADVANCED_EXCLUDE_TCP=\"113\"\nADVANCED_EXCLUDE_UDP=\"520\"\n"
            }
            Second => "TCP_PORTS=\"1-112,114-1023\"\nUDP_PORTS=\"1-519,521-1023\"\n",
        };
        self.write_config(&format!("{ports}{more}"));
    }

    /// Writes the configuration with these ports only, as connect mode needs it.
    pub fn configure_ports(&self, tcp: &str, udp: &str, more: &str) {
        self.configure_with(&format!("TCP_PORTS=\"{tcp}\"\nUDP_PORTS=\"{udp}\"\n"), more);
    }

    /// Writes the configuration with these lines about ports.
    pub fn configure_with(&self, ports: &str, more: &str) {
        self.write_config(&format!("{ports}{more}"));
    }

    fn write_config(&self, text: &str) {
        let files = format!(
            "IGNORE_FILE=\"{PLACE}/ignore\"\nHISTORY_FILE=\"{PLACE}/history\"\nBLOCKED_FILE=\"{PLACE}/blocked\"\n"
        );
        // 1.2 takes no other path.
        self.bed.write("/etc/portsentry/portsentry.conf", &format!("RESOLVE_HOST=\"0\"\n{files}{text}"));
    }

    /// Starts it: TCP and UDP, by packets. Waits until it watches.
    pub fn start(&self) {
        match self.generation {
            First => self.start_modes(&["-atcp", "-audp"]),
            Second => self.start_modes(&["--stealth"]),
        }
    }

    /// Starts it with sockets of its own.
    pub fn start_connecting(&self) {
        match self.generation {
            First => self.start_modes(&["-tcp", "-udp"]),
            Second => self.start_modes(&["--connect"]),
        }
    }

    pub fn start_modes(&self, modes: &[&'static str]) {
        *self.modes.lock().expect("no test panicked here") = modes.to_vec();
        for mode in modes {
            match self.generation {
                First => drop(self.run(&format!("{} {mode}", self.program)).succeeds()),
                Second => drop(self.ok(&format!("setsid {} {mode} >{PLACE}/out 2>&1 </dev/null &", self.program))),
            }
        }
        let wanted = modes.len();
        self.wait_for("it to watch", |log| {
            log.iter().filter(|line| line.contains("is now active and listening.")).count() == wanted
        });
    }

    /// What it is called by.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Runs it with `words`, to its end.
    pub fn call(&self, words: &str) -> Output {
        self.run(&format!("timeout 20 {} {words}", self.program))
    }

    pub fn stop(&self) {
        self.ok("pkill -x portsentry");
        self.wait_until("it to end", || self.run("pgrep -x portsentry").status != 0);
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        let text = match self.generation {
            First => return self.journal(),
            Second => self.run(&format!("cat {PLACE}/out")).stdout,
        };
        text.lines().map(str::to_owned).collect()
    }

    /// What syslog got of it.
    pub fn journal(&self) -> Vec<String> {
        let text = self.run("journalctl --after-cursor=\"$(cat /root/cursor)\" -o cat -t portsentry --quiet").stdout;
        text.lines().map(str::to_owned).collect()
    }

    /// What it has logged of scans and blocks.
    pub fn alerts(&self) -> Vec<String> {
        self.log()
            .into_iter()
            .filter(|line| line.starts_with("attackalert: ") || line.starts_with("Scan from: "))
            .collect()
    }

    /// The history, its times replaced by `TIME`.
    pub fn history(&self) -> Vec<String> {
        let text = self.run(&format!("cat {PLACE}/history")).stdout;
        let time = match self.generation {
            First => regex::Regex::new(r"^\d{10} - \d\d/\d\d/\d{4} \d\d:\d\d:\d\d ").expect("a pattern"),
            Second => regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} ").expect("a pattern"),
        };
        text.lines().map(|line| time.replace(line, "TIME ").into_owned()).collect()
    }

    /// What the commands of [`COMMANDS`] were given.
    pub fn ran(&self) -> Vec<String> {
        self.ok(&format!("cat {PLACE}/ran")).lines().map(str::to_owned).collect()
    }

    /// The lines of hosts.deny that are no comments.
    pub fn denied(&self) -> Vec<String> {
        self.ok("cat /etc/hosts.deny")
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The blocked file: as text, or its bytes in hex.
    pub fn blocked_file(&self) -> String {
        match self.generation {
            First => self.run(&format!("cat {PLACE}/blocked.*")).stdout,
            Second => self.run(&format!("od -An -v -tx1 {PLACE}/blocked | tr -d ' \\n'")).stdout,
        }
    }

    /// nmap with these flags from `source`, one packet a port.
    pub fn scan(&self, source: &str, flags: &str) {
        let target = if source.contains(':') { "-6 fd66::1" } else { HOST };
        let words = format!("nmap -Pn -n --max-retries 0 -S {source} -e wire {flags} {target}");
        // Where an answer to its one ARP request is late, on a busy machine, it sends nothing, and is content.
        let sent = (0..5).any(|_| self.bed.attack(&words).succeeds().stdout.contains("1 host up"));
        assert!(sent, "{words}: the host seems down");
    }

    pub fn attack(&self, command: &str) -> Output {
        self.bed.attack(command)
    }

    /// Waits until what it logged fulfils `condition`.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        loop {
            let log = self.log();
            if condition(&log) {
                return;
            }
            assert!(start.elapsed() < seconds(20), "waited for {what}; it logged:\n{}", log.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until so many alerts were logged, and hands them out; more than these is a failure.
    #[track_caller]
    pub fn wait_for_alerts(&self, wanted: &[String]) {
        self.wait_for("alerts", |_| self.alerts().len() >= wanted.len());
        assert_eq!(self.alerts(), wanted);
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        crate::bed::wait_for(seconds(20), what, condition);
    }

    /// Makes sure that what was sent before has been looked at: a probe that is told for certain follows it.
    #[track_caller]
    pub fn settle(&self) {
        let before = self.alerts().len();
        self.scan("203.0.113.12", "-sS -p 1000");
        self.wait_for("the probe that settles", |_| {
            self.alerts().iter().skip(before).any(|line| line.contains("203.0.113.12"))
        });
    }
}
