//! `daemon`, and this program called as `portsentry`: options and words of portsentry, not of this program.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use super::Exit;
use crate::daemon::{Asked, Invocation, run, version};

pub const USAGE: &str = "\
Usage: portsentry [--stealth | --connect] [options]         as portsentry 2.0
       portsentry -tcp | -udp | -stcp | -sudp | -atcp | -audp [-c FILE]   as portsentry 1.2

Watches the ports that no service uses, tells who asks for them, and reacts as the configuration says.

  --stealth                    take packets from the kernel (default); takes CAP_NET_ADMIN
  --connect                    listen on the ports instead
  -i, --interface NAME         watch this interface; may be repeated. ALL: also loopback. ALL_NLO: all but loopback (default)
  -c, --configfile FILE        [default: /etc/portsentry/portsentry.conf]
  -l, --logoutput stdout|syslog
  -L, --disable-local-check    packets of this host to itself count, too
  -S, --disable-service-check  ports that a service uses count, too
  -m, --method pcap|raw        accepted and without effect
  -D, --daemon                 go into the background once it watches
  -d, --debug
  -v, --verbose
  -V, --version
  -h, --help

SIGHUP reads the configuration again and opens the files anew; SIGTERM ends it.
Exit status: 0 told to end, 1 an error. A mistyped command line ends with 1 as portsentry's, with 64 behind `daemon`.";

/// The words for the daemon, if these are for it: behind `daemon`, or all of them if the program is called `portsentry`.
pub fn asked_for(words: &[OsString]) -> Option<Vec<String>> {
    let text = |words: &[OsString]| words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let name = Path::new(words.first()?).file_name()?;
    match words.get(1) {
        _ if name == "portsentry" => Some(text(&words[1..])),
        Some(word) if word == "daemon" => Some(text(&words[2..])),
        _ => None,
    }
}

/// Runs the daemon with `words`; `all` is the whole command line.
pub fn main(words: &[String], all: &[OsString]) -> ExitCode {
    match Invocation::parse(words) {
        Ok(Asked::Help) => {
            println!("{}\n{USAGE}", version());
            ExitCode::SUCCESS
        }
        Ok(Asked::Version) => {
            println!("{}", version());
            ExitCode::SUCCESS
        }
        Ok(Asked::Run(invocation)) => {
            let again: Vec<String> = all.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            match run(*invocation, &again) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("portsentry: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(why) => {
            eprintln!("portsentry: {why}; --help lists what there is");
            // As portsentry it ends as that does, as a command of this program as all of them do.
            if all.get(1).is_some_and(|word| word == "daemon") { Exit::Usage.into() } else { ExitCode::FAILURE }
        }
    }
}
