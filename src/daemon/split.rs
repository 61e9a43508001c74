//! What the units do where there is systemd, done by the daemon itself where root starts it by hand: the user, its
//! directories, two responders that stay behind as root and nobody, and no right but CAP_NET_ADMIN from then on.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::config::Config;
use super::invocation::Invocation;
use super::responder::{COMMANDS_SOCKET, NAMES_SOCKET, Way};
use crate::blocks;
use crate::host::{EMBEDDED_USER, Generation, Host, start_with_stdin};

/// Who carries out what this process may not, if there is somebody.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    pub commands: Option<Way>,
    pub names: Option<Way>,
}

/// Where systemd makes directories for a daemon that is not root, and this does.
pub const RUNTIME_DIRECTORY: &str = "/run/harden-portsentry";
const LOGS_DIRECTORY: &str = "/var/log/harden-portsentry";

/// What is the user's, as the unit has it.
const DIRECTORIES: [(&str, u32); 4] =
    [(blocks::DIRECTORY, 0o755), (blocks::METRICS, 0o755), (LOGS_DIRECTORY, 0o750), (RUNTIME_DIRECTORY, 0o700)];

/// Splits, if root runs the configuration that apply wrote. Nobody else is there where there is nobody to be split from:
/// it is root with a configuration of somebody else's, which may have it write anywhere, or no root at all. What goes on
/// has `is_heard` by whoever started this.
///
/// # Errors
/// The user cannot be made, or could not write where the configuration says, or the kernel refuses.
pub fn split(invocation: &Invocation, config: &Config, is_heard: bool) -> Result<Ways> {
    if !rustix::process::geteuid().is_root() {
        let (commands, names) = (Way::of_systemd(COMMANDS_SOCKET), Way::of_systemd(NAMES_SOCKET));
        return Ok(Ways { commands, names });
    }
    let host = Host::new(Path::new("/"))?;
    let conf = &invocation.config_file;
    if conf != Path::new(Generation::Embedded.conf()) || !host.wants_user(EMBEDDED_USER) {
        return Ok(Ways::default());
    }
    let (uid, gid) = host.make_user(EMBEDDED_USER)?;
    may_write(config, uid)?;
    let conf = conf.display().to_string();
    let mut commands = vec!["commands", "--stay", "-c", &conf];
    commands.extend(invocation.mode.connects().then_some("--connect"));
    let names = || start(&["names", "--stay"], is_heard);
    let ways =
        Ways { commands: Some(start(&commands, is_heard)?), names: config.resolve_host.then(names).transpose()? };
    for (directory, mode) in DIRECTORIES {
        give(Path::new(directory), mode, uid, gid)
            .with_context(|| format!("cannot give {directory} to {EMBEDDED_USER}"))?;
    }
    become_user(uid, gid).with_context(|| format!("cannot become {EMBEDDED_USER}"))?;
    Ok(ways)
}

/// Files lie in directories that are given to the user, or are the user's already: nothing else is given away.
fn may_write(config: &Config, uid: u32) -> Result<()> {
    let blocked = config.blocked_file.as_ref().filter(|_| config.kill_nft.is_none());
    let files = [
        ("HISTORY_FILE", config.history_file.as_ref()),
        ("BLOCKED_FILE", blocked),
        ("METRICS_FILE", config.metrics_file.as_ref()),
    ];
    for (key, directory) in files.into_iter().filter_map(|(key, file)| Some((key, file?.parent()?))) {
        let is_given = DIRECTORIES.iter().any(|(given, _)| directory == Path::new(given));
        let is_own = || directory.metadata().is_ok_and(|metadata| metadata.uid() == uid);
        ensure!(
            is_given || is_own(),
            "{key} is in {}, where {EMBEDDED_USER}, as whom this runs, may not write: have it in {LOGS_DIRECTORY}, or \
             give {EMBEDDED_USER} a directory of its own (chown)",
            directory.display()
        );
    }
    Ok(())
}

fn start(words: &[&str], is_heard: bool) -> Result<Way> {
    let (near, far) = UnixStream::pair().context("cannot make a socket")?;
    let words: Vec<String> = ["responder"].iter().chain(words).map(|&word| word.to_owned()).collect();
    start_with_stdin(&words, far.into(), is_heard)?;
    Way::given(near)
}

/// The directory and what is directly in it.
fn give(directory: &Path, mode: u32, uid: u32, gid: u32) -> std::io::Result<()> {
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    lchown(directory, Some(uid), Some(gid))?;
    for entry in std::fs::read_dir(directory)? {
        lchown(entry?.path(), Some(uid), Some(gid))?;
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32) -> rustix::io::Result<()> {
    let (uid, gid, own) = (Uid::from_raw(uid), Gid::from_raw(gid), CapabilitySet::NET_ADMIN);
    set_keep_capabilities(true)?;
    for capability in CapabilitySet::all().iter().filter(|capability| *capability != own) {
        // One that this kernel does not know is none.
        let _ = remove_capability_from_bounding_set(capability);
    }
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(None, CapabilitySets { effective: own, permitted: own, inheritable: own })?;
    // nft needs it, too.
    configure_capability_in_ambient_set(own, true)?;
    set_no_new_privs(true)
}
