//! fail2ban's configuration files, read: sections, keys, continued values (jail.conf(5)). `%(x)s` is returned as
//! it stands.

use super::lines::{is_blank, split, trim};

/// The keys and values of one file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ini {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    section: String,
    key: String,
    value: String,
}

impl Ini {
    /// Any bytes are a file; what is no section, key or continuation is passed over.
    pub fn parse(bytes: &[u8]) -> Ini {
        let mut entries: Vec<Entry> = Vec::new();
        let mut section = String::new();
        for line in split(bytes) {
            let text = String::from_utf8_lossy(&line.text).into_owned();
            let content = text.trim();
            if content.is_empty() || content.starts_with(['#', ';']) {
                continue;
            }
            if line.text.first().is_some_and(|&byte| is_blank(byte)) {
                if let Some(last) = entries.last_mut().filter(|last| last.section == section) {
                    last.value.push('\n');
                    last.value.push_str(&String::from_utf8_lossy(trim(&line.text)));
                }
                continue;
            }
            if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                section = name.trim().to_owned();
            } else if let Some((key, value)) = content.split_once(['=', ':']) {
                let value = value.split(" ;").next().unwrap_or(value);
                entries.push(Entry {
                    section: section.clone(),
                    key: key.trim().to_lowercase(),
                    value: value.trim().to_owned(),
                });
            }
        }
        Ini { entries }
    }

    /// The value of `key` in `[section]`, the last one if there are several; not looked up in `[DEFAULT]`.
    pub fn get(&self, section: &str, key: &str) -> Option<String> {
        let found = self.entries.iter().rev().find(|entry| entry.section == section && entry.key == key)?;
        Some(found.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_comments_continuations_and_repeats() {
        let text = "# c\n[DEFAULT]\nbackend = auto\n[sshd]\nport    = ssh\nlogpath = /a\n          /b\nenabled = false\nenabled = true ; yes\n";
        let ini = Ini::parse(text.as_bytes());
        assert_eq!(ini.get("sshd", "logpath").unwrap(), "/a\n/b");
        assert_eq!(ini.get("sshd", "enabled").unwrap(), "true");
        assert_eq!(ini.get("DEFAULT", "backend").unwrap(), "auto");
        assert_eq!(ini.get("sshd", "backend"), None);
    }

    #[test]
    fn garbage_does_not_panic() {
        assert_eq!(Ini::parse(b"\xff\xfe[\n]\n=\n  x\n[[a]]\n\0").get("", "x"), None);
    }
}
