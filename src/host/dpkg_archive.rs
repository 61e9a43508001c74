//! What a package will put on the machine, read out of its .deb before it is installed: the pristine
//! conffiles, and the files that its postinst creates from a here-document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::commands::Invocation;
use super::{Candidate, Host};

impl Host {
    /// The files below /etc that installing `candidates` would create, by path. `None` for a candidate whose
    /// .deb is neither in apt's cache nor to be had; nothing of the system is changed, downloads go to a
    /// private directory that is removed again.
    ///
    /// # Errors
    /// No private directory, or a .deb that dpkg-deb cannot read.
    pub fn pristine_files(&self, candidates: &[Candidate]) -> Result<Option<BTreeMap<PathBuf, Vec<u8>>>> {
        let private = tempfile::Builder::new()
            .prefix("harden-portsentry-")
            .tempdir()
            .context("cannot make a private directory")?;
        let mut files = BTreeMap::new();
        for candidate in candidates {
            let Some(archive) = self.find_archive(candidate, private.path()) else { return Ok(None) };
            let tree = private.path().join(&candidate.name);
            let words = ["--raw-extract".to_owned(), archive.display().to_string(), tree.display().to_string()];
            Invocation::new("dpkg-deb", &words).demand()?;
            collect_conffiles(&tree, &mut files)?;
            if let Ok(script) = std::fs::read_to_string(tree.join("DEBIAN/postinst")) {
                files.extend(created_by_postinst(&script));
            }
        }
        Ok(Some(files))
    }

    fn find_archive(&self, candidate: &Candidate, private: &Path) -> Option<PathBuf> {
        let name =
            format!("{}_{}_{}.deb", candidate.name, candidate.version.replace(':', "%3a"), candidate.architecture);
        let cached = self.outside(&Path::new("/var/cache/apt/archives").join(&name));
        if cached.is_file() {
            return Some(cached);
        }
        if !self.is_live() {
            return None;
        }
        // `apt-get download` writes to the working directory; its own caches stay untouched with these two.
        let words = [
            "-c".to_owned(),
            "cd \"$1\" && exec apt-get -q -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache= -oAPT::Sandbox::User=root \
             -oAcquire::Retries=0 -oAcquire::http::Timeout=10 -oAcquire::https::Timeout=10 download \"$2\""
                .to_owned(),
            "sh".to_owned(),
            private.display().to_string(),
            format!("{}={}", candidate.name, candidate.version),
        ];
        let downloaded = Invocation::new("sh", &words).within(Duration::from_secs(60)).run().ok()?;
        downloaded.ok().then(|| private.join(name)).filter(|path| path.is_file())
    }
}

fn collect_conffiles(tree: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    let Ok(list) = std::fs::read_to_string(tree.join("DEBIAN/conffiles")) else { return Ok(()) };
    for name in list.lines().map(|line| line.trim()).filter(|line| line.starts_with("/etc/")) {
        let path = tree.join(name.trim_start_matches('/'));
        if path.is_file() {
            files.insert(
                name.into(),
                std::fs::read(&path).with_context(|| format!("cannot read {name} of the package"))?,
            );
        }
    }
    Ok(())
}

/// The files that a postinst writes with `cat > PATH <<EOF` (portsentry's default file and libwrap0's
/// hosts.* come to be that way), with the variables that the script itself sets. A file whose text needs a
/// variable that cannot be seen in the script is left out.
fn created_by_postinst(script: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut variables: BTreeMap<String, String> = BTreeMap::from([("DPKG_ROOT".to_owned(), String::new())]);
    let mut found = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some((name, value)) = assignment(line) {
            // Kept as written, since a function is defined before the variables that it reads are set; only what
            // a variable says of itself is put in at once.
            let own = variables.get(name).cloned().unwrap_or_default();
            variables.insert(name.to_owned(), value.replace(&format!("${name}"), &own));
        }
        let Some((target, end)) = heredoc(line) else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != end).collect();
        let Some(path) = substitute(target, &variables, 0) else { continue };
        let text: Option<Vec<String>> = body.iter().map(|line| substitute(line, &variables, 0)).collect();
        if let (true, Some(text)) = (path.starts_with("/etc/"), text) {
            let bytes = text.iter().flat_map(|line| line.bytes().chain([b'\n'])).collect();
            found.push((PathBuf::from(path), bytes));
        }
    }
    found
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && (!value.contains(char::is_whitespace) || value.starts_with('"')))
        .then(|| (name, value.trim_matches('"')))
}

fn heredoc(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("cat")?.trim_start().strip_prefix('>')?;
    let (target, end) = rest.split_once("<<")?;
    Some((target.trim().trim_matches('"'), end.trim()))
}

/// `text` with `$NAME` and `${NAME}` replaced, in their values too; `None` where one is not known.
fn substitute(text: &str, variables: &BTreeMap<String, String>, depth: usize) -> Option<String> {
    if depth > 4 {
        return None; // they name one another
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let after_brace = after.strip_prefix('{');
        let name_part = after_brace.unwrap_or(after);
        let length = name_part.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (name, tail) = name_part.split_at(length);
        out.push_str(&substitute(variables.get(name)?, variables, depth + 1)?);
        rest = if after_brace.is_some() { tail.strip_prefix('}')? } else { tail };
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_here_document_is_read_with_the_scripts_own_variables() {
        let script =
            "F=\"/etc/default/x\"\nif true; then\n  MODE=tcp\n  cat >$F <<EOF\n# $F\nMODE=\"$MODE\"\nEOF\nfi\n";
        assert_eq!(
            created_by_postinst(script),
            [("/etc/default/x".into(), b"# /etc/default/x\nMODE=\"tcp\"\n".to_vec())]
        );
    }

    #[test]
    fn a_variable_that_the_script_does_not_set_leaves_the_file_out() {
        assert_eq!(created_by_postinst("cat > /etc/x <<EOF\n$UNKNOWN\nEOF\n"), []);
    }

    #[test]
    fn a_function_reads_what_is_set_after_its_definition() {
        let script = "get_services() {\n  services=\n  services=\"p@$MODE.service\"\n  services=\"$services q@$MODE.service\"\n}\n\
                      MODE=tcp\ncat >/etc/x <<EOF\n$services\nEOF\n";
        assert_eq!(created_by_postinst(script), [("/etc/x".into(), b"p@tcp.service q@tcp.service\n".to_vec())]);
    }

    #[test]
    fn dpkg_root_is_empty_on_a_running_system() {
        let script = "cat > \"$DPKG_ROOT/etc/hosts.allow\" <<EOF\n# x\nEOF\n";
        assert_eq!(created_by_postinst(script), [("/etc/hosts.allow".into(), b"# x\n".to_vec())]);
    }
}
