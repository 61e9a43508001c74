//! A real Debian in a box, and an attacker on its wire: `tests/testbed/box` as a value that cleans up.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::tree::Tree;

/// The box's own address on the wire, and the one of its gateway: inside the LAN, so never to be blocked.
pub const HOST: &str = "192.168.66.1";
pub const GATEWAY: &str = "192.168.66.9";
/// An address outside the LAN that the attacker scans from.
pub const OUTSIDER: &str = "203.0.113.9";
pub const OTHER_OUTSIDER: &str = "203.0.113.10";

/// Where the program is copied to: the place a person unpacks a download in.
pub const PROGRAM: &str = "/root/harden-portsentry";

/// The article's config.env, for the wire.
pub const CONFIG_ENV: &str = r#"export LAN_IF="wire" # Internal private network interface
export LAN_IP="192.168.66.1" # Internal private network IP address
export LAN_NM="24" # Internal private network netmask
export LAN_GW="192.168.66.9" # Internal private network gateway/router
"#;

/// No single command in a box takes longer than these seconds, nor under emulation.
const COMMAND_LIMIT: &str = "1800";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Suite {
    Bullseye = 11,
    Bookworm = 12,
    Trixie = 13,
    Forky = 14,
}
pub use Suite::{Bookworm, Bullseye, Forky, Trixie};

/// Which portsentry the machines of a test get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// Debian's.
    Package,
    /// The one built into the program.
    Embedded,
}

thread_local! {
    static ENGINE: Cell<Engine> = const { Cell::new(Engine::Package) };
}

/// Runs `test`, which a thread has to itself, with machines of that engine.
pub fn with_engine(engine: Engine, test: impl FnOnce()) {
    ENGINE.set(engine);
    test();
}

pub fn is_embedded() -> bool {
    ENGINE.get() == Engine::Embedded
}

/// What the stock package or the article does wrong. It is the same whichever engine watches afterwards, so it is shown
/// by the tests of Debian's alone.
pub fn control(shown: impl FnOnce()) {
    if !is_embedded() {
        shown();
    }
}

impl Suite {
    /// portsentry 1.2's configuration and history, as on all but Debian 14.
    pub fn has_portsentry_1(self) -> bool {
        self != Forky && !is_embedded()
    }

    /// Where the portsentry of this Debian, or the embedded one, writes its history.
    pub fn history(self) -> &'static str {
        match self.has_portsentry_1() {
            _ if is_embedded() => "/var/log/harden-portsentry/portsentry.log",
            true => "/var/lib/portsentry/portsentry.history",
            false => "/var/log/portsentry.log",
        }
    }

    /// The configuration that apply edits.
    pub fn conf(self) -> &'static str {
        if is_embedded() { "/etc/harden-portsentry/portsentry.conf" } else { "/etc/portsentry/portsentry.conf" }
    }

    /// The units that apply leaves enabled and running.
    pub fn units(self) -> &'static [&'static str] {
        match self {
            _ if is_embedded() => &["harden-portsentry.service"],
            Trixie => &["portsentry@atcp.service", "portsentry@audp.service"],
            _ => &["portsentry.service"],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

/// What a command answered. Its methods panic with all of it, so that a failed test can be read.
pub struct Output {
    pub command: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}`: exit {}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.status, self.stdout, self.stderr)
    }
}

impl Output {
    fn of(command: &str, mut process: Command) -> Output {
        let output = process.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot start `{command}`: {e}"));
        Output {
            command: command.to_owned(),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn exits(self, status: i32) -> Output {
        assert!(self.status == status, "expected exit {status}: {self}");
        self
    }

    #[track_caller]
    pub fn succeeds(self) -> Output {
        self.exits(0)
    }

    #[track_caller]
    pub fn fails(self) -> Output {
        assert!(self.status != 0, "expected a failure: {self}");
        self
    }

    /// Reads the text anywhere in the output, in whatever case, over the line breaks that fit it to a terminal.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.reads(text), "expected to read {text:?}: {self}");
        self
    }

    #[track_caller]
    pub fn says_not(self, text: &str) -> Output {
        assert!(!self.reads(text), "did not expect to read {text:?}: {self}");
        self
    }

    fn reads(&self, text: &str) -> bool {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        words(&self.text()).contains(&words(text))
    }

    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A booted box, taken down when dropped (or kept, with its name printed, if HARDEN_KEEP is set and the test failed).
pub struct Bed {
    pub suite: Suite,
    name: String,
    testbed: &'static str,
}

impl Bed {
    /// A minimal server that has never seen portsentry.
    pub fn pristine(suite: Suite) -> Bed {
        Bed::up(suite, &[])
    }

    /// The same with Debian's portsentry and fail2ban installed and started as their packages do it.
    pub fn stock(suite: Suite) -> Bed {
        Bed::up(suite, &["--stock"])
    }

    pub fn up(suite: Suite, options: &[&str]) -> Bed {
        Bed::start("box", suite, options)
    }

    /// A machine of its own under emulation, with Debian's kernel and the CHAOS module.
    pub fn own_kernel(suite: Suite) -> Bed {
        Bed::start("vm", suite, &[])
    }

    fn start(testbed: &'static str, suite: Suite, options: &[&str]) -> Bed {
        static SWEPT: OnceLock<()> = OnceLock::new();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        SWEPT.get_or_init(|| {
            assert!(rustix::process::geteuid().is_root(), "the tests on real Debian need root: tests/run asks for it");
            for testbed in ["box", "vm"] {
                testbed_says(testbed, &["sweep"], "sweep").succeeds();
            }
        });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("d{suite}-{}-{number}", std::process::id());
        let suite_number = suite.to_string();
        let bed = Bed { suite, name, testbed };
        let words: Vec<_> = [suite_number.as_str(), &bed.name].into_iter().chain(options.iter().copied()).collect();
        testbed_says(testbed, &[&["up"], &words[..]].concat(), "up").succeeds();
        bed
    }

    /// A limit for what takes less than `n` seconds in a box; emulation is several times slower.
    pub fn patience(&self, n: u64) -> Duration {
        seconds(if self.testbed == "vm" { 5 * n } else { n })
    }

    /// `box VERB NAME WORDS…` or `vm …`
    fn testbed(&self, verb: &str, words: &[&str]) -> Output {
        let shown = words.last().copied().unwrap_or(verb);
        testbed_says(self.testbed, &[&[verb, &self.name], words].concat(), shown)
    }

    /// Runs a shell command inside, as root.
    pub fn run(&self, command: &str) -> Output {
        self.testbed("run", &["--", "sh", "-c", command])
    }

    /// Runs it, and it has to succeed: its standard output.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.run(command).succeeds().stdout
    }

    /// Runs a shell command as the attacker.
    pub fn attack(&self, command: &str) -> Output {
        self.testbed("attack", &["--", "sh", "-c", command])
    }

    /// The attacker's network namespace, for a program of a test that is to be there.
    #[allow(dead_code)] // its name server: tests/behaviour/names.rs
    pub fn attackers_network(&self) -> PathBuf {
        Path::new("/run/netns").join(format!("{}-attacker", self.name))
    }

    pub fn put(&self, file: &Path, dest: &str) {
        let file = file.to_str().expect("test paths are UTF-8");
        self.testbed("put", &[file, dest]).succeeds();
    }

    pub fn write(&self, path: &str, content: &str) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("it is writable");
        self.run(&format!("mkdir -p \"$(dirname {path})\"")).succeeds();
        self.put(file.path(), path);
        self.ok(&format!("chmod 644 {path}"));
    }

    pub fn read(&self, path: &str) -> String {
        self.ok(&format!("cat {path}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.run(&format!("test -e {path}")).status == 0
    }

    /// All files below a directory, by their content, owner, mode and links.
    pub fn tree(&self, path: &str) -> Tree {
        let copy = tempfile::tempdir().expect("a temporary directory");
        self.testbed("copy-from", &[path, copy.path().to_str().expect("test paths are UTF-8")]).succeeds();
        Tree::read(copy.path())
    }

    /// Inode, change and modification time of every file below `paths`: differs after any write, even of the same bytes.
    pub fn stamps(&self, paths: &str) -> String {
        self.ok(&format!("find {paths} -xdev ! -type d -printf '%p %i %T@ %C@ %m %u:%g\\n' | sort"))
    }

    pub fn reboot(&self) {
        self.testbed("reboot", &[]).succeeds();
    }

    pub fn power_cycle(&self) {
        self.testbed("kill", &[]).succeeds();
    }

    /// Puts the program under test and the article's config.env in.
    pub fn with_program(self) -> Bed {
        self.put(program(), PROGRAM);
        self.ok(&format!("chmod 755 {PROGRAM}"));
        self.with_policy().with_config(CONFIG_ENV)
    }

    /// The policy.toml of a test's engine; Debian's portsentry needs none.
    pub fn with_policy(self) -> Bed {
        self.set_policy("");
        self
    }

    /// The same with these lines.
    pub fn set_policy(&self, lines: &str) {
        let engine = if is_embedded() { "engine = \"embedded\"\n" } else { "" };
        if engine.is_empty() && lines.is_empty() {
            self.ok("rm -f /etc/harden-portsentry/policy.toml");
        } else {
            self.write("/etc/harden-portsentry/policy.toml", &format!("{engine}{lines}"));
        }
    }

    /// And what apply would install on a stock box, for a test that compares the files of before and after.
    pub fn with_its_packages(self) -> Bed {
        self.apt("install nftables");
        self
    }

    pub fn with_config(self, config_env: &str) -> Bed {
        self.write("/root/config.env", config_env);
        self.ok("chmod 600 /root/config.env");
        self
    }

    pub fn tool(&self, arguments: &str) -> Output {
        self.run(&format!("cd /root && {PROGRAM} {arguments}"))
    }

    #[track_caller]
    pub fn apply(&self) -> Output {
        self.tool("apply --yes").succeeds()
    }

    /// apt, offline, as an administrator would call it.
    #[track_caller]
    pub fn apt(&self, arguments: &str) -> Output {
        self.run(&format!("DEBIAN_FRONTEND=noninteractive apt-get -q -y {arguments}")).succeeds()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("HARDEN_KEEP").is_some() {
            self.testbed("keep", &[]);
            eprintln!("kept: tests/testbed/{0} run {1} -- bash; tests/testbed/{0} down {1}", self.testbed, self.name);
        } else {
            self.testbed("down", &[]);
        }
    }
}

/// The static program under test, which starts on every Debian.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = match std::env::var_os("HARDEN_PORTSENTRY") {
            Some(path) => PathBuf::from(path),
            None => {
                let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
                let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"));
                target.join("x86_64-unknown-linux-musl/release/harden-portsentry")
            }
        };
        assert!(
            path.is_file(),
            "{} is not built: cargo build --release --target x86_64-unknown-linux-musl, or name another with HARDEN_PORTSENTRY; tests/run does it",
            path.display()
        );
        path
    })
}

/// Waits for a condition, and panics with what was waited for when the limit is reached.
#[track_caller]
pub fn wait_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {} s for: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn testbed_says(testbed: &str, words: &[&str], shown: &str) -> Output {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", COMMAND_LIMIT]).arg(scripts.join(testbed)).args(words);
    command.env("BOX_OWNER", std::process::id().to_string());
    Output::of(shown, command)
}
