//! The program under test, watching the host of a [`Net`], and what its history says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use regex::Regex;
use tempfile::TempDir;

use super::home::Home;
use super::{Net, wait_until};

/// The release that tests/run built, or cargo's own.
pub fn program() -> PathBuf {
    std::env::var_os("HARDEN_PORTSENTRY").map_or_else(|| env!("CARGO_BIN_EXE_harden-portsentry").into(), PathBuf::from)
}

pub struct Daemon {
    process: Child,
    files: TempDir,
    /// Its portsentry.conf but for what a test adds.
    settings: String,
}

impl Daemon {
    /// Watches these ports of both protocols, logs only, and is ready.
    pub fn watch(net: &Net, ports: &str) -> Daemon {
        Daemon::configured(net, ports, "")
    }

    /// The same with these lines of portsentry.conf more.
    pub fn configured(net: &Net, ports: &str, more: &str) -> Daemon {
        let prepared = |program: &Path, words: &[&str]| net.prepared("host", program.to_str().expect("a path"), words);
        Daemon::start(ports, more, |_| {}, prepared)
    }

    /// The same, in a home of its own.
    pub fn at_home(net: &Net, home: &Home, ports: &str, more: &str) -> Daemon {
        Daemon::start(ports, more, |_| {}, |program, words| home.prepared(net, program, words))
    }

    /// The same: `prepare` gets the directory with its files, `prepared` the program and its words, and gives the command.
    pub fn start(
        ports: &str,
        more: &str,
        prepare: impl Fn(&Path),
        prepared: impl Fn(&Path, &[&str]) -> Command,
    ) -> Daemon {
        let files = TempDir::new().expect("a temporary directory");
        let at = |name: &str| files.path().join(name).display().to_string();
        let settings = [
            ("TCP_PORTS", ports.to_owned()),
            ("UDP_PORTS", ports.to_owned()),
            ("IGNORE_FILE", at("portsentry.ignore")),
            ("HISTORY_FILE", at("history")),
            ("BLOCKED_FILE", at("blocked")),
            ("BLOCK_TCP", "0".to_owned()),
            ("BLOCK_UDP", "0".to_owned()),
            ("RESOLVE_HOST", "0".to_owned()),
        ];
        // Of a doubled key the last one counts.
        let text: String = settings.iter().map(|(key, value)| format!("{key}=\"{value}\"\n")).collect();
        fs::write(files.path().join("portsentry.conf"), format!("{text}{more}")).expect("a file");
        fs::write(files.path().join("portsentry.ignore"), "127.0.0.1/32\n").expect("a file");
        let out = fs::File::create(files.path().join("out")).expect("a file");
        prepare(files.path());
        let program = program();
        let process = prepared(&program, &["daemon", "-c", &at("portsentry.conf")])
            .stderr(Stdio::from(out.try_clone().expect("a file")))
            .stdout(Stdio::from(out))
            .spawn()
            .expect("ip runs");
        let mut daemon = Daemon { process, files, settings: text };
        wait_until("'Portsentry is now active and listening.'", || {
            if let Ok(Some(status)) = daemon.process.try_wait() {
                panic!("{} daemon ended, {status}: {}", program.display(), daemon.said());
            }
            daemon.said().contains("Portsentry is now active and listening")
        });
        daemon
    }

    /// Writes another configuration with these lines more; it reads it at SIGHUP.
    pub fn configure(&self, more: &str) {
        fs::write(self.files.path().join("portsentry.conf"), format!("{}{more}", self.settings)).expect("a file");
    }

    /// The same, with a file that says just this.
    pub fn write_configuration(&self, text: &str) {
        fs::write(self.files.path().join("portsentry.conf"), text).expect("a file");
    }

    /// Kills it as it stands; what it had said.
    pub fn kill(mut self) -> String {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ended");
        self.said()
    }

    /// A path as the daemon sees it.
    pub fn sees(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid().as_raw_nonzero()))
    }

    /// A shell command among the mounts of the daemon.
    pub fn mount(&self, command: &str) {
        let pid = self.pid().as_raw_nonzero().to_string();
        let output = Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", command]).output().expect("nsenter");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Holds it up, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    /// The most memory that it ever had, as the kernel counts it (proc_pid_status(5), VmHWM), in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|number| number.parse().ok()).expect("a number of kB")
    }

    /// How many lines the history has.
    pub fn lines_of_history(&self) -> usize {
        let text = fs::read(self.files.path().join("history")).expect("a history");
        text.iter().filter(|&&byte| byte == b'\n').count()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.files.path().join("out")).unwrap_or_default()
    }

    fn history_file(&self) -> PathBuf {
        Path::new(self.files.path()).join("history")
    }

    /// Takes the history away.
    pub fn lose_history(&self) {
        fs::remove_file(self.history_file()).expect("it is there");
    }

    pub fn history(&self) -> History {
        History::parse(&fs::read_to_string(self.history_file()).unwrap_or_default())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.process.try_wait() {
            return;
        }
        // One that a test held up, and failed, would not hear the other.
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::CONT] {
            let _ = rustix::process::kill_process(self.pid(), signal);
        }
        let _ = self.process.wait();
    }
}

/// What a history says, line by line.
pub struct History(Vec<Line>);

pub struct Line {
    pub source: String,
    pub protocol: String,
    pub port: u16,
    pub text: String,
}

impl History {
    /// Lines as portsentry 2.0 writes them. A whole line that is none has an empty source, and so is nobody's scan.
    pub fn parse(text: &str) -> History {
        let line = Regex::new(r"Scan from: \[([^\]]*)\].* protocol: \[(\w+)\] port: \[(\d+)\]").expect("a pattern");
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let parsed = whole.lines().map(|text| {
            let found = line.captures(text);
            let word = |at: usize| found.as_ref().map_or(String::new(), |found| found[at].to_owned());
            Line { source: word(1), protocol: word(2), port: word(3).parse().unwrap_or(0), text: text.to_owned() }
        });
        History(parsed.collect())
    }

    /// The ports that a source was seen to ask.
    pub fn ports(&self, source: &str, protocol: &str) -> BTreeSet<u16> {
        let of = |line: &&Line| line.source == source && line.protocol == protocol;
        self.0.iter().filter(of).map(|line| line.port).collect()
    }

    /// What is about others than these sources: who is said to have asked what, and how often.
    pub fn about_others(&self, sources: &[String]) -> BTreeMap<String, usize> {
        let mut alarms = BTreeMap::new();
        for line in self.0.iter().filter(|line| !sources.contains(&line.source)) {
            let what = match line.source.as_str() {
                "" => line.text.clone(), // no line that it may write
                source => format!("{source} {} {}", line.protocol, line.port),
            };
            *alarms.entry(what).or_insert(0) += 1;
        }
        alarms
    }
}
