//! dpkg and apt: what is installed, what could be, and the installing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::commands::Invocation;
use super::{CommandOutput, Host};

/// How long apt waits for dpkg's lock before it gives up, in seconds.
const LOCK_LIMIT: u32 = 120;
/// How long an installation may take in all.
pub(super) const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// A package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub version: String,
    pub architecture: String,
    /// dpkg's three letters: wanted, state, error (`ii `: installed; `iF `: half configured).
    pub status: String,
}

impl Installed {
    /// Unpacked and configured, nothing left to do.
    pub fn complete(&self) -> bool {
        self.status.get(1..2) == Some("i") && self.status.get(2..3) != Some("R")
    }

    /// Not even unpacked to the end, by a kill or on a full or read-only disk: `dpkg --configure` passes over it, and only
    /// another installation mends it.
    pub fn half_unpacked(&self) -> bool {
        self.status.get(1..2) == Some("H") || self.status.get(2..3) == Some("R")
    }

    /// Unpacked, but not configured to the end: what a kill inside dpkg leaves.
    pub fn half_done(&self) -> bool {
        matches!(self.status.get(1..2), Some("F" | "U" | "W" | "t")) || self.half_unpacked()
    }
}

/// What dpkg says of the packages that were asked for; those it does not know are missing.
#[derive(Debug, Clone, Default)]
pub struct Packages(BTreeMap<String, Installed>);

impl Packages {
    /// Asks dpkg, once, about `names`.
    ///
    /// # Errors
    /// dpkg-query is not there or fails otherwise than by not knowing a name.
    pub fn ask(host: &Host, names: &[&str]) -> Result<Packages> {
        let mut words = vec![
            format!("--admindir={}", host.outside("/var/lib/dpkg".as_ref()).display()),
            "-W".to_owned(),
            "-f=${Package}\t${db:Status-Abbrev}\t${Version}\t${Architecture}\n".to_owned(),
        ];
        words.extend(names.iter().map(|&name| name.to_owned()));
        let output = Invocation::new("dpkg-query", &words).run()?;
        match output.status {
            Some(0 | 1) => Ok(Packages(parse(&output.stdout))),
            _ => bail!("dpkg-query failed: {}", output.last_words()),
        }
    }

    /// Every package that is installed, by name.
    ///
    /// # Errors
    /// As [`Packages::ask`].
    pub fn all(host: &Host) -> Result<Vec<String>> {
        let Packages(known) = Packages::ask(host, &[])?;
        Ok(known
            .into_iter()
            .filter(|(_, package)| package.status.get(1..2) != Some("c"))
            .map(|(name, _)| name)
            .collect())
    }

    /// Every package that another installation has to mend, whoever wanted it: apt installs nothing beside it.
    ///
    /// # Errors
    /// As [`Packages::ask`].
    pub fn all_half_unpacked(host: &Host) -> Result<Vec<String>> {
        let Packages(known) = Packages::ask(host, &[])?;
        Ok(known.into_iter().filter(|(_, package)| package.half_unpacked()).map(|(name, _)| name).collect())
    }

    /// The package, if it is unpacked on this host (configured or half configured).
    pub fn get(&self, name: &str) -> Option<&Installed> {
        self.0.get(name).filter(|package| package.complete() || package.half_done())
    }

    /// Whether it is installed and configured.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Installed::complete)
    }
}

fn parse(table: &str) -> BTreeMap<String, Installed> {
    table
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('\t');
            let (name, status, version, architecture) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
            // Status-Abbrev starts with a blank on no dpkg; a package that was only ever asked for has no version.
            let package = Installed {
                version: version.to_owned(),
                architecture: architecture.to_owned(),
                status: status.to_owned(),
            };
            (!version.is_empty()).then(|| (name.to_owned(), package))
        })
        .collect()
}

/// A package that an installation would bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    pub version: String,
    pub architecture: String,
}

/// What to tell a person whose apt has no such package, though its lists are there.
pub fn no_such_package(name: &str) -> anyhow::Error {
    let engine = if name == "portsentry" {
        ".\nIf this Debian should have it, look at /etc/apt/sources.list and try again. If not, use --engine embedded: the \
         portsentry built into this program, which needs only nftables and iptables"
    } else {
        "; look at /etc/apt/sources.list and try again"
    };
    if let Some(release) = name.strip_prefix("linux-headers-") {
        return anyhow::anyhow!(
            "apt has no package {name}, so the CHAOS module cannot be built for the running kernel {release}.\n\
             If a newer kernel is installed, reboot into it and try again; if this kernel is not Debian's, use --response drop"
        );
    }
    anyhow::anyhow!("apt has no package {name}{engine}")
}

/// What apt says that an installation would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Simulation {
    /// It would install these, in dpkg's order.
    Installs(Vec<Candidate>),
    /// apt knows no package of this name; its lists may be missing or old.
    Unknown(String),
}

impl Host {
    /// apt-get with what every call of ours needs; in an image by chroot, since its dpkg has its own idea of
    /// architectures and scripts.
    fn apt_get(&self, arguments: &[String]) -> Invocation {
        let mut words = vec![
            "-q".to_owned(),
            "-y".to_owned(),
            format!("-oDPkg::Lock::Timeout={LOCK_LIMIT}"),
            "-oDpkg::Options::=--force-confold".to_owned(),
            "-oDpkg::Options::=--force-confdef".to_owned(),
            "-oDpkg::Options::=--force-confmiss".to_owned(), // a deleted conffile comes back, or 1.2 dies (trap 23)
            "-oDpkg::Use-Pty=0".to_owned(),
        ];
        words.extend(arguments.iter().cloned());
        self.inside("apt-get", &words).env("DEBIAN_FRONTEND", "noninteractive").within(INSTALL_LIMIT)
    }

    /// `program` run in this Debian: as it is on `/`, by chroot below another root.
    pub fn inside(&self, program: &str, arguments: &[String]) -> Invocation {
        if self.is_live() {
            return Invocation::new(program, arguments);
        }
        let mut words = vec![self.root().display().to_string(), program.to_owned()];
        words.extend(arguments.iter().cloned());
        Invocation::new("chroot", &words)
    }

    /// What `apt-get install names` would install. Changes nothing.
    ///
    /// # Errors
    /// apt cannot be run, or refuses for another reason than an unknown name.
    pub fn simulate_install(&self, names: &[String]) -> Result<Simulation> {
        let mut arguments = vec!["-s".to_owned(), "install".to_owned()];
        arguments.extend(names.iter().cloned());
        let output = self.apt_get(&arguments).run()?;
        if output.ok() {
            return Ok(Simulation::Installs(output.stdout.lines().filter_map(parse_inst).collect()));
        }
        match unknown_package(&output) {
            Some(name) => Ok(Simulation::Unknown(name)),
            None => bail!("apt-get cannot install {}:\n{}", names.join(" "), output.last_words()),
        }
    }

    /// `apt-get update`.
    ///
    /// # Errors
    /// apt's own words.
    pub fn update_package_lists(&self) -> Result<()> {
        self.apt_get(&["update".to_owned()]).demand()?;
        Ok(())
    }

    /// Installs `names` (and mends those whose conffiles are missing, `reinstall`) without a question,
    /// conffiles kept.
    ///
    /// # Errors
    /// apt's or dpkg's own last words.
    pub fn install(&self, names: &[String], reinstall: bool) -> Result<()> {
        let mut arguments = vec!["install".to_owned()];
        if reinstall {
            arguments.push("--reinstall".to_owned());
        }
        arguments.extend(names.iter().cloned());
        self.without_starting_services(|| self.apt_get(&arguments).demand().map(drop))
            .with_context(|| format!("cannot install {}", names.join(" ")))
    }

    /// What `apt-get purge names` would remove besides `names`.
    ///
    /// # Errors
    /// apt cannot be run or refuses.
    pub fn simulate_purge(&self, names: &[String]) -> Result<Vec<String>> {
        let mut arguments = vec!["-s".to_owned(), "purge".to_owned()];
        arguments.extend(names.iter().cloned());
        let output = self.apt_get(&arguments).demand()?;
        Ok(output
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("Purg ").or_else(|| line.strip_prefix("Remv ")))
            .filter_map(|rest| rest.split_whitespace().next())
            .map(|name| name.split(':').next().unwrap_or(name).to_owned())
            .filter(|name| !names.contains(name))
            .collect())
    }

    /// Purges `names`.
    ///
    /// # Errors
    /// apt's or dpkg's own last words.
    pub fn purge(&self, names: &[String]) -> Result<()> {
        let mut arguments = vec!["purge".to_owned()];
        arguments.extend(names.iter().cloned());
        self.without_starting_services(|| self.apt_get(&arguments).demand().map(drop))
    }

    /// Configures what an interrupted dpkg left unpacked.
    ///
    /// # Errors
    /// dpkg's own last words.
    pub fn finish_configuring(&self) -> Result<()> {
        let words = ["--force-confold", "--force-confdef", "--force-confmiss", "--configure", "-a"].map(str::to_owned);
        self.inside("dpkg", &words).env("DEBIAN_FRONTEND", "noninteractive").within(INSTALL_LIMIT).demand()?;
        Ok(())
    }

    /// Whether dpkg left work half done: `/var/lib/dpkg/updates` holds journal files.
    pub fn dpkg_was_interrupted(&self) -> bool {
        self.list("/var/lib/dpkg/updates").iter().any(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Answers debconf's questions beforehand; `answers` is in debconf-set-selections(1)'s form.
    ///
    /// # Errors
    /// debconf's own words.
    pub fn preseed(&self, answers: &str) -> Result<()> {
        self.inside("debconf-set-selections", &[]).input(answers).env("DEBIAN_FRONTEND", "noninteractive").demand()?;
        Ok(())
    }

    /// In an image nothing may be started by a package's scripts: policy-rc.d says so while `install` runs.
    fn without_starting_services(&self, install: impl FnOnce() -> Result<()>) -> Result<()> {
        let policy = std::path::Path::new("/usr/sbin/policy-rc.d");
        if self.is_live() || self.link(policy).is_some() || self.read(policy)?.is_some() {
            return install();
        }
        self.write(policy, b"#!/bin/sh\nexit 101\n", 0o755)?;
        let installed = install();
        self.remove(policy)?;
        installed
    }
}

/// `Inst portsentry (1.2-14+b1 Debian:12.11/oldstable [amd64])`, also with the old version in brackets after
/// the name.
fn parse_inst(line: &str) -> Option<Candidate> {
    let rest = line.strip_prefix("Inst ")?;
    let name = rest.split_whitespace().next()?;
    let inside = rest.split_once('(')?.1.split_once(')')?.0;
    let version = inside.split_whitespace().next()?;
    let architecture = inside.rsplit_once('[')?.1.split(']').next()?;
    Some(Candidate { name: name.to_owned(), version: version.to_owned(), architecture: architecture.to_owned() })
}

fn unknown_package(output: &CommandOutput) -> Option<String> {
    output.stderr.lines().find_map(|line| {
        let said = line.strip_prefix("E: ")?;
        said.strip_prefix("Unable to locate package ").map(str::to_owned).or_else(|| {
            said.strip_prefix("Package '")?
                .split_once("' has no installation candidate")
                .map(|(name, _)| name.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_would_install() {
        let new = parse_inst("Inst portsentry (1.2-14+b1 Debian:12.11/oldstable [amd64])").unwrap();
        assert_eq!(
            (new.name.as_str(), new.version.as_str(), new.architecture.as_str()),
            ("portsentry", "1.2-14+b1", "amd64")
        );
        let upgrade = parse_inst("Inst libc6 [2.36-9] (2.41-12 Debian:13/stable [amd64]) []").unwrap();
        assert_eq!((upgrade.name.as_str(), upgrade.version.as_str()), ("libc6", "2.41-12"));
        assert_eq!(parse_inst("Conf portsentry (1.2-14+b1 Debian:12.11/oldstable [amd64])"), None);
    }

    #[test]
    fn a_half_configured_package_is_there_but_not_complete() {
        let packages = Packages(parse("a\tii \t1\tall\nb\tiF \t2\tall\nc\trc \t3\tall\nd\tun \t\t\ne\tiHR\t4\tall\n"));
        assert!(packages.has("a"));
        assert!(!packages.has("b") && packages.get("b").unwrap().half_done());
        assert!(packages.get("c").is_none() && packages.get("d").is_none());
        assert!(packages.get("e").unwrap().half_unpacked() && !packages.get("b").unwrap().half_unpacked());
    }
}
