//! Files of a directory that belongs to the daemon's user, opened by root as well: no link in it is followed, nothing that
//! is no file is waited for, nothing is touched that has a name elsewhere, and what root makes there is the daemon's.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens the file at `path` with `options`.
///
/// # Errors
/// As [`OpenOptions::open`]; and it is a link, or no file, or has another name, by which it could be anybody's.
pub fn open(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = options.custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    if found.nlink() > 1 {
        return Err(Error::new(ErrorKind::InvalidInput, "it has another name (a hard link)"));
    }
    Ok(file)
}

/// A new file at `path`, in the place of what is there, belonging to whom the directory belongs to.
///
/// # Errors
/// As [`open`].
pub fn create(path: &Path, mode: u32) -> Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = open(path, OpenOptions::new().append(true).create_new(true).mode(mode))?;
    // Whatever umask says.
    file.set_permissions(Permissions::from_mode(mode))?;
    give_to_owner_of_directory(path, &file);
    Ok(file)
}

/// Puts a new file of ours, which all may read, in the place of the one at `path`, so that a reader sees one or the other; it
/// is made as `new` first, which is beside it. The directory may be another user's, who must not lead this one elsewhere by a
/// link.
///
/// # Errors
/// As [`std::fs::rename`], and the disk is full: then the old one is as it was.
pub fn replace(path: &Path, new: &Path, text: &str) -> Result<()> {
    const MODE: u32 = 0o644;
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(new)?;
    // Whatever the umask is: who reads it is another user.
    let written = file
        .set_permissions(Permissions::from_mode(MODE))
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(new);
    }
    written
}

/// The last `most` bytes of the file at `path`, and how many come before them; nothing if there is no file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path, most: u64) -> Result<(Vec<u8>, u64)> {
    let mut file = match open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error),
    };
    let before = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    // Somebody may write meanwhile, as fast as it is read.
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, before))
}

/// Only root can, and only for root is there anything to do.
pub fn give_to_owner_of_directory(path: &Path, file: &File) {
    if let Some(Ok(directory)) = path.parent().map(std::fs::metadata)
        && rustix::process::geteuid().is_root()
    {
        let _ = fchown(file, Some(directory.uid()), Some(directory.gid()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed_and_pipes_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("link")).unwrap();
        assert!(read(&at("link"), 100).is_err());
        assert!(open(&at("link"), OpenOptions::new().append(true)).is_err());
        let pipe = at("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(read(&pipe, 100).is_err());
        assert!(open(&pipe, OpenOptions::new().append(true)).is_err());
        create(&at("link"), 0o600).unwrap();
        assert!(at("link").symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "secret");
        assert_eq!(read(&at("none"), 100).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn a_file_with_another_name_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("passwd"), "root").unwrap();
        std::fs::hard_link(at("passwd"), at("ledger")).unwrap();
        assert!(read(&at("ledger"), 100).is_err());
        assert!(open(&at("ledger"), OpenOptions::new().append(true)).is_err());
        create(&at("ledger"), 0o600).unwrap();
        assert_eq!(read(&at("passwd"), 100).unwrap(), (b"root".to_vec(), 0));
    }

    #[test]
    fn of_a_long_file_the_end_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "123456789").unwrap();
        assert_eq!(read(file.path(), 4).unwrap(), (b"6789".to_vec(), 5));
        assert_eq!(read(file.path(), 9).unwrap(), (b"123456789".to_vec(), 0));
    }
}
