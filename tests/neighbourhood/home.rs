//! A /etc, /var/lib and /run of their own for programs on the host of a [`Net`](super::Net): the ledger, policy.toml,
//! hosts.deny and the daemon's socket are where they always are, and nothing of this machine's is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::Net;

pub struct Home {
    directory: TempDir,
    /// What else is mounted for whoever enters.
    more: String,
}

/// Mounts the directories below $1 and runs the rest. /etc keeps what it has.
const ENTER: &str = "\
    home=$1; more=$2; shift 2
    mount --make-rprivate / &&
    mount -t overlay overlay -o lowerdir=/etc,upperdir=$home/etc,workdir=$home/work /etc &&
    mount --rbind $home/lib /var/lib && mount --bind $home/run /run && eval \"$more\" && exec \"$@\"";

impl Home {
    pub fn new() -> Home {
        Home::with("true")
    }

    /// With more mounts, a shell command. Each program gets them anew.
    pub fn with(more: &str) -> Home {
        let directory = TempDir::new().expect("a temporary directory");
        for name in ["etc/harden-portsentry", "work", "lib", "run"] {
            fs::create_dir_all(directory.path().join(name)).expect("a directory");
        }
        Home { directory, more: more.to_owned() }
    }

    /// Lets others than root go through it.
    pub fn open_to_all(&self) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.directory.path(), mode).expect("it is ours");
    }

    /// Where an absolute path of it is seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        let places = [("/etc/", "etc/"), ("/var/lib/", "lib/"), ("/run/", "run/")];
        let (place, own) = places.iter().find(|(place, _)| path.starts_with(place)).expect("a path of its own");
        self.directory.path().join(format!("{own}{}", &path[place.len()..]))
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("a file");
    }

    /// What the file says; nothing if it is not there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// A command on the host of `net`, in this home.
    pub fn prepared(&self, net: &Net, program: &Path, words: &[&str]) -> Command {
        let home = self.directory.path().to_str().expect("a path");
        let program = program.to_str().expect("a path");
        let all = [&["--mount", "sh", "-c", ENTER, "sh", home, &self.more, program], words].concat();
        net.prepared("host", "unshare", &all)
    }

    pub fn output(&self, net: &Net, program: &Path, words: &[&str]) -> Output {
        self.prepared(net, program, words).stdin(Stdio::null()).output().expect("ip runs")
    }
}
