//! What the units do where there is systemd, done by the daemon itself where root starts it by hand: the user, its
//! directories, two responders that stay behind as root and nobody, and no right but CAP_NET_ADMIN from then on.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::config::Config;
use super::responder::Way;
use crate::blocks;
use crate::host::{EMBEDDED_USER, Generation, Host, start_with_stdin};

/// Who carries out what this process may not.
#[derive(Debug, Clone)]
pub struct Ways {
    pub commands: Way,
    pub names: Way,
}

/// Where systemd makes directories for a daemon that is not root, and this does.
pub const RUNTIME_DIRECTORY: &str = "/run/harden-portsentry";

/// Splits, if root runs the configuration that apply wrote. `None` where there is nobody to be split from: it is root with
/// a configuration of somebody else's, which may have it write anywhere, or no root at all.
///
/// # Errors
/// The user cannot be made, a directory not be given to it, or the kernel refuses.
pub fn split(conf: &Path, config: &Config) -> Result<Option<Ways>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Way::of_systemd().map(|way| Ways { commands: way.clone(), names: way }));
    }
    let host = Host::new(Path::new("/"))?;
    if conf != Path::new(Generation::Embedded.conf()) || !host.wants_user(EMBEDDED_USER) {
        return Ok(None);
    }
    let (uid, gid) = host.make_user(EMBEDDED_USER)?;
    let ways = Ways { commands: start(conf)?, names: start(conf)? };
    let history = config.history_file.as_deref();
    let mut directories = vec![Path::new(blocks::DIRECTORY), Path::new(RUNTIME_DIRECTORY)];
    // One of its own, not /var/log.
    directories.extend(history.and_then(Path::parent).filter(|directory| directory.ends_with(EMBEDDED_USER)));
    for directory in directories {
        give(directory, uid, gid).with_context(|| format!("cannot give {} to {EMBEDDED_USER}", directory.display()))?;
    }
    become_user(uid, gid).with_context(|| format!("cannot become {EMBEDDED_USER}"))?;
    Ok(Some(ways))
}

fn start(conf: &Path) -> Result<Way> {
    let (near, far) = UnixStream::pair().context("cannot make a socket")?;
    let words = ["responder", "--stay", "-c", &conf.display().to_string()].map(str::to_owned);
    start_with_stdin(&words, far.into())?;
    Ok(Way::given(near))
}

/// The directory and what is directly in it.
fn give(directory: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
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
