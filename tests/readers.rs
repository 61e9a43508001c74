//! The real daemons against our reading of their files: portsentry 1.2 on Debian 12, through Debian's
//! portsentry-build-ignore-file, and 2.0.7 on Debian 14. They run in boxes. Of the ignore lists they get one with many
//! odd lines and one probe from each of the addresses in question; of the configurations many, and say what they took
//! for their ports. It needs root.

#[allow(dead_code, unused_imports)] // it serves the end-to-end tests as well
#[path = "debian/bed.rs"]
mod bed;
#[allow(dead_code)]
#[path = "debian/tree.rs"]
mod tree;

use std::net::IpAddr;

use bed::{Bed, Bookworm, Forky, HOST, Suite, seconds, wait_for};
use harden_portsentry::syntax::Dialect;
use harden_portsentry::syntax::address_list::AddressList;
use harden_portsentry::syntax::portsentry_conf::PortsentryConf;

/// Lines that both daemons start with. A line has four addresses of its own, of which the second and the third are
/// probed: `{net}` is the first, `{}` the second.
const LINES: &[&str] = &[
    "{}",
    "{}/32",
    "{net}/30",
    "{}/30", // host bits
    "{}/0",
    "{}/032",
    "#{}",
    "# {}",
    "{net6}/64",
    "{v6}",
    "{v6}/64",
    "{v6}/128",
];

/// Lines that only 1.2 starts with.
const LINES_OF_1_2: &[&str] = &[
    " {}",
    "\t{}",
    "{} ",
    "{}\t# c",
    "{}#c",
    "{net}/30 # c",
    "{}\r",
    "{} c",
    "{}/33",
    "{}/255.255.255.255",
    "{net}/255.255.255.252",
    "c {}",
    "[{}]",
    "localhost",
    "garbage",
    "  ",
    " # c",
];

#[test]
fn portsentry_1_2_ignores_whom_we_say() {
    let bed = Bed::stock(Bookworm);
    let lines: Vec<&str> = LINES.iter().chain(LINES_OF_1_2).copied().collect();
    let list = List::of(&lines, "");
    bed.write("/etc/portsentry/portsentry.ignore.static", &list.text);
    bed.ok("pkill -x portsentry; /usr/lib/portsentry/portsentry-build-ignore-file; portsentry -atcp");
    wait_for(seconds(30), "1.2's raw socket", || bed.run("test $(wc -l </proc/net/raw) -ge 2").status == 0);
    list.probe(&bed, |source| format!("Host: {source}/"));
    list.assert_ignored(&bed, Dialect::V1, |source, history| !history.contains(&format!("Host: {source}/")));
}

#[test]
fn portsentry_2_0_ignores_whom_we_say() {
    let bed = Bed::stock(Forky);
    let list = List::of(LINES, "203.0.113.241"); // its last line without a newline loses a character
    bed.write("/etc/portsentry/portsentry.ignore", &list.text);
    bed.ok("systemctl reset-failed portsentry; systemctl restart portsentry");
    wait_for(seconds(30), "2.0's packet socket", || bed.run("test $(wc -l </proc/net/packet) -ge 2").status == 0);
    list.probe(&bed, |source| format!("Scan from: [{source}]"));
    list.assert_ignored(&bed, Dialect::V2, |source, history| {
        let of_it = format!("Scan from: [{source}]");
        let line = history.lines().find(|line| line.contains(&of_it));
        line.unwrap_or_else(|| panic!("{source} was not seen:\n{history}")).contains("ignored: [true]")
    });
}

/// A line that 2.0 refuses keeps it from starting, and so leaves the host without it.
#[test]
fn portsentry_2_0_starts_with_what_we_say() {
    let bed = Bed::stock(Forky);
    bed.ok("systemctl stop portsentry; mkdir /tmp/lists");
    let lists: Vec<String> = LINES
        .iter()
        .chain(LINES_OF_1_2)
        .map(|line| List::of(&[line], "").text)
        .chain(["203.0.113.9", "203.0.113.99", "203.0.113.9\n# c", "", "\n\n", "# c\r\n"].map(str::to_owned))
        .collect();
    for (number, list) in lists.iter().enumerate() {
        bed.write(&format!("/tmp/lists/{number}"), list);
    }
    // All at once: who does not start ends at once, and the others are ended.
    let exits = bed.ok(
        "cd /tmp/lists; for list in *; do (
            sed \"s#^IGNORE_FILE.*#IGNORE_FILE=\\\"/tmp/lists/$list\\\"#; s#^BLOCKED_FILE.*#BLOCKED_FILE=\\\"/tmp/blocked.$list\\\"#\" \
                /etc/portsentry/portsentry.conf >/tmp/conf.$list
            timeout 5 portsentry -c /tmp/conf.$list >/tmp/out.$list 2>&1; echo \"$list $?\") & done; wait",
    );
    assert_eq!(exits.lines().count(), lists.len(), "one exit status each:\n{exits}");
    for exit in exits.lines() {
        let (number, status) = exit.split_once(' ').expect("a number and a status");
        let list = &lists[number.parse::<usize>().expect("a number")];
        let fatal = AddressList::parse(list.as_bytes()).not_honoured(Dialect::V2).iter().any(|one| one.fatal);
        let started = status == "124";
        assert_eq!(started, !fatal, "exit {status} with {list:?}: {}", bed.read(&format!("/tmp/out.{number}")));
    }
}

/// What stands in the configuration above its other keys.
const CONFIGURATIONS: &[&str] = &[
    "TCP_PORTS=\"11\"\n",
    "TCP_PORTS = \"11\"\n",
    "TCP_PORTS    =    \"11,12\"\n",
    "TCP_PORTS\t=\"11\"\n",
    "TCP_PORTS=\t\"11\"\n",
    "TCP_PORTS=\"11\"\r\n",
    "TCP_PORTS=\"11\" # was \"12\"\n",
    "TCP_PORTS=\"11\"junk\n",
    "TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n",
    "#TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n",
    " #TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n",
    "XTCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n",
    "TCP_PORTSX=\"11\"\nTCP_PORTS=\"12\"\n",
    "BLOCK_TCP=\"1\" #TCP_PORTS\nTCP_PORTS=\"12\"\n",
    "TCP_PORTS=\"\"\nTCP_PORTS=\"12\"\n",
    "TCP_PORTS \"11\"\n",
    "TCP_PORTS=foo \"11\"\n",
    "TCP_PORTS=\"11\n",
    "TCP_PORTS=\"11\"\n\n  \n",
    "TCP_PORTS=\"11\"\nADVANCED_EXCLUDE_TCP=\"113\"\n",
    " TCP_PORTS=\"11\"\n",
    "tcp_ports=\"11\"\n",
    "TCP_PORTS=11\n",
    "TCP_PORTS='11'\n",
    "foo\nTCP_PORTS=\"11\"\n",
    "\u{feff}TCP_PORTS=\"11\"\n",
    "",
];

const OTHER_KEYS: &str = "UDP_PORTS=\"13\"
IGNORE_FILE=\"/etc/portsentry/portsentry.ignore\"
HISTORY_FILE=\"/tmp/history\"
BLOCKED_FILE=\"/tmp/blocked\"
RESOLVE_HOST=\"0\"
BLOCK_UDP=\"0\"
BLOCK_TCP=\"0\"
";

/// 1.2 passes over a line that it cannot read, so what our parser refuses is left out here.
#[test]
fn portsentry_1_2_takes_the_ports_that_we_say() {
    let bed = Bed::stock(Bookworm);
    let configurations = write_configurations(&bed);
    // It says a line for each port, and then that it listens, or that it could not.
    let said = bed.ok(
        "pkill -x portsentry; cd /tmp/configurations; for number in *; do
            rm -f /tmp/cursor; journalctl -n 1 --cursor-file=/tmp/cursor >/dev/null; cp $number /etc/portsentry/portsentry.conf; portsentry -tcp
            for _ in $(seq 200); do
                journalctl -t portsentry -o cat --after-cursor=\"$(cat /tmp/cursor)\" >/tmp/said
                ! grep -qE 'active and listening|could not go into' /tmp/said || break; sleep 0.05
            done
            echo \"$number\" $(sed -n 's/.*listen mode on TCP port: //p' /tmp/said)
            pkill -x portsentry; while pgrep -x portsentry >/dev/null; do sleep 0.05; done
        done",
    );
    for (configuration, taken) in answers(&configurations, &said) {
        if let Ok(parsed) = PortsentryConf::parse(configuration.as_bytes()) {
            let ours = parsed.get("TCP_PORTS", Dialect::V1).unwrap_or_default().replace(',', " ");
            assert_eq!(taken, ours, "{configuration:?}");
        }
    }
}

/// 2.0 says its ports as well, or does not start.
#[test]
fn portsentry_2_0_takes_the_ports_that_we_say() {
    let bed = Bed::stock(Forky);
    let configurations = write_configurations(&bed);
    let said = bed.ok("systemctl stop portsentry; cd /tmp/configurations; for number in *; do (
            timeout 5 portsentry -d -c $number >/tmp/said.$number 2>&1; status=$?
            echo \"$number $status\" $(sed -n '/Final/,$s/.*tcpPorts ([0-9]*): //p' /tmp/said.$number)) & done; wait");
    for (configuration, answer) in answers(&configurations, &said) {
        let (status, taken) = answer.split_once(' ').unwrap_or((answer, ""));
        match PortsentryConf::parse(configuration.as_bytes()) {
            Ok(parsed) if parsed.problems(Dialect::V2).iter().all(|one| one.message.contains("is doubled")) => {
                assert_eq!(status, "124", "it starts with {configuration:?}");
                let ours = parsed.get("TCP_PORTS", Dialect::V2).unwrap_or_default().replace(',', " ");
                assert_eq!(taken, ours, "{configuration:?}");
            }
            _ => assert_eq!(status, "1", "it does not start with {configuration:?}"),
        }
    }
}

fn write_configurations(bed: &Bed) -> Vec<String> {
    let configurations: Vec<String> = CONFIGURATIONS.iter().map(|text| format!("{text}{OTHER_KEYS}")).collect();
    for (number, configuration) in configurations.iter().enumerate() {
        bed.write(&format!("/tmp/configurations/{number}"), configuration);
    }
    configurations
}

/// Each configuration with what was said of it: lines that begin with its number.
fn answers<'a>(configurations: &'a [String], said: &'a str) -> Vec<(&'a str, &'a str)> {
    let answers: Vec<_> = said
        .lines()
        .map(|line| {
            let (number, answer) = line.split_once(' ').unwrap_or((line, ""));
            (configurations[number.parse::<usize>().expect("a number")].as_str(), answer)
        })
        .collect();
    assert_eq!(answers.len(), configurations.len(), "an answer each:\n{said}");
    answers
}

/// An ignore list, and the addresses to probe for it.
struct List {
    text: String,
    sources: Vec<IpAddr>,
}

impl List {
    /// `lines`, our own block around a network, and a last line without newline.
    fn of(lines: &[&str], last: &str) -> List {
        let mut sources: Vec<IpAddr> = Vec::new();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            let (first, v6) = (16 + 4 * number, format!("2001:db8:66:{number:x}::"));
            assert!(first < 240, "too many lines for the addresses");
            let v4 = |offset: usize| format!("203.0.113.{}", first + offset);
            let line = line.replace("{net}", &v4(0)).replace("{}", &v4(1));
            let line = line.replace("{net6}", &v6).replace("{v6}", &format!("{v6}1"));
            sources.extend(match line.contains(':') {
                true => [format!("{v6}1"), format!("{v6}2")].map(|one| one.parse::<IpAddr>().unwrap()),
                false => [v4(1), v4(2)].map(|one| one.parse().unwrap()),
            });
            text.push_str(&line);
            text.push('\n');
        }
        let mut list = AddressList::parse(text.as_bytes());
        list.set_marked(&[
            ("203.0.113.248/30".parse().unwrap(), "LAN of 203.0.113.253, # quoted".to_owned()),
            ("2001:db8:66:ffff::/64".parse().unwrap(), "the same of IPv6".to_owned()),
        ])
        .unwrap();
        sources.extend(
            ["203.0.113.249", "203.0.113.253", "2001:db8:66:ffff::1"].map(|one| one.parse::<IpAddr>().unwrap()),
        );
        let text = String::from_utf8(list.to_bytes()).unwrap() + last;
        sources.extend(last.parse::<IpAddr>());
        List { text, sources }
    }

    /// One SYN from each source, and one from an address of no list, which `seen` shows in the history at last.
    fn probe(&self, bed: &Bed, seen: impl Fn(&str) -> String) {
        const LAST: &str = "203.0.113.9";
        let mut commands = String::new();
        for source in self.sources_of(bed.suite) {
            let (bits, family, host) = match source {
                IpAddr::V4(_) => (32, "", HOST),
                IpAddr::V6(_) => (128, "-6", "fd66::1"),
            };
            let nodad = if source.is_ipv6() { "nodad" } else { "" };
            commands.push_str(&format!(
                "ip addr add {source}/{bits} dev wire {nodad}; nmap {family} -sS -Pn -n --max-retries 0 -p 11 -S {source} -e wire {host}\n"
            ));
        }
        commands.push_str(&format!("nmap -sS -Pn -n -p 11 -S {LAST} -e wire {HOST}\n"));
        bed.attack(&commands).succeeds();
        wait_for(seconds(30), "the last probe in the history", || history(bed).contains(&seen(LAST)));
    }

    fn assert_ignored(&self, bed: &Bed, dialect: Dialect, ignored: impl Fn(IpAddr, &str) -> bool) {
        let history = history(bed);
        let honoured = AddressList::parse(self.text.as_bytes()).honoured(dialect);
        let wrong: Vec<String> = self
            .sources_of(bed.suite)
            .filter(|&source| ignored(source, &history) != honoured.iter().any(|network| network.contains(&source)))
            .map(|source| format!("{source}: ignored {}, which is not what we say", ignored(source, &history)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}\nof the list\n{}", self.text);
    }

    /// 1.2 sees no IPv6 at all.
    fn sources_of(&self, suite: Suite) -> impl Iterator<Item = IpAddr> {
        self.sources.iter().copied().filter(move |source| source.is_ipv4() || !suite.has_portsentry_1())
    }
}

fn history(bed: &Bed) -> String {
    bed.run(&format!("cat {}", bed.suite.history())).stdout
}
