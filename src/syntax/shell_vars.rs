//! Assignments of a shell file: /root/config.env and /etc/default/portsentry. Read, never executed; edited by key.
//!
//! A shell would run the file (the series' scripts and the sysv script source it). This reader accepts a value only
//! where it is sure what the shell would have made of it; every line that could change a wanted value in a way that
//! only a shell can follow is an error with its line and a remedy; every other line may hold what it likes. (What it
//! cannot foresee: a line that ends the shell while it runs, such as arithmetic on what is no number.)
//!
//! The values come from dotenvy, which on its own gets 13 of 72 tried forms silently wrong and knows no lines. It is
//! given one assignment at a time, only what the scanner has judged, with `$X` already resolved (dotenvy would take
//! the process environment before the file's own line), and the two have to agree.

mod arithmetic;
mod reading;
mod redirections;
mod script;
mod words;

use reading::Reading;
use script::{Unit, units};
use words::{Part, Quote, Word, is_name};

use super::lines::{End, Line, join, split};
use super::{SyntaxError, ValueError};

/// The file, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellVars {
    lines: Vec<Line>,
}

/// A variable that was asked for, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub key: String,
    pub value: String,
    /// Counted from 1; of several that agree, the first.
    pub line: usize,
}

impl ShellVars {
    /// Any bytes are a file; what is wrong with them is said when values are asked for.
    pub fn parse(bytes: &[u8]) -> ShellVars {
        ShellVars { lines: split(bytes) }
    }

    /// The bytes that it came from, with what was edited since.
    pub fn to_bytes(&self) -> Vec<u8> {
        join(&self.lines)
    }

    /// The values of `wanted` where the file assigns them, in the file's order. `environment` answers for a `$NAME`
    /// that the file has not assigned before; what it does not know is empty, as in a shell. Lines may end in CRLF.
    ///
    /// # Errors
    /// Every line at which a wanted value could become what only a shell knows, or is doubled with another value; the
    /// first line at which a shell would give up; a byte order mark; a NUL.
    pub fn read(
        &self,
        wanted: &[&str],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<Assignment>, Vec<SyntaxError>> {
        let script = self.script();
        if script.starts_with("\u{feff}".as_bytes()) {
            let message = "begins with a byte order mark, which hides its first word from a shell. Save it without";
            return Err(vec![SyntaxError::new(1, message)]);
        }
        if let Some(at) = script.iter().position(|&byte| byte == 0) {
            let line = script[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
            return Err(vec![SyntaxError::new(line, "holds a NUL byte, so this is no text file. Write it anew")]);
        }
        let reading = Reading::of(&script, wanted, environment);
        if reading.errors.is_empty() { Ok(reading.found) } else { Err(reading.errors) }
    }

    /// The value of one variable, with nothing known of the environment.
    ///
    /// # Errors
    /// As [`ShellVars::read`].
    pub fn get(&self, key: &str) -> Result<Option<String>, Vec<SyntaxError>> {
        let found = self.read(&[key], &|_| None)?;
        Ok(found.into_iter().next().map(|one| one.value))
    }

    /// Gives `key` this value: wherever it is assigned, with the quotes, the `export` and the comment that are there;
    /// else on a line of its own at the end.
    ///
    /// # Errors
    /// The value cannot stand between quotes as it is; or the file assigns `key` where only a shell can follow, so
    /// that writing it would not be the last word.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        self.put(key, value, "")
    }

    /// The same; a new line begins with `export`.
    ///
    /// # Errors
    /// As [`ShellVars::set`].
    pub fn set_exported(&mut self, key: &str, value: &str) -> Result<(), ValueError> {
        self.put(key, value, "export ")
    }

    fn put(&mut self, key: &str, value: &str, prefix: &str) -> Result<(), ValueError> {
        if !is_name(key.as_bytes()) {
            return Err(ValueError::new(key, "is no name of a variable: use letters, digits and _"));
        }
        if value.contains(|letter: char| letter.is_control() || "\"'$`\\".contains(letter)) {
            let message = "the value holds a quote, a backslash, a $ or a control character. Leave it out";
            return Err(ValueError::new(key, message));
        }
        let mut edited = self.clone();
        let script = self.script();
        let assigned: Vec<Word> = units(&script)
            .iter()
            .filter(|unit| unit.is_plain())
            .flat_map(assignments)
            .filter(|word| word.assigned_name() == Some(key))
            .collect();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(script.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
            .collect();
        for word in assigned.iter().rev() {
            let line = starts.partition_point(|&start| start <= word.start) - 1;
            if script[word.start..word.end].contains(&b'\n') {
                let message = format!("its value spans several lines from line {} on. Write it on one", line + 1);
                return Err(ValueError::new(key, message));
            }
            let quote = quote_of(word, key, value);
            let new = format!("{key}={quote}{value}{quote}").into_bytes();
            edited.lines[line].text.splice(word.start - starts[line]..word.end - starts[line], new);
        }
        if assigned.is_empty() {
            edited.append(format!("{prefix}{key}=\"{value}\""));
        }
        match edited.read(&[key], &|_| None) {
            Ok(found) if found.first().is_some_and(|one| one.value == value) => *self = edited,
            Ok(_) => {
                return Err(ValueError::new(key, "is assigned in a way that cannot be edited. Remove that line"));
            }
            Err(errors) => return Err(ValueError::new(key, &errors[0])),
        }
        Ok(())
    }

    fn append(&mut self, text: String) {
        let mut line = Line::new(text);
        if let Some(last) = self.lines.last_mut() {
            match last.end {
                End::Missing => last.end = End::Newline,
                end => line.end = end,
            }
        }
        self.lines.push(line);
    }

    /// The lines with plain newlines; offsets within a line are the same as in the file.
    fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        for line in &self.lines {
            script.extend_from_slice(&line.text);
            if line.end != End::Missing {
                script.push(b'\n');
            }
        }
        script
    }
}

/// The quotes that the value has, or that the new one needs.
fn quote_of(word: &Word, key: &str, value: &str) -> &'static str {
    let is_key = |part: &Part| matches!(part, Part::Text(text) if text.strip_suffix(b"=") == Some(key.as_bytes()));
    match word.parts.iter().find(|(quote, part)| *quote != Quote::Bare || !is_key(part)) {
        Some((Quote::Single, _)) => "'",
        Some((Quote::Double, _)) => "\"",
        _ if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte)) => "",
        _ => "\"",
    }
}

/// The assignments that stay: those of a command without words, and the words of `export` and `readonly`.
fn assignments(unit: &Unit) -> Vec<Word> {
    let mut found = Vec::new();
    for command in &unit.commands {
        match command.words.first().and_then(Word::literal) {
            None if command.words.is_empty() => found.extend(command.assignments.iter().cloned()),
            Some(name) if name == "export" || name == "readonly" => {
                found.extend(command.words[1..].iter().filter(|word| word.assigned_name().is_some()).cloned());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOME: &str = "/root";

    fn read(text: &str) -> Result<Vec<Assignment>, Vec<SyntaxError>> {
        ShellVars::parse(text.as_bytes()).read(&["A", "C"], &|name| (name == "HOME").then(|| HOME.to_owned()))
    }

    /// `A` and `C` as this reader has them, empty where they are not assigned.
    fn values(found: &[Assignment]) -> String {
        let of = |key| found.iter().find(|one| one.key == key).map_or("", |one| &one.value);
        format!("<{}|{}>", of("A"), of("C"))
    }

    /// The same as real shells have them after sourcing the file; a text of its own if one gave up or differs.
    fn by_shell(text: &str) -> String {
        let (dash, bash) = (by("/bin/dash", text), by("/bin/bash", text));
        if dash == bash { dash } else { format!("dash {dash}, bash {bash}") }
    }

    fn by(shell: &str, text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("vars"), text.replace("\r\n", "\n")).unwrap();
        let script = ". ./vars; printf 'BEGIN<%s|%s>END' \"$A\" \"$C\"";
        let mut command = std::process::Command::new(shell);
        let command = command
            .args(["-c", script])
            .current_dir(&directory)
            .env_clear()
            .env("HOME", HOME)
            .env("PATH", "/nonexistent");
        let output = command.stdin(std::process::Stdio::null()).output().expect("dash and bash, which each Debian has");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let marked =
            text.rsplit_once("BEGIN").and_then(|(_, rest)| rest.split_once("END")).map(|(own, _)| own.to_owned());
        marked.unwrap_or(text)
    }

    /// The 72 forms that were tried with dotenvy and dash (facts/crates.md), in that order. `Some`: accepted with
    /// this value; `None`: refused. `-`: the wanted variable is not assigned.
    const FORMS: [(&str, Option<&str>); 72] = [
        ("A=1", Some("1")),
        ("export A=\"enp0s8\"", Some("enp0s8")),
        ("export A=\"enp0s8\" # Internal private", Some("enp0s8")),
        ("A=x # c", Some("x")),
        ("A=x#c", Some("x#c")),
        ("A=\"x\"#c", Some("x#c")),
        ("A='x y'", Some("x y")),
        ("A='$HOME'", Some("$HOME")),
        ("B=2\nA=\"$B\"", Some("2")),
        ("B=2\nA=$B", Some("2")),
        ("B=2\nA=\"${B}\"", Some("2")),
        ("B=2\nA=\"${B}0\"", Some("20")),
        ("A=$HOME", Some("/root")),
        ("A=\"$NOPE\"", Some("")),
        ("A=\"${NOPE:-x}\"", None),
        ("B=2\nA=\"${B:-x}\"", None),
        ("A=${NOPE-x}", None),
        ("A=\"$(hostname -I)\"", None),
        ("A=$(ip route | awk '{print $3}')", None),
        ("A=$(hostname)", None),
        ("A=\"`hostname`\"", None),
        ("A=`hostname`", None),
        ("A=(a b)", None),
        ("A=(a)", None),
        ("A = 1", None),
        ("A= 1", None),
        ("A=a b", None),
        ("A=a\"b\"'c'", Some("abc")),
        ("A=\"\\$x\"", Some("$x")),
        ("A=\"a\\nb\"", None),
        ("A=a\\nb", None),
        ("A=\"a\\db\"", None),
        ("A=a\\ b", Some("a b")),
        ("A=\"a\nb\"\nC=1", None),
        ("A=a\\\nb", None),
        ("A=", Some("")),
        ("A=\"\"", Some("")),
        ("A=1\nexport A", Some("1")),
        ("export A=1 B=2", Some("1")),
        ("A=1; B=2", Some("1")),
        ("A=1;", Some("1")),
        ("declare -x A=1", None),
        ("readonly A=1", Some("1")),
        ("echo hi", Some("-")),
        ("if true; then\nA=1\nfi", None),
        ("source /etc/x", None),
        ("set -a\nA=1", Some("1")),
        ("A=1\nA=2", None),
        ("A=1\nA=\"$A,2\"", None),
        ("   export A=1", Some("1")),
        ("A=1\t# c", Some("1")),
        ("A=1\r\nB=2\r\n", Some("1")),
        ("\u{feff}A=1", None),
        ("A=1", Some("1")),
        ("lan_if=x", Some("-")),
        ("A.B=1", Some("-")),
        ("A-B=1", Some("-")),
        ("1A=x", Some("-")),
        ("A=\"x", None),
        ("A='x", None),
        ("A=\"a # b\"", Some("a # b")),
        ("A=a=b", Some("a=b")),
        ("A=1\nA+=2", None),
        ("A=~/x", None),
        ("A=$((1+2))", None),
        ("A=$'a\\nb'", None),
        ("A=é", Some("é")),
        ("A=a\0b", None),
        ("# c\n\nA=1", Some("1")),
        ("# A=0\nA=1 # was A=0", Some("1")),
        ("B=1/2\nA=${B%%/*}", None),
        ("A=1\nfoo bar\nB=2", Some("1")),
    ];

    #[test]
    fn each_of_the_72_forms_has_its_verdict_and_a_shell_agrees_with_what_is_accepted() {
        for (text, verdict) in FORMS {
            match (read(text), verdict) {
                (Ok(found), Some(value)) => {
                    let own = found.iter().find(|one| one.key == "A").map(|one| one.value.as_str());
                    assert_eq!(own.unwrap_or("-"), value, "{text:?}");
                    assert_eq!(values(&found), by_shell(text), "{text:?}");
                }
                (Err(errors), None) => {
                    assert!(errors.iter().all(|e| e.line >= 1 && !e.message.is_empty()))
                }
                (got, _) => panic!("{text:?}: {got:?} where {verdict:?} was wanted"),
            }
        }
    }

    #[test]
    fn lines_that_cannot_change_a_wanted_value_may_hold_anything() {
        for text in [
            "WAN_IP=$(curl -s \"https://x/?a=1\" | sed 's/A=1/A=2/')\nA=1\n",
            "if [ -z \"$A\" ]; then\n  echo \"A=9\"\nfi\nA=1\n",
            "export WAN_IF=${WAN_IF:-enp0s3}\nA=1\nMASK=$((32 - A))\n",
            "cat <<EOF >/dev/null\nA=5\nEOF\nA=1\n",
            "NOTE='\nA=5\n'\nA=1\n",
            "f() {\n  local x=1\n  B=2\n}\nf\nA=1\n",
            "for i in a b; do echo $i; done\nA=1\n",
            "case $X in a|b) B=1 ;; *) ;; esac\nA=1\n",
            "[ -d /x ] && B=1\nA=1 # it's\n",
            "unset B; read -r D </dev/null\nA=1\n",
            "A=1\nexport A B\n",
            "true 2>/dev/null || B=3\nA=1\n",
        ] {
            assert_eq!(values(&read(text).unwrap()), by_shell(text), "{text:?}");
            assert_eq!(values(&read(text).unwrap()), "<1|>", "{text:?}");
        }
    }

    #[test]
    fn what_could_change_a_wanted_value_is_refused_at_its_line() {
        for text in [
            "\nif true; then A=1; fi",
            "\nA=1 && A=2",
            "\nA=1 | true",
            "\nA=1 &",
            "\n(A=1)",
            "\n{ A=1; }",
            "\nf() { A=1; }",
            "\nwhile false; do A=1; done",
            "\nfor A in 1; do :; done",
            "\ncase x in x) A=1;; esac",
            "\n: ${A:=1}",
            "\n: ${A=1}",
            "\n: $((A=1))",
            "\n: $((A++))",
            "\ncat <<E\n${A:=1}\nE",
            "\n. /etc/x",
            "\nsource /etc/x",
            "\neval A=1",
            "\n'eval' A=1",
            "\ncommand eval A=1",
            "\nunset A",
            "\nread A",
            "\nread $x",
            "\nexport $x",
            "\n$cmd A=1",
            "\n\"$cmd\"",
            "\nexit 0",
            "\nset -u",
            "\nset -n",
            "\nalias export=:",
            "\nexport() { :; }",
            "\ntrap 'A=1' EXIT",
            "\nexec true",
            "\ndeclare A=1",
            "\ntypeset A",
            "\nA=x some-command",
            "\nA=~/x",
            "\nA=x:~",
            "\nA=[a]",
            "\nA={a,b}",
            "\nA=$1",
            "\nA=$?",
            "\nB=$(id -u)\nA=$B",
            "\nf() { B=3; }\nB=2\nf\nA=$B",
            "\nB=2 true\nA=$B",
            "\nA=$RANDOM",
            "\nA=$PWD",
            "\nreadonly B=1\nB=2\nA=1",
            "\nexport A = 1",
            "\n>x A=1",
            "\n2>/dev/null A=1",
            "\ntrue;; A=1",
            "\nA=1 )",
            "\nfi\nA=1",
            "\nif true; A=1; fi",
            "\necho a &&\nA=1",
            "\nexport C='a b' A=$C",
            "\nA=1 \\\n",
            "\ncat <<E\nA=1\n",
            "\nX=\"${Y:-it's}\"\nA=1\nZ='\n'",
            "\nA=\u{1b}[31m",
            "\nprintf -v A 1",
            "\n[[ a = a ]]",
            "\nf() C=x",
            "\nexport B=7 A=$B",
            "\ntrue[\nA=1",
            "\nB=x$[\nA=1",
            "\nB=x&>&2\nA=1",
            "\nB+=x exit\nA=1",
        ] {
            let errors = read(text).expect_err(text);
            assert!(errors.iter().all(|error| error.line >= 2), "{text:?}: {errors:?}");
        }
    }

    #[test]
    fn the_message_names_the_line_and_shows_what_to_write() {
        let of = |text: &str| {
            let errors = ShellVars::parse(text.as_bytes()).read(&["LAN_NM", "LAN_IF"], &|_| None).unwrap_err();
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        for (text, message) in [
            (
                "#\nexport LAN_NM=\"$(ipcalc -p 192.168.1.5/24)\"\n",
                "line 2: LAN_NM=\"$(ipcalc -p 192.168.1.5/24)\" needs a shell (a command), and this file is read, not run. Write the value itself: export LAN_NM=\"24\"",
            ),
            (
                "LAN_NM=24\n\nLAN_NM=16\n",
                "line 3: LAN_NM is doubled: \"16\" here, and line 1 says \"24\". Remove one of them",
            ),
            (
                "if true; then\n  LAN_IF=a\nfi\n",
                "line 2: LAN_IF is set inside the `if` of line 1, and this file is read, not run. Write it on a line of its own: export LAN_IF=\"enp0s8\"",
            ),
            (
                ". /etc/network.env\n",
                "line 1: `. /etc/network.env` could change a value that this file gives, and it is read, not run. Write the values themselves, and remove the line",
            ),
            (
                "LAN_IF = a\n",
                "line 1: has blanks around =, which makes LAN_IF a command. Write export LAN_IF=\"enp0s8\"",
            ),
            ("LAN_IF=a b\n", "line 1: `LAN_IF=a b` sets LAN_IF for one command only. Write export LAN_IF=\"enp0s8\""),
            (
                "LAN_IF=\"a\n",
                "line 1: a shell stops here, because a \" that does not end: what follows is not read. Mend the line, or remove it",
            ),
        ] {
            assert_eq!(of(text), message);
        }
    }

    #[test]
    fn assignments_on_one_line_are_made_one_after_the_other() {
        for text in ["B=7 A=$B\n", "B=7; A=$B\n", "B=7; export A=$B\n", "A=7; export A=$A C=1\n"] {
            assert_eq!(values(&read(text).unwrap()), by_shell(text), "{text:?}");
            assert_eq!(value_of_a(text), "7", "{text:?}");
        }
    }

    fn value_of_a(text: &str) -> String {
        read(text).unwrap().into_iter().find(|one| one.key == "A").unwrap().value
    }

    #[test]
    fn a_value_that_doubles_itself_ends() {
        let text = format!("A=x\n{}", "B=$A$B$B\n".repeat(60));
        assert_eq!(read(&text).unwrap().len(), 1);
        assert!(read(&format!("{text}C=$B\n")).is_err());
    }

    #[test]
    fn every_wrong_line_is_named_at_once() {
        let errors = read("A=$(x)\nC=`y`\n. z\n").unwrap_err();
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_value_is_set_in_place_with_its_quotes_and_comment() {
        for (before, after) in [
            ("# x\nTCP_MODE=\"tcp\" # c\n", "# x\nTCP_MODE=\"atcp\" # c\n"),
            ("TCP_MODE=tcp\n", "TCP_MODE=atcp\n"),
            ("export TCP_MODE='tcp'\r\nX=1\r\n", "export TCP_MODE='atcp'\r\nX=1\r\n"),
            ("TCP_MODE=\"atcp\"", "TCP_MODE=\"atcp\""),
            ("X=1", "X=1\nTCP_MODE=\"atcp\"\n"),
            ("X=1\r\n", "X=1\r\nTCP_MODE=\"atcp\"\r\n"),
            ("#TCP_MODE=\"x\"\n", "#TCP_MODE=\"x\"\nTCP_MODE=\"atcp\"\n"),
            ("TCP_MODE=\n", "TCP_MODE=atcp\n"),
            ("TCP_MODE=$(x)\n", "TCP_MODE=atcp\n"),
            ("TCP_MODE=a\nTCP_MODE=b; X=1\n", "TCP_MODE=atcp\nTCP_MODE=atcp; X=1\n"),
            ("", "TCP_MODE=\"atcp\"\n"),
        ] {
            let mut file = ShellVars::parse(before.as_bytes());
            file.set("TCP_MODE", "atcp").unwrap();
            assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), after);
            assert_eq!(file.get("TCP_MODE").unwrap().as_deref(), Some("atcp"));
        }
    }

    #[test]
    fn set_refuses_what_would_not_be_the_last_word() {
        for (text, key, value) in [
            ("", "X", "a\nb"),
            ("", "X", "a\"b"),
            ("", "X", "$a"),
            ("", "X Y", "a"),
            ("if x; then X=1; fi\n", "X", "a"),
            (". /etc/x\n", "X", "a"),
            ("X=\"1\n2\"\n", "X", "a"),
            ("Y='", "X", "a"),
            ("X=1 \\", "X", "a"),
        ] {
            let mut file = ShellVars::parse(text.as_bytes());
            assert!(file.set(key, value).is_err(), "{text:?}");
            assert_eq!(file.to_bytes(), text.as_bytes());
        }
    }

    fn shell_like() -> impl Strategy<Value = String> {
        const PIECES: &[&str] = &[
            "A=1",
            "A=2",
            "C=x",
            "B=7",
            "B=",
            "A=$B",
            "C=\"${B}\"",
            "A=\"a b\"",
            "C='q'",
            "A=1 ",
            "export ",
            "readonly ",
            "A",
            "C",
            "unset ",
            "B",
            "read ",
            " ",
            " ",
            "\n",
            "\n",
            "\n",
            ";",
            ";;",
            "&",
            "&&",
            "|",
            "||",
            "(",
            ")",
            "{ ",
            " }",
            "if ",
            "true",
            "false",
            "; then ",
            "\nthen\n",
            "; else ",
            "; fi",
            "\nfi\n",
            "while false",
            "; do ",
            "; done",
            "for A in x",
            "case x in ",
            "x) ",
            "y) ",
            "esac",
            "f() ",
            "\n f \n",
            "#",
            " # c",
            "'",
            "\"",
            "\\",
            "\\\n",
            "$",
            "`",
            "$(",
            "$((",
            "))",
            "${A:=3}",
            "${B:-4}",
            "${B",
            "}",
            "<<E\n",
            "\nE\n",
            "<<-'E'\n",
            ">",
            ">&2",
            "2>&1",
            " </dev/null",
            ":",
            "eval ",
            "exit",
            "return",
            ". ",
            "echo ",
            "=",
            "+=",
            "~",
            "!",
            "[",
            "x",
            "set -a",
            "set -e",
            "\t",
            "*",
            "é",
            "$IFS",
            "$HOME",
        ];
        // A function that calls itself, and arithmetic on what is no number, end a shell in ways that no reader can
        // foresee.
        let calls_itself = |text: &String| text.contains("f()") && text.replace("f()", "").contains("f ");
        let calculates = |text: &String| text.contains("$((") && text.matches('$').count() > 1;
        let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 1..14);
        let foreseeable = move |text: &String| !calls_itself(text) && !calculates(text);
        pieces.prop_map(|pieces| pieces.concat()).prop_filter("foreseeable", foreseeable)
    }

    proptest! {
        #[test]
        fn any_bytes_print_as_they_were_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = ShellVars::parse(&bytes);
            let _ = file.read(&["A"], &|_| None);
            prop_assert_eq!(file.to_bytes(), bytes);
            let _ = file.set("A", "1");
        }

        /// The promise of the whole file: what is accepted is what a shell would have.
        #[test]
        fn a_shell_agrees_with_whatever_is_accepted(text in shell_like()) {
            if let Ok(found) = read(&text) {
                prop_assert_eq!(values(&found), by_shell(&text));
            }
        }

        #[test]
        fn what_was_set_is_what_a_shell_has(text in shell_like()) {
            let mut file = ShellVars::parse(text.as_bytes());
            if file.set("A", "new").is_ok() {
                let after = String::from_utf8(file.to_bytes()).unwrap();
                for shell in ["/bin/dash", "/bin/bash"] {
                    prop_assert!(by(shell, &after).starts_with("<new|"), "{:?} became {:?}", text, after);
                }
            }
        }
    }
}
