//! Files below the host's root: links followed within that root, written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Host;

/// A file larger than this (256 MiB) is none that this program reads or writes; a build of itself without optimisation,
/// which undo has to read, is 100 MiB.
const LARGEST: u64 = 256 << 20;
/// As many links as Linux itself follows in one path.
const LINKS: usize = 40;

/// A file as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct FileState {
    pub bytes: Vec<u8>,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Where the bytes really are, absolute within the host's root: differs from the path asked for when a
    /// link was followed.
    pub real: PathBuf,
    /// When content, mode or owner last changed, in seconds since the epoch.
    pub changed: f64,
}

/// A symbolic link and where it points, as written in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub path: PathBuf,
    pub target: PathBuf,
}

/// The name beside `path` that it is written under before it is renamed into place. Always the same, so
/// that what a kill left behind is found and replaced.
pub fn sibling_for_writing(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".harden-portsentry");
    path.with_file_name(name)
}

impl Host {
    /// `path` with every link followed, as this host would follow it: an absolute target starts at the
    /// host's root, and nothing leads out of it. The last component may be missing.
    ///
    /// # Errors
    /// Too many links, or a directory on the way that cannot be read.
    pub fn real_path(&self, path: &Path) -> Result<PathBuf> {
        let mut done = PathBuf::from("/");
        let mut rest: Vec<OsString> = components(path);
        rest.reverse();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            match fs::read_link(self.outside(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS {
                        bail!("{}: too many symbolic links, one leads back to itself", path.display());
                    }
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    rest.extend(components(&target).into_iter().rev());
                }
                // EINVAL: there, and no link.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => done = next,
                Err(error) => return Err(error).with_context(|| format!("cannot follow {}", path.display())),
            }
        }
        Ok(done)
    }

    /// The file at `path`, or `None` where there is none (a dangling link counts as none).
    ///
    /// # Errors
    /// It is no regular file, larger than 256 MiB, or cannot be read.
    pub fn read(&self, path: &Path) -> Result<Option<FileState>> {
        let real = self.real_path(path)?;
        let outside = self.outside(&real);
        let file = match OpenOptions::new().read(true).custom_flags(nonblocking()).open(&outside) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let meta = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        if !meta.is_file() {
            bail!("cannot read {}: it is not a regular file", path.display());
        }
        if meta.len() > LARGEST {
            bail!("cannot read {}: {} bytes is too large for such a file", path.display(), meta.len());
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(FileState {
            bytes,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            real,
            changed: meta.ctime() as f64 + meta.ctime_nsec() as f64 / 1e9,
        }))
    }

    /// The file's text, with what is not UTF-8 replaced; `None` where it is missing or cannot be read. For
    /// facts, where a file that cannot be read is one that says nothing.
    pub fn text(&self, path: &str) -> Option<String> {
        let state = self.read(Path::new(path)).ok().flatten()?;
        Some(String::from_utf8_lossy(&state.bytes).into_owned())
    }

    /// Whether something is at `path`, links followed within the root.
    pub fn exists(&self, path: &str) -> bool {
        self.real_path(Path::new(path)).is_ok_and(|real| self.outside(&real).symlink_metadata().is_ok())
    }

    /// The names in a directory, sorted; none where it is missing.
    pub fn list(&self, directory: &str) -> Vec<String> {
        let Ok(real) = self.real_path(Path::new(directory)) else { return Vec::new() };
        let Ok(entries) = fs::read_dir(self.outside(&real)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The symbolic link at `path` itself, not what it points at.
    pub fn link(&self, path: &Path) -> Option<Link> {
        let target = fs::read_link(self.outside(path)).ok()?;
        Some(Link { path: path.to_owned(), target })
    }

    /// Puts `bytes` at `path`: written beside it, synced, renamed into place, the directory synced. Mode,
    /// owner, extended attributes and ACLs of a file that is there are kept; a link is followed and stays;
    /// a new file gets `new_mode` and belongs to whoever runs this. Missing directories are made (0755).
    ///
    /// # Errors
    /// Anything the file system refuses; the old file is then as it was.
    pub fn write(&self, path: &Path, bytes: &[u8], new_mode: u32) -> Result<()> {
        let real = self.real_path(path)?;
        let outside = self.outside(&real);
        let doing = || format!("cannot write {}", path.display());
        let directory = outside.parent().context("it has no directory").with_context(doing)?;
        fs::create_dir_all(directory).map_err(explain).with_context(doing)?;
        let beside = sibling_for_writing(&outside);
        let written = replace(&outside, &beside, bytes, new_mode);
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written.map_err(explain).with_context(doing)?;
        sync_directory(directory).with_context(doing)
    }

    /// Makes an empty file at `path`. Nobody's link is followed, for the directory may be another user's. Missing
    /// directories are made (0755).
    ///
    /// # Errors
    /// Something is there, a link that leads nowhere too; anything else that the file system refuses.
    pub fn create(&self, path: &Path, mode: u32) -> Result<()> {
        let outside = self.outside(path);
        let doing = || format!("cannot make {}", path.display());
        let directory = outside.parent().context("it has no directory").with_context(doing)?;
        fs::create_dir_all(directory).map_err(explain).with_context(doing)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&outside);
        made.map_err(explain).with_context(doing)?;
        sync_directory(directory).with_context(doing)
    }

    /// Removes the file or link at `path` (the link, not its target), and what a killed write left beside
    /// it. Nothing there is no error.
    ///
    /// # Errors
    /// Anything the file system refuses.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let outside = self.outside(path);
        for name in [sibling_for_writing(&outside), outside.clone()] {
            match fs::remove_file(&name) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => {
                    return Err(explain(error)).with_context(|| format!("cannot remove {}", path.display()));
                }
            }
        }
        match outside.parent() {
            Some(directory) if directory.exists() => sync_directory(directory),
            _ => Ok(()),
        }
    }

    /// Removes what a killed write left beside `path`, if anything.
    pub fn remove_leftover(&self, path: &Path) {
        if let Ok(real) = self.real_path(path) {
            let _ = fs::remove_file(sibling_for_writing(&self.outside(&real)));
        }
    }

    /// Makes the symbolic link `link`; one that points there already is left alone.
    ///
    /// # Errors
    /// Something else is in its place, or the file system refuses.
    pub fn make_link(&self, link: &Link) -> Result<()> {
        if self.link(&link.path).as_ref() == Some(link) {
            return Ok(());
        }
        let outside = self.outside(&link.path);
        let doing = || format!("cannot link {} to {}", link.path.display(), link.target.display());
        let directory = outside.parent().context("it has no directory").with_context(doing)?;
        fs::create_dir_all(directory).map_err(explain).with_context(doing)?;
        std::os::unix::fs::symlink(&link.target, &outside).map_err(explain).with_context(doing)?;
        sync_directory(directory).with_context(doing)
    }

    /// Removes `directory` if it is there and empty.
    pub fn remove_if_empty(&self, directory: &Path) {
        let _ = fs::remove_dir(self.outside(directory));
    }
}

fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Opening must not hang on a FIFO that somebody put where a file belongs.
fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits() as i32
}

fn replace(path: &Path, beside: &Path, bytes: &[u8], new_mode: u32) -> io::Result<()> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let old = match File::options().read(true).custom_flags(nonblocking()).open(path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    new.write_all(bytes)?;
    match &old {
        Some(old) => keep_attributes(old, &new)?,
        None => new.set_permissions(fs::Permissions::from_mode(new_mode))?,
    }
    new.sync_all()?;
    fs::rename(beside, path)
}

/// Owner, extended attributes (ACLs are among them) and mode of `old` go to `new`; the mode last, since a
/// change of owner clears its set-id bits.
fn keep_attributes(old: &File, new: &File) -> io::Result<()> {
    let (from, to) = (old.metadata()?, new.metadata()?);
    if !from.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if (from.uid(), from.gid()) != (to.uid(), to.gid()) {
        fchown(new, Some(from.uid()), Some(from.gid()))?;
    }
    copy_xattrs(old, new)?;
    new.set_permissions(from.permissions())
}

fn copy_xattrs(old: &File, new: &File) -> io::Result<()> {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(old, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let length = fgetxattr(old, name, &mut value[..])?;
        // A label that the kernel sets itself may be refused to us and is then set by the kernel anyway.
        match fsetxattr(new, name, &value[..length], XattrFlags::empty()) {
            Ok(()) => {}
            Err(_) if name.starts_with(b"security.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .with_context(|| format!("cannot sync {}", directory.display()))
}

/// Adds what a person can do to the errors that the file system gives.
fn explain(error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space there and run this again; nothing was lost"
        }
        ErrorKind::ReadOnlyFilesystem => "mount it writable (mount -o remount,rw) and run this again",
        ErrorKind::PermissionDenied => "run this as root; if you are root, look at `lsattr` for an immutable file",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {remedy}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn host() -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let host = Host::new(root.path()).unwrap();
        (root, host)
    }

    #[test]
    fn an_absolute_link_stays_within_the_root() {
        let (root, host) = host();
        symlink("/etc/real", root.path().join("etc/link")).unwrap();
        host.write(Path::new("/etc/link"), b"x", 0o644).unwrap();
        assert_eq!(fs::read(root.path().join("etc/real")).unwrap(), b"x");
        assert!(root.path().join("etc/link").is_symlink());
        assert_eq!(host.read(Path::new("/etc/link")).unwrap().unwrap().real, Path::new("/etc/real"));
    }

    #[test]
    fn an_empty_file_is_made_at_the_end_of_nobodys_link() {
        let (root, host) = host();
        symlink("/etc/elsewhere", root.path().join("etc/link")).unwrap();
        assert!(host.create(Path::new("/etc/link"), 0o644).is_err());
        assert_eq!(host.list("/etc"), ["link"]);
        host.create(Path::new("/etc/log/new"), 0o644).unwrap();
        assert_eq!(host.read(Path::new("/etc/log/new")).unwrap().unwrap().bytes, b"");
    }

    #[test]
    fn dots_do_not_lead_out_of_the_root() {
        let (root, host) = host();
        symlink("../../../../../etc/passwd", root.path().join("etc/up")).unwrap();
        assert_eq!(host.real_path(Path::new("/etc/up")).unwrap(), Path::new("/etc/passwd"));
        assert!(host.read(Path::new("/etc/up")).unwrap().is_none());
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (root, host) = host();
        symlink("b", root.path().join("etc/a")).unwrap();
        symlink("a", root.path().join("etc/b")).unwrap();
        assert!(host.read(Path::new("/etc/a")).unwrap_err().to_string().contains("too many symbolic links"));
    }

    #[test]
    fn mode_is_kept_and_a_new_file_gets_the_asked_one() {
        let (root, host) = host();
        let path = Path::new("/etc/f");
        host.write(path, b"1", 0o640).unwrap();
        fs::set_permissions(root.path().join("etc/f"), fs::Permissions::from_mode(0o604)).unwrap();
        host.write(path, b"2", 0o640).unwrap();
        let state = host.read(path).unwrap().unwrap();
        assert_eq!((state.bytes.as_slice(), state.mode), (b"2".as_slice(), 0o604));
    }

    #[test]
    fn what_a_kill_left_beside_is_replaced_and_gone() {
        let (root, host) = host();
        fs::write(root.path().join("etc/.f.harden-portsentry"), "half").unwrap();
        host.write(Path::new("/etc/f"), b"whole", 0o644).unwrap();
        assert_eq!(host.list("/etc"), ["f"]);
    }

    #[test]
    fn a_fifo_in_its_place_is_refused_at_once() {
        let (root, host) = host();
        let fifo = root.path().join("etc/f");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(host.read(Path::new("/etc/f")).unwrap_err().to_string().contains("not a regular file"));
        assert!(host.write(Path::new("/etc/f"), b"x", 0o644).is_err());
    }
}
