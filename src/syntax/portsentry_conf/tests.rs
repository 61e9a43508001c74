use super::Dialect::{V1, V2};
use super::*;
use proptest::prelude::*;

fn conf(text: &str) -> PortsentryConf {
    PortsentryConf::parse(text.as_bytes()).unwrap()
}

fn after_set(text: &str, key: &str, value: &str) -> String {
    let mut conf = conf(text);
    conf.set(key, value).unwrap();
    let once = conf.to_bytes();
    conf.set(key, value).unwrap();
    assert_eq!(conf.to_bytes(), once, "setting it twice changed something");
    assert_eq!(conf.get(key, V1).as_deref(), Some(value));
    assert_eq!(conf.get(key, V2).as_deref(), Some(value));
    assert_eq!(conf.all(key).len(), 1);
    String::from_utf8(once).unwrap()
}

/// The table of the module's doc comment, as the two programs answered.
#[test]
fn get_answers_what_the_daemons_answered() {
    let cases: &[(&str, Option<&str>, Option<&str>)] = &[
        ("TCP_PORTS=\"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"11\"", Some("11"), Some("11")),
        ("TCP_PORTS = \"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS    =    \"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS\t=\"11\"\n", None, Some("11")),
        ("TCP_PORTS=\t\"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"11\"\r\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"11\" # was \"12\"\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"11\"junk\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"1 \"2\" 3\"\n", Some("1 "), Some("1 ")),
        ("TCP_PORTS=\"1\\\"2\"\n", Some("1\\"), Some("1\\")),
        ("TCP_PORTS=\"1\t2\"\n", Some("1"), Some("1\t2")),
        ("TCP_PORTS=\"é\"\n", Some(""), Some("é")),
        ("TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n", Some("11"), Some("12")),
        ("#TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n", Some("12"), Some("12")),
        (" #TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n", Some("12"), Some("12")),
        ("XTCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n", Some("12"), Some("12")),
        ("TCP_PORTSX=\"11\"\nTCP_PORTS=\"12\"\n", Some("12"), Some("12")),
        ("BLOCK_TCP=\"0\" #TCP_PORTS\nTCP_PORTS=\"12\"\n", Some("0"), Some("12")),
        ("TCP_PORTS=\"\"\nTCP_PORTS=\"12\"\n", Some(""), Some("12")),
        ("TCP_PORTS \"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS=foo \"11\"\n", Some("11"), Some("11")),
        ("TCP_PORTS=\"11\n", Some("11"), Some("11")),
        ("", None, None),
    ];
    for (text, v1, v2) in cases {
        assert_eq!(conf(text).get("TCP_PORTS", V1).as_deref(), *v1, "1.2 on {text:?}");
        assert_eq!(conf(text).get("TCP_PORTS", V2).as_deref(), *v2, "2.0 on {text:?}");
    }
}

#[test]
fn one_key_is_not_another_that_starts_the_same() {
    let text = "KILL_RUN_CMD_FIRST = \"1\"\nKILL_RUN_CMD=\"x\"\n";
    assert_eq!(conf(text).get("KILL_RUN_CMD", V1).as_deref(), Some("x"));
    assert_eq!(after_set(text, "KILL_RUN_CMD", "y"), "KILL_RUN_CMD_FIRST = \"1\"\nKILL_RUN_CMD=\"y\"\n");
    assert_eq!(conf("KILL_RUN_CMD_FIRST=\"1\"\n").get("KILL_RUN_CMD", V2), None);
}

#[test]
fn the_rest_of_a_long_comment_is_a_line_to_the_daemons() {
    let text = format!("#{}TCP_PORTS=\"11\"\nTCP_PORTS=\"12\"\n", "x".repeat(1022));
    assert_eq!(conf(&text).get("TCP_PORTS", V1).as_deref(), Some("11"));
    assert_eq!(conf(&text).problems(V1).len(), 2);
    assert_eq!(conf(&text).problems(V2).len(), 1);
}

#[test]
fn set_edits_in_place_and_keeps_spacing_and_what_follows() {
    let cases = [
        ("RESOLVE_HOST = \"0\" # dns\nX=\"1\"\n", "RESOLVE_HOST = \"1\" # dns\nX=\"1\"\n"),
        ("RESOLVE_HOST=\"0\"\r\n", "RESOLVE_HOST=\"1\"\r\n"),
        ("RESOLVE_HOST=\"0\"", "RESOLVE_HOST=\"1\""),
        ("RESOLVE_HOST\t=\"0\"\n", "RESOLVE_HOST=\"1\"\n"),
        ("RESOLVE_HOST \"0\"\n", "RESOLVE_HOST=\"1\"\n"),
        ("RESOLVE_HOST=\"0\n", "RESOLVE_HOST=\"1\"\n"),
        ("RESOLVE_HOST=\"0\"\nRESOLVE_HOST=\"2\"\n", "RESOLVE_HOST=\"1\"\n#RESOLVE_HOST=\"2\"\n"),
        ("RESOLVE_HOST=\"0\"\nRESOLVE_HOST=\"1\"\n", "#RESOLVE_HOST=\"0\"\nRESOLVE_HOST=\"1\"\n"),
    ];
    for (before, after) in cases {
        assert_eq!(after_set(before, "RESOLVE_HOST", "1"), after);
    }
}

#[test]
fn an_absent_key_goes_below_its_last_commented_example_or_to_the_end() {
    let cases = [
        (
            "#KILL_ROUTE=\"a\"\n# KILL_ROUTE = \"b\"\n#\nX=\"1\"\n",
            "#KILL_ROUTE=\"a\"\n# KILL_ROUTE = \"b\"\nKILL_ROUTE=\"r\"\n#\nX=\"1\"\n",
        ),
        ("# KILL_ROUTE is for routes\nX=\"1\"\n", "# KILL_ROUTE is for routes\nX=\"1\"\nKILL_ROUTE=\"r\"\n"),
        ("X=\"1\"", "X=\"1\"\nKILL_ROUTE=\"r\"\n"),
        ("#KILL_ROUTE=\"a\"", "#KILL_ROUTE=\"a\"\nKILL_ROUTE=\"r\"\n"),
        ("#KILL_ROUTE=\"a\"\r\n\r\n", "#KILL_ROUTE=\"a\"\r\nKILL_ROUTE=\"r\"\r\n\r\n"),
        ("", "KILL_ROUTE=\"r\"\n"),
    ];
    for (before, after) in cases {
        assert_eq!(after_set(before, "KILL_ROUTE", "r"), after);
    }
}

#[test]
fn set_refuses_what_a_daemon_would_read_differently() {
    let long = "x".repeat(1020);
    for value in ["", "a\nb", "a\0b", "a\"b", "a\tb", "é", "a\rb", &long] {
        let mut conf = conf("KILL_ROUTE=\"a\"\n");
        assert!(conf.set("KILL_ROUTE", value).is_err(), "{value:?}");
        assert_eq!(conf.to_bytes(), b"KILL_ROUTE=\"a\"\n");
    }
    let trailing = format!("KILL_ROUTE=\"a\" # {}\n", "x".repeat(900));
    assert!(conf(&trailing).set("KILL_ROUTE", &"y".repeat(200)).is_err());
    for key in ["", "a", "A B", "A=", "1A", "A\"", "A\n"] {
        assert!(conf("").set(key, "v").is_err(), "{key:?}");
    }
}

#[test]
fn comment_out_leaves_no_active_line() {
    let mut conf = conf("BLOCK_TCP=\"1\"\nX=\"1\"\nBLOCK_TCP = \"2\"\n");
    conf.comment_out("BLOCK_TCP");
    conf.comment_out("BLOCK_TCP");
    assert_eq!(conf.to_bytes(), b"#BLOCK_TCP=\"1\"\nX=\"1\"\n#BLOCK_TCP = \"2\"\n");
}

#[test]
fn what_no_daemon_reads_is_an_error_with_line_and_remedy() {
    let cases = [
        (
            " TCP_PORTS=\"11\"",
            "line 2: \" TCP_PORTS=\"11\"\" has a blank before its key, which hides it from portsentry 1.2 and keeps 2.0 from starting. Write TCP_PORTS=\"11\"",
        ),
        ("tcp_ports=\"11\"", "line 2: \"tcp_ports=\"11\"\" has a key that is not in capitals. Write TCP_PORTS=\"11\""),
        (
            "TCP_PORTS=11 # c",
            "line 2: \"TCP_PORTS=11 # c\" has no double quotes around its value. Write TCP_PORTS=\"11\"",
        ),
        ("TCP_PORTS='11'", "line 2: \"TCP_PORTS='11'\" has no double quotes around its value. Write TCP_PORTS=\"11\""),
        (
            "foo bar",
            "line 2: \"foo bar\" is neither a comment nor KEY=\"value\". Put # before it, or write KEY=\"value\"",
        ),
        (
            "TODO \"x\"",
            "line 2: \"TODO \"x\"\" is neither a comment nor KEY=\"value\". Put # before it, or write KEY=\"value\"",
        ),
        (
            "\u{feff}# c",
            "line 2: starts with a byte order mark, which hides the line from portsentry. Save the file without it: # c",
        ),
    ];
    for (line, message) in cases {
        let error = PortsentryConf::parse(format!("# c\n{line}\nX=\"1\"\n").as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn problems_are_what_this_generation_trips_over() {
    let cases = [
        ("TCP_PORTS=\"1\"\n# c\n\nRESOLVE_HOST = \"0\" # c\r\n", 0, 0),
        ("TCP_PORTS\t=\"1\"\n", 1, 0),
        ("TCP_PORTS \"1\"\n", 0, 1),
        ("TCP_PORTS=\"1\n", 0, 1),
        ("PORT_BANNER=\"é\"\n", 1, 0),
        ("PORT_BANNER=\"\"\n", 0, 1),
        ("ADVANCED_PORTS_TCP=\"1024\"\n", 0, 1),
        ("  \n # c\n", 0, 2),
        ("BLOCK_TCP=\"0\" #TCP_PORTS\nTCP_PORTS=\"12\"\n", 1, 0),
        ("BLOCK_TCP=\"0\"\nBLOCK_TCP=\"1\"\n", 1, 1),
        ("BLOCK_TCP=\"0\"\nBLOCK_TCP=\"0\"\n", 0, 0),
    ];
    for (text, v1, v2) in cases {
        assert_eq!(conf(text).problems(V1).len(), v1, "1.2 on {text:?}: {:?}", conf(text).problems(V1));
        assert_eq!(conf(text).problems(V2).len(), v2, "2.0 on {text:?}: {:?}", conf(text).problems(V2));
    }
}

#[test]
fn a_doubled_key_is_reported_with_the_line_that_wins() {
    let text = "BLOCK_TCP=\"0\"\nX=\"\"\nBLOCK_TCP=\"1\"\n";
    assert_eq!(
        conf(text).problems(V1)[0].to_string(),
        "line 3: BLOCK_TCP is doubled: portsentry 1.2 takes the first, line 1. Put # before the line that you do not mean"
    );
    assert_eq!(
        conf(text).problems(V2)[0].to_string(),
        "line 1: BLOCK_TCP is doubled: portsentry 2.0 takes the last, line 3. Put # before the line that you do not mean"
    );
}

fn conf_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"TCP_PORTS".to_vec()),
        Just(b"KILL_ROUTE=\"".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"=".to_vec()),
        Just(b"#".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
        Just(vec![b'x'; 600]),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn printing_gives_the_bytes_back(bytes in conf_like()) {
        if let Ok(conf) = PortsentryConf::parse(&bytes) {
            prop_assert_eq!(conf.to_bytes(), bytes);
            conf.problems(V1);
            conf.problems(V2);
        }
    }

    #[test]
    fn a_set_key_is_active_once_and_its_file_still_parses(bytes in conf_like(), value in "[ -!#-~]{1,20}") {
        if let Ok(mut conf) = PortsentryConf::parse(&bytes)
            && conf.set("TCP_PORTS", &value).is_ok()
        {
            let again = PortsentryConf::parse(&conf.to_bytes()).unwrap();
            prop_assert_eq!(again.all("TCP_PORTS").len(), 1);
            prop_assert_eq!(again.get("TCP_PORTS", V2).unwrap(), value);
        }
    }
}
