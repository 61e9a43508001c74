//! Processes that matter here, read from /proc: their words, and when they started.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// A running process of this network namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub pid: u32,
    /// Its command line, word by word.
    pub words: Vec<String>,
    /// When it started, in seconds since the epoch.
    pub started: f64,
}

impl Process {
    /// The base name of the program it runs; of the script, for an interpreter.
    pub fn program(&self) -> &str {
        let base = |word: &'_ String| word.rsplit('/').next().map(str::len).unwrap_or(0);
        let Some(first) = self.words.first() else { return "" };
        let name = &first[first.len() - base(first)..];
        match self.words.get(1) {
            Some(script) if name.starts_with("python3") && !script.starts_with('-') => {
                &script[script.len() - base(script)..]
            }
            _ => name,
        }
    }

    /// How long it has been running, in seconds.
    pub fn age(&self) -> f64 {
        (now() - self.started).max(0.0)
    }

    /// The processes named `names` that share our network namespace: a container's daemon is not the host's.
    pub fn named(names: &[&str]) -> Vec<Process> {
        let ours = fs::read_link("/proc/self/ns/net").ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let booted = now() - uptime();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let mut found: Vec<Process> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid: u32| {
                // comm is cut at 15 bytes; it rules out nearly everything before the longer read.
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                names.iter().find(|name| comm.trim_end() == &name[..name.len().min(15)])?;
                let words: Vec<String> = fs::read(format!("/proc/{pid}/cmdline"))
                    .ok()?
                    .split(|&byte| byte == 0)
                    .filter(|word| !word.is_empty())
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect();
                let same_network = fs::read_link(format!("/proc/{pid}/ns/net")).ok() == ours;
                let alive = !words.is_empty(); // a zombie has no command line
                (alive && same_network).then(|| Process {
                    pid,
                    words,
                    started: booted + start_ticks(pid).unwrap_or(0.0) / ticks,
                })
            })
            .collect();
        found.sort_by_key(|process| process.pid);
        found
    }
}

/// The time, in seconds since the epoch.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn uptime() -> f64 {
    fs::read_to_string("/proc/uptime").ok().and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// Field 22 of /proc/PID/stat (proc(5)); the name in field 2 may hold blanks and brackets.
fn start_ticks(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_with_its_words_and_start() {
        let before = now();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let limit = before + 10.0;
        let found = loop {
            match Process::named(&["sleep"]).into_iter().find(|process| process.pid == child.id()) {
                Some(found) => break found,
                None => assert!(now() < limit, "not seen within 10 s"),
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.words, ["sleep", "60"]);
        assert!((found.started - before).abs() < 1.0, "{} {before}", found.started);
    }

    #[test]
    fn a_script_goes_by_its_own_name() {
        let words = ["/usr/bin/python3", "/usr/bin/fail2ban-server", "-xf"].map(str::to_owned).to_vec();
        assert_eq!(Process { pid: 1, words, started: 0.0 }.program(), "fail2ban-server");
    }
}
