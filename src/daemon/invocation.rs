//! How the daemon is called: portsentry 2.0's options, or one of 1.2's modes.

use std::path::PathBuf;

use crate::syntax::Dialect;

/// Where both generations look for their configuration.
const CONFIG_FILE: &str = "/etc/portsentry/portsentry.conf";

/// What a 1.2 mode is called, which its log, its blocked file and `$MODE$` show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 2.0: every packet for a port without a service, TCP and UDP.
    Stealth,
    /// 2.0: sockets of its own on the ports.
    Connect,
    /// 1.2: as connect, one protocol.
    Tcp,
    Udp,
    /// 1.2: the listed ports, one protocol.
    StealthTcp,
    StealthUdp,
    /// 1.2: all ports below a limit that no service used at the start, one protocol.
    AdvancedTcp,
    AdvancedUdp,
}

impl Mode {
    /// The name as `$MODE$` has it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Stealth => "stealth",
            Mode::Connect => "connect",
            Mode::Tcp => "tcp",
            Mode::Udp => "udp",
            Mode::StealthTcp => "stcp",
            Mode::StealthUdp => "sudp",
            Mode::AdvancedTcp => "atcp",
            Mode::AdvancedUdp => "audp",
        }
    }

    /// The mode of this name.
    pub fn of(name: &str) -> Option<Mode> {
        let all = [
            Mode::Stealth,
            Mode::Connect,
            Mode::Tcp,
            Mode::Udp,
            Mode::StealthTcp,
            Mode::StealthUdp,
            Mode::AdvancedTcp,
            Mode::AdvancedUdp,
        ];
        all.into_iter().find(|mode| mode.name() == name)
    }

    /// Whose lines and whose configuration: the modes of 1.2 speak as 1.2 does.
    pub fn dialect(self) -> Dialect {
        match self {
            Mode::Stealth | Mode::Connect => Dialect::V2,
            _ => Dialect::V1,
        }
    }

    /// Whether sockets of its own take the connections.
    pub fn connects(self) -> bool {
        matches!(self, Mode::Connect | Mode::Tcp | Mode::Udp)
    }

    pub fn watches_tcp(self) -> bool {
        !matches!(self, Mode::Udp | Mode::StealthUdp | Mode::AdvancedUdp)
    }

    pub fn watches_udp(self) -> bool {
        !matches!(self, Mode::Tcp | Mode::StealthTcp | Mode::AdvancedTcp)
    }
}

/// The interfaces that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// Loopback, too.
    All,
    AllButLoopback,
    Named(Vec<String>),
}

/// The command line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    pub mode: Mode,
    pub interfaces: Interfaces,
    pub config_file: PathBuf,
    pub to_syslog: bool,
    /// Packets of this host to itself are skipped (2.0: unless -L).
    pub same_address_check: bool,
    /// Ports that a service uses are skipped (2.0: unless -S).
    pub service_check: bool,
    pub background: bool,
    pub debug: bool,
    pub verbose: bool,
}

/// What the words of a command line come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Run(Box<Invocation>),
    Help,
    Version,
}

impl Invocation {
    /// As called with that mode and nothing else.
    pub fn new(mode: Mode) -> Invocation {
        let first = mode.dialect() == Dialect::V1;
        Invocation {
            mode,
            // 1.2's raw socket hears loopback as any other.
            interfaces: if first { Interfaces::All } else { Interfaces::AllButLoopback },
            config_file: CONFIG_FILE.into(),
            to_syslog: first,
            same_address_check: true,
            service_check: true,
            background: first,
            debug: false,
            verbose: false,
        }
    }

    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// What is wrong with them, in one line.
    pub fn parse(words: &[String]) -> Result<Asked, String> {
        if let Some(mode) = words.first().and_then(|word| first_generation(word)) {
            return match &words[1..] {
                [] => Ok(Asked::Run(Box::new(Invocation::new(mode)))),
                [config, file] if config == "-c" => {
                    Ok(Asked::Run(Box::new(Invocation { config_file: file.into(), ..Invocation::new(mode) })))
                }
                _ => Err(format!("{} takes one mode, and -c FILE behind it", words[0])),
            };
        }
        second_generation(words)
    }
}

fn first_generation(word: &str) -> Option<Mode> {
    Some(match word {
        "-tcp" => Mode::Tcp,
        "-udp" => Mode::Udp,
        "-stcp" => Mode::StealthTcp,
        "-sudp" => Mode::StealthUdp,
        "-atcp" => Mode::AdvancedTcp,
        "-audp" => Mode::AdvancedUdp,
        _ => return None,
    })
}

/// 2.0's options, with their values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Opt {
    Stealth,
    Connect,
    Method(String),
    Interface(String),
    ConfigFile(String),
    LogOutput(String),
    NoLocalCheck,
    NoServiceCheck,
    Daemon,
    Debug,
    Verbose,
    Version,
    Help,
}

/// What an option comes to by itself, or how its value makes it.
type Make = Result<Opt, fn(String) -> Opt>;
/// Long name, letter, and what it comes to.
type Known = (&'static str, Option<char>, Make);

fn known() -> [Known; 13] {
    [
        ("stealth", None, Ok(Opt::Stealth)),
        ("connect", None, Ok(Opt::Connect)),
        ("method", Some('m'), Err(Opt::Method)),
        ("interface", Some('i'), Err(Opt::Interface)),
        ("configfile", Some('c'), Err(Opt::ConfigFile)),
        ("logoutput", Some('l'), Err(Opt::LogOutput)),
        ("disable-local-check", Some('L'), Ok(Opt::NoLocalCheck)),
        ("disable-service-check", Some('S'), Ok(Opt::NoServiceCheck)),
        ("daemon", Some('D'), Ok(Opt::Daemon)),
        ("debug", Some('d'), Ok(Opt::Debug)),
        ("verbose", Some('v'), Ok(Opt::Verbose)),
        ("version", Some('V'), Ok(Opt::Version)),
        ("help", Some('h'), Ok(Opt::Help)),
    ]
}

/// As getopt_long reads them: `--name value`, `--name=value`, `--na`, `-i value`, `-ivalue`, `-dv`; up to the first that
/// asks for the help or the version, behind which nobody looks.
fn options(words: &[String]) -> Result<Vec<Opt>, String> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(Opt::Help | Opt::Version) = found.last() {
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            found.push(match (long_option(name)?, value) {
                (Ok(option), None) => option,
                (Ok(_), Some(_)) => return Err(format!("option '--{name}' takes no value")),
                (Err(make), Some(value)) => make(value.to_owned()),
                (Err(make), None) => make(words.next().ok_or(format!("option '{word}' takes a value"))?.clone()),
            });
            continue;
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return Err(format!("there is no argument {word:?}"));
        };
        for (at, letter) in letters.char_indices() {
            let (_, _, make) = known()
                .into_iter()
                .find(|(_, known, _)| *known == Some(letter))
                .ok_or(format!("unrecognized option '-{letter}'"))?;
            match make {
                Ok(option @ (Opt::Help | Opt::Version)) => {
                    found.push(option);
                    break;
                }
                Ok(option) => found.push(option),
                Err(make) => {
                    let rest = &letters[at + letter.len_utf8()..];
                    let value = if rest.is_empty() { words.next().cloned() } else { Some(rest.to_owned()) };
                    found.push(make(value.ok_or(format!("option '-{letter}' takes a value"))?));
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// The option of that name, or of the only one that begins so.
fn long_option(name: &str) -> Result<Make, String> {
    let mut meant: Vec<Known> = known().into_iter().filter(|(known, ..)| known.starts_with(name)).collect();
    if let Some(exact) = meant.iter().position(|(known, ..)| *known == name) {
        return Ok(meant.swap_remove(exact).2);
    }
    match meant.len() {
        1 => Ok(meant.remove(0).2),
        0 => Err(format!("unrecognized option '--{name}'")),
        _ => {
            let names: Vec<String> = meant.iter().map(|(known, ..)| format!("--{known}")).collect();
            Err(format!("option '--{name}' is ambiguous: {}", names.join(" or ")))
        }
    }
}

fn second_generation(words: &[String]) -> Result<Asked, String> {
    let found = options(words)?;
    match found.last() {
        Some(Opt::Help) => return Ok(Asked::Help),
        Some(Opt::Version) => return Ok(Asked::Version),
        _ => {}
    }
    if found.contains(&Opt::Stealth) && found.contains(&Opt::Connect) {
        return Err("Only one mode can be specified, use only one of --stealth or --connect".to_owned());
    }
    let mode = if found.contains(&Opt::Connect) { Mode::Connect } else { Mode::Stealth };
    let mut invocation = Invocation::new(mode);
    let mut named = Vec::new();
    for option in found {
        match option {
            // Both ways to capture: here the kernel picks the packets, whichever is asked for.
            Opt::Method(method) if matches!(method.as_str(), "pcap" | "raw") => {}
            Opt::Method(_) => return Err("Invalid sentry method specified: pcap or raw".to_owned()),
            Opt::Interface(name) => named.push(name),
            Opt::ConfigFile(file) => invocation.config_file = file.into(),
            Opt::LogOutput(output) => {
                invocation.to_syslog = match output.as_str() {
                    "stdout" => false,
                    "syslog" => true,
                    _ => return Err("Invalid log output specified: stdout or syslog".to_owned()),
                }
            }
            Opt::NoLocalCheck => invocation.same_address_check = false,
            Opt::NoServiceCheck => invocation.service_check = false,
            Opt::Daemon => invocation.background = true,
            Opt::Debug => invocation.debug = true,
            Opt::Verbose => invocation.verbose = true,
            Opt::Stealth | Opt::Connect | Opt::Version | Opt::Help => {}
        }
    }
    // A process in the background has no stdout that anybody reads.
    invocation.to_syslog |= invocation.background;
    invocation.interfaces = interfaces(named)?;
    Ok(Asked::Run(Box::new(invocation)))
}

fn interfaces(named: Vec<String>) -> Result<Interfaces, String> {
    if named.is_empty() || named.iter().any(|name| name == "ALL_NLO") {
        return Ok(Interfaces::AllButLoopback);
    }
    if named.iter().any(|name| name == "ALL") {
        return Ok(Interfaces::All);
    }
    match named.iter().find(|name| !is_interface_name(name)) {
        Some(wrong) => Err(format!("{wrong:?} is no name of an interface")),
        None => Ok(Interfaces::Named(named)),
    }
}

/// As the kernel has it, and nothing that the ruleset would take for more than a name.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"*/\\{}".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, String> {
        Invocation::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn run(line: &str) -> Invocation {
        match parse(line) {
            Ok(Asked::Run(invocation)) => *invocation,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn both_generations_command_lines() {
        let plain = run("");
        assert_eq!((plain.mode, plain.background, plain.to_syslog), (Mode::Stealth, false, false));
        assert_eq!(plain.config_file, PathBuf::from("/etc/portsentry/portsentry.conf"));
        let first = run("-atcp");
        assert_eq!((first.mode.name(), first.background, first.to_syslog), ("atcp", true, true));
        let all = run("--connect -m raw -ieth0 -i eth1 --configfile=/x -l syslog -LSdv");
        assert_eq!(all.interfaces, Interfaces::Named(vec!["eth0".to_owned(), "eth1".to_owned()]));
        assert!(all.to_syslog && !all.same_address_check && !all.service_check && all.debug && all.verbose);
        assert_eq!((all.mode, all.config_file.to_str()), (Mode::Connect, Some("/x")));
        assert_eq!(parse("-x -V"), Err("unrecognized option '-x'".to_owned()));
        assert_eq!((parse("-dVx"), parse("--help -V --x")), (Ok(Asked::Version), Ok(Asked::Help)));
        assert_eq!((parse("--vers"), run("--conf=/x --disable-l").config_file), (Ok(Asked::Version), "/x".into()));
        assert_eq!(parse("--ver"), Err("option '--ver' is ambiguous: --verbose or --version".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in
            ["--stealth --connect", "-m foo", "-l foo", "-c", "extra", "-atcp -audp", "-i a\"b", "-i averyverylongname"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
