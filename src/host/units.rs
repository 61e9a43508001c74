//! Services: by systemd where it is process 1, by sysv scripts elsewhere, by links alone in an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::commands::Invocation;
use super::{EMBEDDED_UNIT, Facts, Host, Link};

/// What starts services here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceManager {
    Systemd,
    /// sysv scripts, called by hand: process 1 is something else.
    Sysv,
    /// Nothing may be started; the reason in words.
    Forbidden(String),
}

/// What systemd says of a unit; in an image, what its links say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `loaded`, `masked`, `not-found`; empty where nothing is known.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`.
    pub active: String,
    /// `enabled`, `disabled`, `generated` (a sysv script that is on), `masked`, `static`; empty for a missing unit.
    pub enabled: String,
    pub main_pid: u32,
    /// Automatic restarts since the unit was started by hand.
    pub restarts: u32,
    /// Its file changed since systemd read it.
    pub needs_reload: bool,
}

/// The units that were asked for, by name.
pub type Units = BTreeMap<String, UnitState>;

const PROPERTIES: &str = "Id,LoadState,ActiveState,UnitFileState,MainPID,NRestarts,NeedDaemonReload";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// Where units are looked for, those of packages first.
const HOMES: [&str; 3] = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"];
/// The runlevels in which a sysv script is to run; systemd looks at their links, too.
const RUNLEVELS: [u8; 4] = [2, 3, 4, 5];

impl Host {
    /// What starts services on this host.
    pub fn service_manager(&self) -> ServiceManager {
        if !self.is_live() {
            return ServiceManager::Forbidden("this is an image, not a running system".to_owned());
        }
        if Path::new("/run/systemd/system").is_dir() {
            return ServiceManager::Systemd;
        }
        let policy = Path::new("/usr/sbin/policy-rc.d");
        if policy.exists() {
            let asked = Invocation::new("/usr/sbin/policy-rc.d", &["portsentry", "start"]).run();
            if asked.is_ok_and(|answer| answer.status == Some(101)) {
                return ServiceManager::Forbidden(
                    "/usr/sbin/policy-rc.d forbids starting services (exit status 101)".to_owned(),
                );
            }
        }
        ServiceManager::Sysv
    }

    /// The states of `names`, by one call.
    ///
    /// # Errors
    /// systemctl cannot be run.
    pub fn units(&self, manager: &ServiceManager, names: &[&str]) -> Result<Units> {
        if *manager != ServiceManager::Systemd {
            return Ok(names.iter().map(|&name| (name.to_owned(), self.unit_by_links(name))).collect());
        }
        let mut words = vec!["show".to_owned(), format!("--property={PROPERTIES}")];
        words.extend(names.iter().map(|&name| name.to_owned()));
        let output = Invocation::new("systemctl", &words).demand()?;
        // Answered in the order asked; a masked or aliased unit may call itself otherwise, so by position.
        Ok(names
            .iter()
            .zip(output.stdout.split("\n\n"))
            .map(|(&name, block)| (name.to_owned(), self.with_sysv_links(name, parse_show(block))))
            .collect())
    }

    /// systemd calls a unit that it made from a script `generated`, whether its links turn it on or off.
    fn with_sysv_links(&self, unit: &str, mut state: UnitState) -> UnitState {
        let links = self.sysv_links(unit);
        if state.enabled == "generated" && !links.is_empty() && !links.iter().any(|(on, _)| *on) {
            state.enabled = "disabled".to_owned();
        }
        state
    }

    /// The runlevel links of a unit's sysv script, each with whether it turns the script on: `S01name` or `K01name`.
    fn sysv_links(&self, unit: &str) -> Vec<(bool, PathBuf)> {
        let script = unit.trim_end_matches(".service");
        let directories = RUNLEVELS.map(|level| format!("/etc/rc{level}.d"));
        let links = directories.iter().flat_map(|directory| {
            self.list(directory).into_iter().filter_map(move |name| {
                let on = name.starts_with('S');
                let numbered = name.strip_prefix(['S', 'K'])?.trim_start_matches(|digit: char| digit.is_ascii_digit());
                (numbered == script).then(|| (on, Path::new(directory).join(&name)))
            })
        });
        links.collect()
    }

    /// Turns the sysv script of `unit` on or off as update-rc.d does: by the first letter of its links. A script that is
    /// on in one runlevel counts as on, for then an administrator chose the others; one without links is left alone. Where
    /// this was cut off, a runlevel has the same link in both ways, and all of them are turned.
    ///
    /// # Errors
    /// A link cannot be changed.
    pub fn turn_sysv_links(&self, unit: &str, on: bool) -> Result<()> {
        let links = self.sysv_links(unit);
        // Each link that is to be turned, and the one in its place; what is no link is somebody's own and stays.
        let turned = |path: &Path| {
            let name = format!("{}{}", if on { 'S' } else { 'K' }, &path.file_name()?.to_str()?[1..]);
            Some(Link { path: path.with_file_name(name), target: self.link(path)?.target })
        };
        let others = links.iter().filter(|(is_on, _)| *is_on != on);
        let others: Vec<(&Path, Link)> = others.filter_map(|(_, path)| Some((&**path, turned(path)?))).collect();
        let was_cut_off = others.iter().any(|(_, turned)| links.iter().any(|(_, path)| *path == turned.path));
        if on == links.iter().any(|(is_on, _)| *is_on) && !was_cut_off {
            return Ok(());
        }
        others.iter().try_for_each(|(_, turned)| self.make_link(turned))?;
        // Once all others are there.
        others.iter().try_for_each(|(path, _)| self.remove(path))?;
        self.reload_units()
    }

    fn unit_by_links(&self, name: &str) -> UnitState {
        let file = unit_file(name);
        let found = HOMES.iter().find(|place| self.exists(&format!("{place}/{file}")));
        let masked = HOMES.iter().any(|place| {
            self.link(&Path::new(place).join(&file)).is_some_and(|link| link.target == Path::new("/dev/null"))
        });
        let wanted = self.link(&Path::new(WANTS).join(name)).is_some();
        let stem = name.trim_end_matches(".service");
        let sysv = self.exists(&format!("/etc/init.d/{stem}"));
        let (load, enabled) = match (masked, found) {
            (true, _) => ("masked", "masked"),
            (false, Some(_)) => ("loaded", if wanted { "enabled" } else { "disabled" }),
            (false, None) if sysv => ("loaded", "generated"),
            (false, None) => ("not-found", ""),
        };
        let state = UnitState { load: load.to_owned(), enabled: enabled.to_owned(), ..UnitState::default() };
        self.with_sysv_links(name, state)
    }

    /// Enables or disables `unit` for the next boot.
    ///
    /// # Errors
    /// systemctl's own words, or a link that cannot be changed.
    pub fn set_enabled(&self, unit: &str, on: bool) -> Result<()> {
        let link = self.wants_link(unit);
        let has_unit = HOMES.iter().any(|home| self.exists(&format!("{home}/{}", unit_file(unit))));
        if !has_unit && !self.sysv_links(unit).is_empty() {
            return self.turn_sysv_links(unit, on);
        }
        if self.service_manager() == ServiceManager::Systemd {
            let verb = if on { "enable" } else { "disable" };
            let output = Invocation::new("systemctl", &[verb, unit]).run()?;
            // A unit whose file went with an upgrade can no longer be disabled by name; its link can go.
            if output.ok() || !on {
                return if on { Ok(()) } else { self.remove(&link.path) };
            }
            bail!("cannot {verb} {unit}: {}", output.last_words());
        }
        // Whatever an existing link points to, the unit's package or its administrator made it.
        match self.link(&link.path) {
            Some(_) if on => Ok(()),
            _ if on => self.make_link(&link),
            _ => self.remove(&link.path),
        }
    }

    /// The link in multi-user.target.wants that enables `unit`.
    pub fn wants_link(&self, unit: &str) -> Link {
        let file = unit_file(unit);
        let home =
            HOMES.into_iter().find(|home| self.exists(&format!("{home}/{file}"))).unwrap_or("/lib/systemd/system");
        Link { path: PathBuf::from(WANTS).join(unit), target: Path::new(home).join(file) }
    }

    /// Restarts `service` (without `.service`), starting it if it does not run.
    ///
    /// # Errors
    /// The service manager's own words, or that nothing may be started here.
    pub fn restart(&self, unit: &str) -> Result<()> {
        self.act(unit, "restart")
    }

    /// Restarts `unit`, and leaves it alone if it does not run; without systemd `runs` says whether it does.
    ///
    /// # Errors
    /// As [`Host::restart`].
    pub fn restart_if_it_runs(&self, unit: &str, runs: bool) -> Result<()> {
        match self.service_manager() {
            ServiceManager::Systemd => self.act(unit, "try-restart"),
            _ if runs => self.restart(unit),
            _ => Ok(()),
        }
    }

    /// Stops `unit`; one that does not run is no error.
    ///
    /// # Errors
    /// As [`Host::restart`].
    pub fn stop(&self, unit: &str) -> Result<()> {
        self.act(unit, "stop")
    }

    fn act(&self, unit: &str, verb: &str) -> Result<()> {
        let limit = Duration::from_secs(120);
        match self.service_manager() {
            // Where nothing may be started, nothing of ours was.
            ServiceManager::Forbidden(_) if verb == "stop" => Ok(()),
            ServiceManager::Forbidden(why) => bail!("cannot {verb} {unit}: {why}"),
            ServiceManager::Systemd => {
                if verb.ends_with("restart") {
                    // Five starts in ten seconds hit the start limit, and then even a good one is refused (trap 19).
                    Invocation::new("systemctl", &["reset-failed", unit]).run()?;
                }
                let output = Invocation::new("systemctl", &[verb, unit]).within(limit).run()?;
                let gone = verb == "stop" && output.stderr.contains("not loaded");
                if !output.ok() && !gone {
                    let log = Invocation::new("journalctl", &["-u", unit, "-n", "5", "-o", "cat", "--no-pager"]).run();
                    bail!(
                        "cannot {verb} {unit}: {}\n{}",
                        output.last_words(),
                        log.map(|log| log.stdout).unwrap_or_default()
                    );
                }
                Ok(())
            }
            ServiceManager::Sysv => {
                let name = unit.trim_end_matches(".service");
                let script = format!("/etc/init.d/{name}");
                if !self.exists(&script) {
                    if verb == "stop" {
                        // What has no script was not started by one; the embedded one is started by hand.
                        return if unit == EMBEDDED_UNIT { end_by_hand(limit) } else { Ok(()) };
                    }
                    bail!("cannot {verb} {name}: there is no systemd and no {script}");
                }
                let output = Invocation::new("service", &[name, verb]).within(limit).run()?;
                // Some scripts fail where there is nothing to stop; status says 3 (LSB: not running) of these.
                let gone = || Invocation::new("service", &[name, "status"]).run().is_ok_and(|it| it.status == Some(3));
                let done = output.ok() || verb == "stop" && gone();
                if !done {
                    bail!("cannot {verb} {name}: {}", output.last_words());
                }
                Ok(())
            }
        }
    }

    /// Makes systemd read changed unit files.
    ///
    /// # Errors
    /// systemctl's own words.
    pub fn reload_units(&self) -> Result<()> {
        if self.service_manager() == ServiceManager::Systemd {
            Invocation::new("systemctl", &["daemon-reload"]).demand()?;
        }
        Ok(())
    }
}

/// Ends the embedded portsentry that somebody started by hand, where no systemd runs it.
fn end_by_hand(limit: Duration) -> Result<()> {
    let running = || Facts::processes_now().into_iter().filter(|process| process.program() == "harden-portsentry");
    for pid in running().filter_map(|process| Pid::from_raw(process.pid.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM); // it may have ended meanwhile
    }
    let since = Instant::now();
    while running().next().is_some() {
        if since.elapsed() > limit {
            bail!("cannot stop the embedded portsentry: it does not end within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The name of the file that describes `unit`: its template's, for an instance.
fn unit_file(unit: &str) -> String {
    unit.split_once('@').map_or(unit.to_owned(), |(stem, _)| format!("{stem}@.service"))
}

fn parse_show(block: &str) -> UnitState {
    let get = |key: &str| {
        block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    UnitState {
        load: get("LoadState"),
        active: get("ActiveState"),
        enabled: get("UnitFileState"),
        main_pid: get("MainPID").parse().unwrap_or(0),
        restarts: get("NRestarts").parse().unwrap_or(0),
        needs_reload: get("NeedDaemonReload") == "yes",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A root directory with these links in /etc/rcN.d, all to the same script.
    fn with_links(names: &[&str]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join("etc").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("../init.d/portsentry", path).unwrap();
        }
        fs::create_dir_all(root.path().join("etc/init.d")).unwrap();
        fs::write(root.path().join("etc/init.d/portsentry"), "#!/bin/sh\n").unwrap();
        let host = Host::new(root.path()).unwrap();
        (root, host)
    }

    fn links(host: &Host) -> Vec<String> {
        let found = host.sysv_links("portsentry.service").into_iter();
        found.map(|(_, path)| path.display().to_string().replace("/etc/", "")).collect()
    }

    #[test]
    fn a_sysv_script_is_turned_off_and_on_by_the_names_of_its_links() {
        let before = ["rc2.d/S01portsentry", "rc3.d/S12portsentry"];
        let (_root, host) = with_links(&[&before[..], &["rc2.d/S01portsentry-other", "rc6.d/K01portsentry"]].concat());
        let state = || host.unit_by_links("portsentry.service").enabled;
        assert_eq!((links(&host), state()), (before.map(str::to_owned).to_vec(), "generated".to_owned()));
        host.set_enabled("portsentry.service", false).unwrap();
        assert_eq!(links(&host), ["rc2.d/K01portsentry", "rc3.d/K12portsentry"]);
        assert_eq!(state(), "disabled");
        host.set_enabled("portsentry.service", true).unwrap();
        assert_eq!((links(&host), state()), (before.map(str::to_owned).to_vec(), "generated".to_owned()));
        assert!(host.link(Path::new("/etc/rc2.d/S01portsentry-other")).is_some(), "it is another script's");
    }

    #[test]
    fn a_script_in_the_place_of_a_link_stays() {
        let (root, host) = with_links(&["rc2.d/S01portsentry", "rc3.d/S01portsentry"]);
        let script = root.path().join("etc/rc3.d/S02portsentry");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        host.set_enabled("portsentry.service", false).unwrap();
        assert_eq!(links(&host), ["rc2.d/K01portsentry", "rc3.d/K01portsentry", "rc3.d/S02portsentry"]);
        assert_eq!(fs::read_to_string(script).unwrap(), "#!/bin/sh\n");
    }

    #[test]
    fn two_links_in_one_runlevel_are_no_turn_that_was_cut_off() {
        let chosen = ["rc2.d/K01portsentry", "rc3.d/S01portsentry", "rc3.d/S12portsentry"];
        let (_root, host) = with_links(&chosen);
        host.set_enabled("portsentry.service", true).unwrap();
        assert_eq!(links(&host), chosen);
    }

    #[test]
    fn runlevels_that_an_administrator_chose_stay_chosen() {
        let chosen = ["rc2.d/K01portsentry", "rc3.d/S01portsentry"];
        let (_root, host) = with_links(&chosen);
        host.set_enabled("portsentry.service", true).unwrap();
        assert_eq!(links(&host), chosen);
        assert_eq!(host.unit_by_links("portsentry.service").enabled, "generated");
    }
}
