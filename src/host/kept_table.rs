//! An inet table of ours that is to stay: loaded by nft from a text, known again by a name for that text, and loaded again
//! when somebody takes it away or empties it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Invocation;
use crate::kernel::{Snapshot, count_rules, has_chain, is_there_already};

/// The table, and how it was loaded last.
#[derive(Debug)]
pub struct KeptTable {
    name: String,
    /// What it is in words, for messages.
    what: &'static str,
    loaded: Option<Loaded>,
    /// To load it sooner than nft starts.
    snapshot: Option<Snapshot>,
}

/// What tells a table that is as it was loaded from any other.
#[derive(Debug, PartialEq, Eq)]
struct Loaded {
    version: String,
    rules: usize,
}

/// A text that makes a table, with a chain in it whose name says which text it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    pub version: String,
}

impl Text {
    /// What `fill` makes of the chain's name; `elements` of sets that are filled later have no part in it.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn of(fill: impl Fn(&str) -> Result<String>) -> Result<Text> {
        let version = format!("version_{:08x}", crc32fast::hash(fill("")?.as_bytes()));
        Ok(Text { text: fill(&version)?, version })
    }

    /// How many rules it makes: lines of chains that say neither what the chain is nor what a line is for.
    fn rules(&self) -> usize {
        let mut in_chain = false;
        let mut count = 0;
        for line in self.text.lines().map(str::trim) {
            match line {
                "}" => in_chain = false,
                "" => {}
                _ if line.starts_with("chain ") => in_chain = true,
                _ if line.starts_with("type ") || line.starts_with('#') => {}
                _ => count += usize::from(in_chain),
            }
        }
        count
    }
}

/// What [`KeptTable::load_again`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Again {
    /// It was gone, and is there again, with empty sets.
    Loaded,
    /// It is there, as it was loaded; its sets may be another's work.
    Whole,
    /// It is there and not what was loaded, or nobody kept how it was: load it.
    Missing,
}

impl KeptTable {
    /// Nothing is loaded yet.
    pub fn new(name: &str, what: &'static str) -> KeptTable {
        KeptTable { name: name.to_owned(), what, loaded: None, snapshot: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel has it, as `text` makes it: by the name of its version, and none of its rules missing.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn is(&self, text: &Text) -> Result<bool> {
        self.matches(&Loaded { version: text.version.clone(), rules: text.rules() })
    }

    fn matches(&self, loaded: &Loaded) -> Result<bool> {
        Ok(has_chain(&self.name, &loaded.version)? && count_rules(&self.name)? == loaded.rules)
    }

    /// Loads `text`.
    ///
    /// # Errors
    /// nft is not installed, or the kernel refuses; what was there goes on.
    pub fn load(&mut self, text: Text) -> Result<()> {
        let loaded = Loaded { rules: text.rules(), version: text.version };
        Invocation::new("nft", &["-f", "-"])
            .input(text.text)
            .demand()
            .with_context(|| format!("cannot load {}; nft is in Debian's package nftables", self.what))?;
        self.loaded = Some(loaded);
        Ok(())
    }

    /// The version that was loaded last.
    pub fn version(&self) -> Option<&str> {
        self.loaded.as_ref().map(|loaded| loaded.version.as_str())
    }

    /// Keeps what the kernel has now, to load it again.
    pub fn keep(&mut self) {
        self.snapshot = Snapshot::take(&self.name).ok();
    }

    /// Loads it again as it was kept, with these ports in sets of ports, each for a time, if it is not there.
    ///
    /// # Errors
    /// The kernel refuses to tell whether it is.
    pub fn load_again(&self, ports: &[(&str, &[u16], Duration)]) -> Result<Again> {
        match self.snapshot.as_ref().map(|snapshot| snapshot.load(&self.name, ports)) {
            Some(Ok(())) => Ok(Again::Loaded),
            Some(Err(error)) if is_there_already(&error) => {
                let whole = self.loaded.as_ref().map(|loaded| self.matches(loaded)).transpose()?;
                Ok(if whole == Some(true) { Again::Whole } else { Again::Missing })
            }
            // By nft, which takes longer.
            _ => Ok(Again::Missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted() {
        let text = "table inet x {\n\tset s {\n\t\ttype inet_service\n\t}\n\tchain v {\n\t}\n\tchain a {\n\t\ttype filter hook input priority 0; policy accept;\n\n\t\t# why\n\t\tiif \"lo\" accept\n\t\ttcp dport { 1, 2 } drop\n\t}\n}\n";
        let text = Text { text: text.to_owned(), version: String::new() };
        assert_eq!(text.rules(), 2);
    }
}
