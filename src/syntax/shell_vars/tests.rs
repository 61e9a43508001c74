//! What is accepted is what real shells, dash and bash, have after reading the file.

#[cfg(test)] // the mark by which tests/house.rs knows that commands may be started from here on
use std::process::{Command as Process, Stdio};

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

/// The same as a real shell has them after sourcing the file; `None` if it did not come to its end.
fn by_shell(shell: &str, text: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("vars"), text.replace("\r\n", "\n") + "\nREAD_TO_ITS_END=1\n").unwrap();
    let script = ". ./vars; printf 'BEGIN%s<%s|%s>END' \"$READ_TO_ITS_END\" \"$A\" \"$C\"";
    let mut command = Process::new("/usr/bin/timeout");
    command.args(["5", shell, "-c", script]).current_dir(&directory);
    command.env_clear().env("HOME", HOME).env("PATH", "/nonexistent");
    let output = command.stdin(Stdio::null()).output().expect("timeout(1), dash and bash are needed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let marked = text.rsplit_once("BEGIN1").and_then(|(_, rest)| rest.split_once("END"));
    marked.map(|(own, _)| own.to_owned())
}

/// Who reads the file, has these values.
#[track_caller]
fn assert_shells_agree(text: &str, values: &str) {
    for shell in ["/bin/dash", "/bin/bash"] {
        if let Some(own) = by_shell(shell, text) {
            assert_eq!(own, values, "{shell} of {text:?}");
        }
    }
}

/// The 72 forms that were tried with dotenvy and dash before this reader was written. `Some`: accepted with
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
                assert_shells_agree(text, &values(&found));
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
        "alias ll='ls -l' grep=\"grep --color\"; unalias ll\nA=1\n",
        "set -euo pipefail\nA=1\n",
        "set -- -n x\nA=1\n",
        "trap 'rm -f \"$T\"' EXIT\nA=1\n",
        "if [[ -z $X && ! ( $Y =~ ^(a|b)$ ) ]]; then B=1; fi\nA=1\n",
        "LIST=(a 'b c' # if\n  \"$(echo d)\")\nLIST+=(e)\nA=1\n",
        "declare -A MAP\nMAP[x]=1\nA=1\n",
        "function f { local x=1; return 1; }\nA=1\n",
        "f() { return 1; }\nA=1\n",
        "[ -f /x ] || { echo no >&2; false; }\n[ -d / ] || exit 1\nA=1\n",
        "B=${X:-a}${X:+b}${#X}\nA=1\n",
        "B=\"${X//a/b}${X^^}${X:0:3}${!X}\"\nA=1\n",
        "export -f f; shopt -s extglob\nA=1\n",
        "WAN_IP=$(ip -4 addr show \"$WAN_IF\" | awk '/inet /{print $2}' | cut -d/ -f1)\nA=1\n",
        "X=$(case $Y in a) echo \")\" ;; esac)\nA=1\n",
        "((X++)); for ((i=0; i<A; i++)); do :; done\nA=1\n",
        "while read -r l; do echo \"$l\"; done </etc/hosts\nA=1\n",
        "diff <(echo a) <(echo a); cat <<<x\nA=1\n",
        "case $- in *i*) PS1='$ ' ;; *) : ;; esac\nA=1\n",
        "export WAN_X=\"a\" \\\n  WAN_Y=b\nA=1\n",
        "export A=1 \\\n  B=2\n",
        "B=1 A=$B\n",
        "B=1; A=$B\n",
        "B=1; export A=$B\n",
        "X+=a Y[2]=b true\nA=1\n",
        "read -r -p 'name? ' B </dev/null; printf -v D x; getopts ab o\nA=1\n",
        "echo x &>/dev/null; echo y &>>/dev/null || true\nA=1\n",
        "exec 3>&1 2>/dev/null; umask 022; cd / || exit\nA=1\n",
        "echo $'a' $\"b\"; time ls; coproc ls\nA=1\n",
        "# it's\necho \"it's\" 'a \"b' \\\"\nA=1\n",
        "cat <<-'E' >/dev/null\n\t$(A=5 ` \"\n\tE\nA=1\n",
    ] {
        assert_shells_agree(text, "<1|>");
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
        "\nset -n",
        "\nalias export=:",
        "\nexport() { :; }",
        "\ntrap 'A=1' EXIT",
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
        "\nexport A = 1",
        "\n>x A=1",
        "\n2>/dev/null A=1",
        "\ntrue;; A=1",
        "\nA=1 )",
        "\nfi\nA=1",
        "\nif true; A=1; fi",
        "\necho a &&\nA=1",
        "\nexport C='a b' A=$C",
        "\ncat <<E\nA=1\n",
        "\nX=\"${Y:-it's}\"\nA=1\nZ='\n'",
        "\nA=\u{1b}[31m",
        "\nprintf -v A 1",
        "\nreturn",
        "\n[ -n \"$PS1\" ] || return\nA=1",
        "\nlet A=2",
        "\n((A++))",
        "\n: $(( \"A\" = 1 ))",
        "\n: $(( $(echo \")\") , A=1 ))",
        "\n((A=1) || (B=2))",
        "\nfor ((A=1; A<3; A++)); do :; done",
        "\nset -- x\nfor B do A=2; done",
        "\nselect A in x; do break; done",
        "\nmapfile -t A",
        "\ndeclare -n B=A\nB=2",
        "\ngetopts a A",
        "\nbuiltin read A",
        "\ncommand -p read A",
        "\ntrap 'A=2' DEBUG",
        "\ntrap \"$x\" DEBUG",
        "\nalias f='A=2'\nf",
        "\nfunction export { :; }",
        "\nfunction f { A=2; }",
        "\nenable -n export",
        "\nA[0]=2",
        "\nexport A+=2",
        "\nset -k",
        "\nIFS=1\nB=515\nexport A=$B",
        "\ntime A=2",
        "\nB=$'a\\'; A=2 #'",
        "\nX=(a b\nA=1",
        "\nB=$((1/0)); A=1",
        "\nB=${!X} A=1",
        "\n{ B=$((1/0)); }; A=1",
        "\nif true; then\nB=$((1/0)); fi; A=1",
        "\nf() { B=$((1/0)); }\nf; A=1",
        "\necho >${!X}; A=1",
        "\ncase ${!X} in esac; A=1",
        "\n((1/0)); A=1",
        "\nreadonly B; B=2; A=1",
        "\ndeclare -i B\nB=1/0; A=1",
        "\nB=1\nf() { return 1; }; B=2\nA=$B",
        "\nB=7 export A=$B",
        "\nexport B=7 A=$B",
        "\ntrue[\nA=1",
        "\n: $[A=1]",
        "\nB+=x unset A",
        "\nB+=x A=2",
        "\nB[0]=x read A",
        "\nreadonly A\nA=1",
        "\nexport 'A=1'",
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
        ("LAN_IF = a\n", "line 1: has blanks around =, which makes LAN_IF a command. Write export LAN_IF=\"enp0s8\""),
        ("LAN_IF=a b\n", "line 1: `LAN_IF=a b` sets LAN_IF for one command only. Write export LAN_IF=\"enp0s8\""),
        (
            "LAN_IF=\"a\n",
            "line 1: cannot be followed, because it has a \" that does not end. Mend the line, or remove it",
        ),
    ] {
        assert_eq!(of(text), message);
    }
}

#[test]
fn a_value_that_doubles_itself_ends() {
    let text = format!("A=x\n{}", "B=$A$B$B\n".repeat(60));
    assert_eq!(read(&text).unwrap().len(), 1);
    assert!(read(&format!("{text}C=$B\n")).is_err());
}

/// A long file is read once, not once for each of its bytes.
#[test]
fn a_long_file_takes_no_time() {
    const PIECES: &str = "x ( ) (( $(( $( ${ ` ' \" \\ A=1; B=$B& {\t # <<E\t <<E\n$(\nE\n $((1+A)) ((A))\n ((a)\tb)\n a&& [[\t( x=(a)\n $' \
        ${A:- case\tx\tin\t alias\ta=b\n f(){\tx;}\n $((a; \"$(( A=2\n export\tA=$(x)\n";
    let long = |piece: &str, length: usize| piece.repeat(length / piece.len());
    let mut texts = vec![long("x", 1 << 20), format!("A=\"{}\"\n", long("x ", 1 << 20))];
    texts.extend(PIECES.split(' ').flat_map(|piece| {
        let text = long(piece, 1 << 16);
        [format!("A=\"{text}"), text]
    }));
    for text in texts {
        let started = std::time::Instant::now();
        let _ = read(&text);
        let _ = ShellVars::parse(text.as_bytes()).set("A", "1");
        assert!(started.elapsed().as_secs() < 10, "{:?} for {:?}…", started.elapsed(), &text[..text.len().min(30)]);
    }
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
    const PIECES: &str = "\
        A=1¦A=2¦C=x¦B=7¦B=¦A=$B¦C=\"${B}\"¦A=\"a b\"¦C='q'¦A=1 ¦export ¦readonly ¦[[ ¦ ]]¦((¦A++¦B=(¦function f ¦\
        <<<¦<(¦$'¦local ¦declare ¦alias f=¦set -- ¦for x do ¦for x in ¦time ¦coproc ¦select x in ¦;&¦&>¦|&¦${B//¦\
        ${!B}¦A¦C¦unset ¦B¦read ¦ ¦ ¦\n¦\n¦\n¦;¦;;¦&¦&&¦|¦||¦(¦)¦{ ¦ }¦if ¦true¦false¦; then ¦\nthen\n¦; else ¦\
        ; fi¦\nfi\n¦while false¦; do ¦; done¦for A in x¦case x in ¦x) ¦y) ¦esac¦f() ¦\n f \n¦#¦ # c¦'¦\"¦\\¦\\\n¦\
        $¦`¦$(¦$((¦))¦${A:=3}¦${B:-4}¦${B¦}¦<<E\n¦\nE\n¦<<-'E'\n¦>¦>&2¦2>&1¦ </dev/null¦:¦eval ¦exit¦return¦. ¦\
        echo ¦=¦+=¦~¦!¦[¦x¦set -a¦set -e¦$[¦]¦B[¦B+=¦\t¦*¦é¦$IFS¦$HOME";
    // A function that calls itself ends a shell in a way that no reader can foresee.
    let calls_itself = |text: &String| text.contains("f()") && text.replace("f()", "").contains("f ");
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES.split('¦').collect::<Vec<_>>()), 1..14);
    pieces.prop_map(|pieces| pieces.concat()).prop_filter("no recursion", move |text| !calls_itself(text))
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
            assert_shells_agree(&text, &values(&found));
        }
    }

    #[test]
    fn what_was_set_is_what_a_shell_has(text in shell_like()) {
        let mut file = ShellVars::parse(text.as_bytes());
        if file.set("A", "new").is_ok() {
            let after = String::from_utf8(file.to_bytes()).unwrap();
            for shell in ["/bin/dash", "/bin/bash"] {
                let own = by_shell(shell, &after).unwrap_or("<new|".to_owned());
                prop_assert!(own.starts_with("<new|"), "{:?} became {:?}: {} in {}", text, after, own, shell);
            }
        }
    }
}
