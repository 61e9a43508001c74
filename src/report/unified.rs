//! Unified diffs that show what would otherwise look alike or play tricks with a terminal.

use std::path::Path;

use similar::TextDiff;

/// The change of `path` from `before` to `after` (`None`: no file), as `diff -u` prints it, `/dev/null`
/// standing for no file. Control characters come as `^M`, bytes that are not UTF-8 as U+FFFD.
pub fn unified(path: &Path, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    if [before, after].into_iter().flatten().any(|bytes| bytes.contains(&0)) {
        let what = match (before, after) {
            (None, _) => "is new",
            (_, None) => "is removed",
            _ => "differs",
        };
        return format!("Binary file {} {what}\n", path.display());
    }
    let name = |side: Option<&[u8]>| if side.is_some() { path.display().to_string() } else { "/dev/null".to_owned() };
    let text = |side: Option<&[u8]>| visible(&String::from_utf8_lossy(side.unwrap_or_default()));
    let (old, new) = (text(before), text(after));
    let diff = TextDiff::from_lines(&old, &new);
    if old == new {
        // An empty file comes or goes: nothing to show but its name.
        return format!("--- {}\n+++ {}\n", name(before), name(after));
    }
    diff.unified_diff().context_radius(3).header(&name(before), &name(after)).to_string()
}

/// Control characters but newline and tab, in the notation of `cat -v`.
fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|letter| match letter {
            '\n' | '\t' => vec![letter],
            '\u{7f}' => vec!['^', '?'],
            control if u32::from(control) < 0x20 => vec!['^', char::from(control as u8 + 0x40)],
            control if ('\u{80}'..='\u{9f}').contains(&control) => vec!['\u{fffd}'],
            other => vec![other],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_and_a_missing_last_newline_are_shown_as_diff_shows_them() {
        let shown = unified(Path::new("/etc/x"), None, Some(b"a"));
        assert_eq!(shown, "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+a\n\\ No newline at end of file\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        let shown = unified(Path::new("/etc/x"), Some(b"a\r\n"), Some(b"a\n\x1b[2J\n"));
        assert!(shown.contains("-a^M\n") && shown.contains("+^[[2J\n"), "{shown}");
    }
}
