//! Plans and checks as a person reads them: every line says what is so, how we know, or what to do.

use std::fmt::Write as _;

use console::{Style, style};

use crate::article::{Described, Fallback};
use crate::checks::{Check, Outcome, count};
use crate::host::{Host, age};
use crate::plan::{Change, FileChange, Note, Plan, Step, UnitAction};
use crate::settings::Engine;

use super::unified;

/// Wide enough for words, narrow enough for every terminal.
const WIDTH: usize = 80;
/// Where the text of a labelled line begins.
const INDENT: usize = 14;

/// Text under construction.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// An empty page.
    pub fn new() -> Page {
        Page::default()
    }

    /// What stands on it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// The one line that says what host this is.
    pub fn host(&mut self, described: &Described, host: &Host) {
        let context = &described.context;
        let facts = context.facts;
        let portsentry = match (facts.packages.get("portsentry"), &context.version) {
            (Some(package), None) => format!("portsentry {}, to be left for the embedded one", package.version),
            (Some(package), _) => format!("portsentry {}", package.version),
            (None, Some(version)) => format!("portsentry not installed (apt has {version})"),
            (None, None) => "portsentry not installed".to_owned(),
        };
        let input = if facts.firewall.input_drops { "INPUT drops" } else { "INPUT accepts" };
        let mut parts = vec![facts.release.shown(), portsentry, facts.firewall.name().to_owned()];
        if host.is_live() {
            parts.push(input.to_owned());
        } else {
            parts.push(format!("the image in {}", host.root().display()));
        }
        self.wrapped("", &parts.join(", "));
    }

    /// The values, and where each came from.
    pub fn settings(&mut self, described: &Described, verbose: bool) {
        let context = &described.context;
        let settings = context.settings;
        let mut rows = vec![
            ("LAN", settings.lan.network().to_string(), settings.lan.address.origin.to_string()),
            ("interface", settings.lan.interface.value.clone(), settings.lan.interface.origin.to_string()),
        ];
        let why = context.chosen.fallback.clone().map_or(settings.response.origin.to_string(), |_| {
            match context.host.is_live() {
                true => "this kernel has no CHAOS".to_owned(),
                false => "whether its kernel will have CHAOS is not known".to_owned(),
            }
        });
        rows.push(("response", context.chosen.response.to_string(), why));
        let engine = context.offer.fallback.map_or(settings.engine.origin.to_string(), Fallback::in_short);
        if verbose || context.offer.engine == Engine::Embedded {
            rows.push(("engine", context.offer.engine.to_string(), engine));
        }
        if verbose {
            rows.push(("address", settings.lan.address.value.to_string(), settings.lan.address.origin.to_string()));
            rows.push(("netmask", format!("/{}", settings.lan.prefix.value), settings.lan.prefix.origin.to_string()));
            rows.push(("gateway", settings.lan.gateway.value.to_string(), settings.lan.gateway.origin.to_string()));
            rows.push((
                "resolve_host",
                settings.resolve_host.value.to_string(),
                settings.resolve_host.origin.to_string(),
            ));
            rows.push(("fail2ban", settings.fail2ban.value.to_string(), settings.fail2ban.origin.to_string()));
            rows.push(("bantime", settings.bantime.value.to_string(), settings.bantime.origin.to_string()));
            for safe in crate::article::safe_networks(context) {
                rows.push(("safe", safe.network.to_string(), safe.what));
            }
        }
        self.line("");
        let dim = Style::new().dim();
        for (name, value, origin) in rows {
            self.line(format!("  {name:<11} {value:<26}{}", dim.apply_to(origin)));
        }
    }

    /// Every step that has something to do or to say.
    pub fn plan(&mut self, plan: &Plan, verbose: bool) {
        for step in &plan.steps {
            let speaks =
                verbose || !step.changes.is_empty() || step.notes.iter().any(|note| matches!(note, Note::Warning(_)));
            if speaks {
                self.step(step);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.line("");
        self.wrapped(&style(format!("{:<INDENT$}", step.title)).bold().to_string(), &step.summary);
        self.line(format!("{:INDENT$}{}", "", style(format!("article: {}", step.section)).dim()));
        for note in &step.notes {
            match note {
                Note::Info(text) => self.wrapped("  note        ", text),
                Note::Warning(text) => self.wrapped(&format!("  {}", style("warning     ").yellow()), text),
            }
        }
        for change in &step.changes {
            self.change(change);
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Packages(packages) => {
                if packages.update_first {
                    self.wrapped("  run         ", "apt-get update");
                }
                if packages.finish_configuring {
                    self.wrapped("  run         ", "dpkg --configure -a");
                }
                let mut words = packages.install.clone();
                words
                    .extend(packages.reinstall.iter().map(|name| format!("{name} (again, for its deleted conffiles)")));
                self.wrapped("  install     ", &format!("{}   ({})", words.join(" "), packages.why));
                let others: Vec<String> = packages
                    .candidates
                    .iter()
                    .filter(|one| !packages.install.contains(&one.name) && !packages.reinstall.contains(&one.name))
                    .map(|one| one.name.clone())
                    .collect();
                if !others.is_empty() {
                    self.wrapped("  with        ", &others.join(" "));
                }
                if let Some(preseed) = &packages.preseed {
                    self.wrapped("  debconf     ", preseed.trim_end());
                }
            }
            Change::File(file) => self.file(file),
            Change::Program(program) => {
                let verb = if program.replaces { "update" } else { "put" };
                let size = program.size as f64 / 1e6;
                self.wrapped(
                    "  program     ",
                    &format!(
                        "{verb} this program at {} ({size:.1} MB), where nobody but root can change it",
                        program.to.display()
                    ),
                );
            }
            Change::Unit(unit) => {
                let verb = format!("{:<12}", unit.action.verb());
                let colour = if unit.action == UnitAction::Stop { Style::new().yellow() } else { Style::new() };
                self.wrapped(
                    &format!("  {}", colour.apply_to(verb)),
                    &format!("{}   ({})", unit.unit.trim_end_matches(".service"), unit.why),
                );
            }
            Change::Blocks(addresses) => {
                let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let why = "blocked by rules, lines or bans of their own: from now on in the ledger, for a time";
                self.wrapped("  move        ", &format!("{}   ({why})", shown.join(" ")));
            }
            Change::Lists(differences) => {
                for (address, differences) in differences {
                    let words: Vec<String> = differences.iter().map(ToString::to_string).collect();
                    self.wrapped("  mend        ", &format!("{address}: {}", words.join("; ")));
                }
            }
            Change::Later(later) => self.wrapped(
                "  later       ",
                &format!("{}: {}; shown once its package is there", later.path.display(), later.why),
            ),
        }
    }

    /// One file's diff.
    pub fn file(&mut self, file: &FileChange) {
        let verb = match (&file.before, &file.after) {
            (None, _) => "new file    ",
            (_, None) => "remove      ",
            _ => "edit        ",
        };
        self.wrapped(&format!("  {verb}"), &format!("{}   ({})", file.path.display(), file.why));
        if let Some(real) = &file.follows_link_to {
            self.wrapped("              ", &format!("a link, followed and kept: the file is {}", real.display()));
        }
        for line in unified(&file.path, file.before.as_deref(), file.after.as_deref()).lines() {
            let colour = match line.as_bytes() {
                [b'+', ..] if !line.starts_with("+++") => Style::new().green(),
                [b'-', ..] if !line.starts_with("---") => Style::new().red(),
                [b'@', ..] => Style::new().cyan(),
                _ => Style::new(),
            };
            self.line(format!("    {}", colour.apply_to(line)));
        }
    }

    /// The last line of a diff: how much would change.
    pub fn totals(&mut self, plan: &Plan) {
        let packages: usize = plan
            .packages()
            .map(|change| change.candidates.len().max(change.install.len() + change.reinstall.len()))
            .sum();
        let files = plan.files().len() + usize::from(plan.program().is_some()) + plan.later().count();
        let mut units: Vec<String> = plan.units().into_iter().map(|change| change.unit).collect();
        units.sort_unstable();
        units.dedup();
        self.line("");
        self.line(format!(
            "{}, {}, {} to change.",
            many(packages, "package"),
            many(files, "file"),
            many(units.len(), "service")
        ));
    }

    /// Checks, failures with what was seen and what to do. `quiet` shows only what is wrong; under `strict` that
    /// includes what could not be checked.
    pub fn checks(&mut self, checks: &[Check], quiet: bool, strict: bool) {
        for check in checks {
            let (word, colour) = match check.outcome {
                Outcome::Ok if quiet => continue,
                Outcome::Skip if quiet && !strict => continue,
                Outcome::Ok => ("ok", Style::new().green()),
                Outcome::Fail => ("FAIL", Style::new().red()),
                Outcome::Skip => ("skip", Style::new().yellow()),
            };
            self.wrapped_at(&format!("  {}", colour.apply_to(format!("{word:<6}"))), 8, &check.says);
            if let Some(seen) = &check.seen {
                for (index, line) in seen.lines().enumerate() {
                    self.wrapped_at(if index == 0 { "        seen  " } else { "              " }, INDENT, line);
                }
            }
            if let Some(remedy) = &check.remedy {
                self.wrapped_at("        do    ", INDENT, remedy);
            }
        }
        let (held, failed, skipped) = count(checks);
        if quiet && failed == 0 && !(strict && skipped > 0) {
            return;
        }
        let fail = if failed == 1 { "1 fails".to_owned() } else { format!("{failed} fail") };
        self.line(format!("{held} hold, {fail}, {skipped} not checked"));
    }

    /// `text` after `label`, wrapped at 80 columns and indented below itself.
    pub fn wrapped(&mut self, label: &str, text: &str) {
        self.wrapped_at(label, if label.is_empty() { 0 } else { INDENT }, text);
    }

    fn wrapped_at(&mut self, label: &str, indent: usize, text: &str) {
        let mut line = label.to_owned();
        let mut column = indent;
        let mut fresh = true;
        for word in text.split(' ') {
            let length = console::measure_text_width(word);
            if !fresh && column + 1 + length > WIDTH {
                self.line(line.trim_end());
                line = " ".repeat(indent);
                column = indent;
                fresh = true;
            }
            if !fresh {
                line.push(' ');
                column += 1;
            }
            line.push_str(word);
            column += length;
            fresh = false;
        }
        self.line(line.trim_end());
    }
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A time (RFC 3339) as people say it: `3 days ago`.
pub fn ago(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => {
            let seconds = (jiff::Timestamp::now().as_millisecond() - then.as_millisecond()) as f64 / 1000.0;
            if seconds < 1.0 { "just now".to_owned() } else { format!("{} ago", age(seconds)) }
        }
        Err(_) => {
            let mut shown = String::new();
            let _ = write!(shown, "at {time}");
            shown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_by_us_below_their_own_beginning() {
        let mut page = Page::new();
        page.wrapped("  note        ", &"word ".repeat(30));
        assert!(page.text().lines().all(|line| line.len() <= WIDTH), "{}", page.text());
        assert!(page.text().lines().skip(1).all(|line| line.starts_with("              word")), "{}", page.text());
    }
}
