//! Our reading of hosts.allow and hosts.deny against the real one: tcpdmatch (Debian package tcpd), which asks libwrap.
//!
//! Each test runs once more in namespaces of its own, without a network and with an empty /etc/hosts, so that no
//! address has a name; what libwrap would log there comes to a socket of the test, which so learns the rule that
//! matched. That needs root.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harden_portsentry::syntax::hosts_access::{Because, File, HostsAccess, MarkedEntry, Verdict, evaluate};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How many pairs of files each family is tried with.
const GENERATED: usize = 1200;

#[test]
fn generated_files_for_ipv4_clients() {
    without_names("generated_files_for_ipv4_clients", |real| compare(real, 4, &["192.0.2.1", "10.1.2.3", "127.0.0.1"]));
}

#[test]
fn generated_files_for_ipv6_clients() {
    without_names("generated_files_for_ipv6_clients", |real| {
        compare(real, 6, &["2001:db8::1", "fd66::a:9", "::1", "::ffff:192.0.2.1"])
    });
}

/// What we write lets in who is inside, and nobody else, though hosts.deny shuts out everybody.
#[test]
fn our_entries_grant_their_networks_and_nobody_else() {
    without_names("our_entries_grant_their_networks_and_nobody_else", |real| {
        let mut random = Random(0x5eed);
        for _ in 0..150 {
            let (network, inside, outside) = random.network();
            let mut allow = HostsAccess::parse(b"# a comment \\\nthat goes on\nsshd: 203.0.113.99");
            allow.set_marked(&[MarkedEntry::all(network)]).unwrap();
            let text = String::from_utf8(allow.to_bytes()).unwrap();
            real.write(text.as_bytes(), b"ALL: ALL\n");
            assert_eq!(real.ask("sshd", inside).access, Access::Granted, "{inside} with {text}");
            if let Some(outside) = outside {
                assert_eq!(real.ask("sshd", outside).access, Access::Denied, "{outside} with {text}");
            }
        }
    });
}

/// Each word alone for each client, then files made of them. Users and groups that do not exist are left out: ours
/// takes them to exist.
fn compare(real: &Real, seed: u64, clients: &[&str]) {
    let mut comparison = Comparison { real, granted: 0, differing: Vec::new() };
    for client in clients {
        for word in CLIENTS.split(' ') {
            comparison.case(b"", format!("ALL: {}\n", real.filled(word)).as_bytes(), "sshd", client);
        }
    }
    for word in DAEMONS.split(' ') {
        comparison.case(b"", format!("{word}: ALL\n").as_bytes(), "sshd", clients[0]);
    }
    for option in OPTIONS.split('|') {
        let rule = format!("ALL: ALL : {option}\n");
        comparison.case(rule.as_bytes(), b"", "sshd", clients[0]);
        comparison.case(b"", rule.as_bytes(), "sshd", clients[0]);
    }
    let mut random = Random(seed);
    comparison.granted = 0;
    for _ in 0..GENERATED {
        let (allow, deny) = (random.file(real), random.file(real));
        comparison.case(&allow, &deny, random.pick(&["sshd", "in.ftpd"]), random.pick(clients));
    }
    let Comparison { granted, differing, .. } = comparison;
    assert!((GENERATED / 5..GENERATED * 4 / 5).contains(&granted), "a lopsided generator: {granted} granted");
    assert!(
        differing.is_empty(),
        "{} differ, such as\n{}",
        differing.len(),
        differing[..differing.len().min(9)].join("\n")
    );
}

struct Comparison<'a> {
    real: &'a Real,
    granted: usize,
    differing: Vec<String>,
}

impl Comparison<'_> {
    fn case(&mut self, allow: &[u8], deny: &[u8], daemon: &str, client: &str) {
        let address: IpAddr = client.parse().unwrap();
        self.real.write(allow, deny);
        let (theirs, ours) = (self.real.ask(daemon, address), answer_of_ours(allow, deny, daemon, address));
        self.granted += usize::from(theirs.access == Access::Granted);
        if theirs != ours {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(400).collect::<String>();
            self.differing.push(format!(
                "{daemon} for {client}\n allow {:?}\n deny {:?}\n theirs {theirs}\n ours   {ours}\n",
                text(allow),
                text(deny)
            ));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Granted,
    Denied,
}

/// Who is let in, and the rule that matched: `hosts.allow line 3`.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    access: Access,
    rule: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} by {}", self.access, self.rule.as_deref().unwrap_or("no rule"))
    }
}

/// tcpdmatch in a directory of its own.
struct Real {
    directory: PathBuf,
    log: UnixDatagram,
}

impl Real {
    fn write(&self, allow: &[u8], deny: &[u8]) {
        std::fs::write(self.directory.join("hosts.allow"), allow).unwrap();
        std::fs::write(self.directory.join("hosts.deny"), deny).unwrap();
    }

    fn ask(&self, daemon: &str, client: IpAddr) -> Answer {
        let mut command = Command::new(tcpdmatch());
        command.args(["-d", daemon, &client.to_string()]).current_dir(&self.directory);
        let output = command.stdin(Stdio::null()).output().expect("tcpdmatch starts");
        let (mut rule, mut buffer) = (None, [0; 8192]);
        while let Ok(length) = self.log.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            rule = message.split_once("matched:  ").map(|(_, rule)| rule.to_owned()).or(rule);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let access = match text.lines().find_map(|line| line.strip_prefix("access:")).map(str::trim) {
            Some("granted") => Access::Granted,
            // Delegated: another program answers in place of the daemon.
            Some("denied" | "delegated") => Access::Denied,
            _ => panic!("tcpdmatch said: {text}{}", String::from_utf8_lossy(&output.stderr)),
        };
        Answer { access, rule }
    }

    /// A word in which `{}` stands for the directory of the files that rules name.
    fn filled(&self, word: &str) -> String {
        word.replace("{}", &self.directory.display().to_string())
    }
}

fn answer_of_ours(allow: &[u8], deny: &[u8], daemon: &str, client: IpAddr) -> Answer {
    let files = |path: &str| std::fs::read_to_string(path).ok();
    let (allow, deny) = (HostsAccess::parse(allow), HostsAccess::parse(deny));
    let Verdict { granted, because } = evaluate(&allow, &deny, daemon, client, &files);
    let rule = match because {
        Because::Rule { file: File::Allow, line, .. } => Some(format!("hosts.allow line {line}")),
        Because::Rule { file: File::Deny, line, .. } => Some(format!("hosts.deny line {line}")),
        Because::NoRule | Because::Unreadable { .. } => None,
    };
    Answer { access: if granted { Access::Granted } else { Access::Denied }, rule }
}

/// The one of Debian's package, or another one named by TCPDMATCH.
fn tcpdmatch() -> PathBuf {
    std::env::var_os("TCPDMATCH").map_or("/usr/sbin/tcpdmatch".into(), PathBuf::from)
}

/// Runs `body` in a copy of this process that no name service reaches.
fn without_names(test: &str, body: impl FnOnce(&Real)) {
    const INSIDE: &str = "HARDEN_WITHOUT_NAMES";
    if let Some(directory) = std::env::var_os(INSIDE) {
        let directory = PathBuf::from(directory);
        let log = UnixDatagram::bind("/dev/log").unwrap();
        log.set_nonblocking(true).unwrap();
        return body(&Real { directory, log });
    }
    assert!(tcpdmatch().exists(), "{} is missing: apt-get install tcpd", tcpdmatch().display());
    assert!(rustix::process::geteuid().is_root(), "namespaces without names need root: run the tests as root");
    let directory = tempfile::tempdir().unwrap();
    let script = r#"
        set -e; cd "$1"; shift
        mkdir dev; touch dev/null; mount --bind /dev/null dev/null
        echo 'hosts: files' >nsswitch; mount --bind nsswitch /etc/nsswitch.conf
        : >names; mount --bind names /etc/hosts
        mount --rbind dev /dev
        exec "$@" </dev/null"#;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--", "sh", "-c", script, "sh"]).arg(directory.path());
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    write_named_files(directory.path());
    let output = command.env(INSIDE, directory.path()).stdin(Stdio::null()).output().expect("unshare(1) starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// The files that rules name; `{}` stands for their directory.
fn write_named_files(directory: &Path) {
    for (name, text) in [
        ("list", "# no comment: 192.0.2.77\n203.0.113.9 192.0.2.0/24\n[2001:db8::]/64\n"),
        ("all", "ALL"),
        ("except", "ALL EXCEPT 192.0.2.1 [2001:db8::1]\n"),
        ("nested", "{}/list"),
        ("commas", "192.0.2.1, 10.1.2.3\n"),
        ("users", "root@ALL KNOWN LOCAL\n"),
    ] {
        std::fs::write(directory.join(name), text.replace("{}", &directory.display().to_string())).unwrap();
    }
}

/// Words of the first field.
const DAEMONS: &str = "\
    ALL ALL ALL ALL all sshd sshd SSHD in.ftpd in. .ftpd ss* s?hd * KNOWN UNKNOWN sshd@192.0.2.5 sshd@ALL \
    sshd@UNKNOWN ALL@[fd66::1] LOCAL EXCEPT sshd@ @sshd";

/// Words of the second; `{}` stands for the directory of the files that rules name.
const CLIENTS: &str = "\
    ALL all KNOWN UNKNOWN LOCAL PARANOID unknown paranoid EXCEPT 192.0.2.1 192.0.2.2 10.1.2.3 127.0.0.1 127. 10. \
    10.1. 10.1 192.0.2. 192.0. 192. .1 .2.1 . 192.0.2.0/24 192.0.2.1/24 192.0.2.0/255.255.255.0 \
    192.0.2.1/255.255.255.0 192.0.2.1/32 192.0.2.1/255.255.255.255 0.0.0.0/0 0.0.0.0/0.0.0.0 10.0.0.0/8 \
    10.1.2.0/255.255.254.0 10.0.0.0/33 10.0.0.0/-1 10.0.0.0/8x 10.0.0.0/ 10/8 10.0/8 010.0.0.0/8 10.0.0.0/08 \
    192.0.2.0/255.255.255 10.0.0.0/0xff000000 192.0.2.0/+24 0xc0.0.2.0/24 192.0.2.0/0377.255.255.0 \
    255.255.255.255/32 10.1.2.0/255.0.255.0 192.0.2.0/24/24 /24 0.0.0.0/1 2001:db8::1 [2001:db8::1] [2001:DB8::1] \
    [2001:db8:0:0::1] [2001:db8::2] [2001:db8::]/64 [2001:db8::1]/64 [2001:db8::]/32 [2001:db8::1]/128 \
    [2001:db8::1]/129 [2001:db8::1]/-1 [2001:db8::1]/ [2001:db8::1]/64x [::]/0 [::1] ::1 [fd66::]/16 [fd66::9]/0 \
    [fd00::]/8 [fe80::]/10 [::ffff:192.0.2.1] [::ffff:192.0.2.0]/120 [192.0.2.1] [192.0.2.0]/24 [::1 ::1] [] []/0 \
    [fd66::a:9] [fd66::A:9]/112 2001:db8::/32 [fd66::*] [fd66:0:0:0::9]/16 2001: [2001: [::1%lo] [2001:db8::1]/064 \
    * 192.0.2.* 192.0.?.1 1* *.1 fd66:* FD66:* [* u* un?nown U* 10.*.2.3 *.*.*.* */24 192.0.2.0/2* ? root@ALL \
    ALL@192.0.2.1 UNKNOWN@ALL unknown@10. KNOWN@ALL *@ALL root@ @staff @ @*@ALL u*@[fd66::a:9] a@b@192.0.2.1 \
    unknown@[2001:db8::]/64 .example host.example localhost example. {}/list {}/all {}/except {}/nested {}/commas \
    {}/users {}/missing / {}/li* ALL@{}/list";

/// What comes behind it, separated by bars here.
const OPTIONS: &str = "\
    ALLOW|allow|DENY|deny |allow |allow=|allow = |deny=x|allow now|severity mail.info|severity notice|\
    severity nosuch|severity=info|severity|severity mail.|severity local7.debug|severity auth.INFO|spawn true|spawn|\
    spawn a\\:b|spawn echo : allow|twist /bin/true|twist|twist x : allow|keepalive|keepalive 1|linger 5|linger -1|\
    linger x|umask 022|umask 888|umask 7777|umask 22x|nice|nice 5|nice x|rfc931|rfc931 3|rfc931 0|setenv A b|\
    setenv A|setenv|banners /nowhere|banners|aclexec true|aclexec|user root|user root.root|group root|unheard-of|| |\
    ALLOW : |allow : severity info|severity info : deny|=allow|allow\\|umask 0x1|umask -1|linger +5|linger 5 6|\
    severity mail..info";

/// xorshift64*: the same cases in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn file(&mut self, real: &Real) -> Vec<u8> {
        let mut text = String::new();
        for _ in 0..self.below(5) {
            text.push_str(&self.line(real));
            text.push_str(self.pick(&["\n", "\n", "\n", "\n", "\n", "\n", "\r\n", "\n\n"]));
        }
        if self.one_in(8) && text.ends_with('\n') {
            text.pop();
        }
        let mut bytes = text.into_bytes();
        if self.one_in(60) && !bytes.is_empty() {
            let at = self.below(bytes.len());
            bytes[at] = 0;
        }
        bytes
    }

    fn line(&mut self, real: &Real) -> String {
        if self.one_in(7) {
            const ODD: &[&str] = &[
                "# a comment",
                "# goes on \\",
                " # ALL: ALL",
                "",
                "  \t ",
                "nothing",
                ":",
                "ALL",
                "ALL:",
                ": ALL",
                "ALL: ALL:",
                "ALL: \\",
                "\\",
                "ALL:: ALL",
                "[:] : ALL",
                "]:ALL: ALL",
            ];
            return self.pick(ODD).to_owned();
        }
        let (blank, colon) =
            (self.pick(&["", "", "", " ", "\t"]), self.pick(&[":", ": ", ": ", " : ", "\t:\t", ":\\\n "]));
        let mut line = format!("{blank}{}{colon}{}", self.list(DAEMONS), real.filled(&self.list(CLIENTS)));
        for _ in 0..self.below(9) / 6 {
            line.push_str(self.pick(&[" : ", ":", " :"]));
            line.push_str(self.pick(&OPTIONS.split('|').collect::<Vec<_>>()));
        }
        if self.one_in(40) {
            line.push_str(&format!(" {}", "x".repeat(2046 - line.len() % 2000 - 3 + self.below(6))));
        }
        line
    }

    fn list(&mut self, words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let mut list = self.pick(&words).to_owned();
        for _ in 0..self.below(5) / 2 {
            list.push_str(self.pick(&[" ", ",", ", ", "\t", " EXCEPT ", " except ", " \\\n", ",,"]));
            list.push_str(self.pick(&words));
        }
        if self.one_in(20) { list + " EXCEPT" } else { list }
    }

    /// A network, an address inside, and one outside of it if there is any.
    fn network(&mut self) -> (IpNet, IpAddr, Option<IpAddr>) {
        let flip = |bits: u8, length: u8| (length > 0).then(|| bits - 1 - (length - 1));
        if self.one_in(2) {
            let length = self.below(33) as u8;
            let address = self.next() as u32;
            let network = Ipv4Net::new(address.into(), length).unwrap();
            let inside = u32::from(network.network()) | (self.next() as u32 & !u32::from(network.netmask()));
            let outside = flip(32, length).map(|bit| IpAddr::V4((inside ^ (1 << bit)).into()));
            (network.into(), IpAddr::V4(inside.into()), outside)
        } else {
            let length = self.below(129) as u8;
            let address = (u128::from(self.next()) << 64) | u128::from(self.next());
            let network = Ipv6Net::new(address.into(), length).unwrap();
            let random = (u128::from(self.next()) << 64) | u128::from(self.next());
            let inside = u128::from(network.network()) | (random & !u128::from(network.netmask()));
            let outside = flip(128, length).map(|bit| IpAddr::V6((inside ^ (1 << bit)).into()));
            (network.into(), IpAddr::V6(inside.into()), outside)
        }
    }
}
