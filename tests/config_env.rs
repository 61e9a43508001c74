//! config.env: read by place, refused by place, never executed.

mod fixture;

use fixture::{Fixture, same};

const CONFIG_ENV: &str = "/root/config.env";

#[test]
fn files_that_others_could_write_are_refused() {
    let fixture = Fixture::debian(12);
    for mode in [0o664, 0o646, 0o666, 0o602] {
        fixture.chmod(CONFIG_ENV, mode);
        fixture.refuses(&["config.env", &format!("mode {mode:04o}"), "chmod go-w"]);
    }
    fixture.chmod(CONFIG_ENV, 0o600);
    fixture.chmod("/root", 0o775);
    fixture.refuses(&["/root", "chmod go-w"]);
}

/// config.env with one variable's line replaced.
fn config_env(name: &str, line: &str) -> String {
    let whole = [
        ("LAN_IF", "export LAN_IF=\"enp0s8\""),
        ("LAN_IP", "export LAN_IP=\"192.168.1.5\""),
        ("LAN_NM", "export LAN_NM=\"24\""),
        ("LAN_GW", "export LAN_GW=\"192.168.1.1\""),
    ];
    whole.map(|(key, text)| format!("{}\n", if key == name { line } else { text })).concat()
}

#[test]
fn missing_doubled_and_inconsistent_values_are_named_with_place_and_remedy() {
    let fixture = Fixture::debian(12);
    for (name, line, says) in [
        ("LAN_IP", "# nothing", &["does not set LAN_IP", "export LAN_IP="][..]),
        ("LAN_IP", "export LAN_IP=\"\"", &["line 2", "empty", "export LAN_IP="]),
        ("LAN_IP", "export LAN_IP=\"192.168.1.5 192.168.1.6\"", &["line 2", "more than one value"]),
        ("LAN_IP", "LAN_IP=192.168.1.5\nLAN_IP=192.168.1.6", &["line 3", "line 2", "Remove one"]),
        ("LAN_IP", "LAN_IP=192.168.1", &["line 2", "no address"]),
        ("LAN_IF", "LAN_IF=\"enp0s3 enp0s8\"", &["line 1", "one name"]),
        ("LAN_NM", "LAN_NM=255.255.0.255", &["line 3", "not a netmask", "24 or 255.255.255.0"]),
        ("LAN_NM", "LAN_NM=33", &["line 3", "from 1 to 32"]),
        ("LAN_NM", "LAN_NM=0", &["line 3", "every host of the world"]),
        ("LAN_GW", "LAN_GW=10.0.0.1", &["line 4", "not in the LAN 192.168.1.0/24"]),
        ("LAN_GW", "LAN_GW=fd00::1", &["line 4", "not in the LAN"]),
        ("LAN_NM", "LAN_NM=\"$(ipcalc -p 192.168.1.5/24)\"", &["line 3", "needs a shell", "export LAN_NM=\"24\""]),
        ("LAN_NM", "if true; then LAN_NM=24; fi", &["line 3", "on a line of its own"]),
        ("LAN_IF", "source /etc/network.env\nLAN_IF=enp0s8", &["line 1", "source /etc/network.env", "could change"]),
    ] {
        fixture.write(CONFIG_ENV, config_env(name, line));
        fixture.refuses(&[&["config.env"], says].concat());
    }
}

#[test]
fn every_bad_line_is_named_at_once() {
    let fixture = Fixture::debian(12);
    fixture.write(CONFIG_ENV, "LAN_IF=$(a)\nLAN_IP=$(b)\nLAN_NM=24\nLAN_GW=192.168.1.1\n");
    fixture.refuses(&["line 1: LAN_IF", "line 2: LAN_IP"]);
}

#[test]
fn lan_values_with_line_breaks_or_quotes_are_refused() {
    let fixture = Fixture::debian(12);
    for (flag, value) in [
        ("--lan-if", "en\np0"),
        ("--lan-if", "en\"p0"),
        ("--lan-if", "en p0"),
        ("--lan-if", "a/b"),
        ("--lan-ip", "192.168.1.5\n"),
        ("--lan-gw", "\"192.168.1.1\""),
        ("--lan-nm", "24\nALL: ALL"),
    ] {
        let name = flag.trim_start_matches("--").replace('-', "_").to_uppercase();
        let output = fixture.run(&["diff", flag, value]);
        // a line break at the end is what `$(…)` in a script may leave, and means nothing
        if value.trim() == "192.168.1.5" {
            output.exits(2);
        } else {
            output.exits(1).says(flag).says(&name);
        }
    }
    fixture.write(CONFIG_ENV, config_env("LAN_IF", "LAN_IF='en\np0'"));
    fixture.run(&["diff"]).exits(1).says("line 1").says("LAN_IF");
    fixture.write(CONFIG_ENV, config_env("LAN_IF", "LAN_IF='en\"p0'"));
    fixture.run(&["diff"]).exits(1).says("line 1").says("LAN_IF");
}

#[test]
fn a_wide_or_public_lan_needs_a_yes_of_its_own() {
    let fixture = Fixture::debian(12);
    for (address, mask, says) in
        [("192.168.1.5", "8", "public"), ("198.51.100.5", "24", "public"), ("10.1.2.3", "15", "wider than a /16")]
    {
        fixture.write(CONFIG_ENV, format!("LAN_IF=a\nLAN_IP={address}\nLAN_NM={mask}\nLAN_GW={address}\n"));
        let before = fixture.stamps();
        fixture.run(&["diff"]).exits(2).says(says).says("--accept-wide-lan");
        fixture.run(&["apply", "--yes"]).exits(1).says(says).says("--accept-wide-lan").says("Nothing was changed");
        same(&before, &fixture.stamps(), "nothing is written (left: before)");
        let applied = fixture.run(&["apply", "--yes", "--accept-wide-lan"]);
        assert!(matches!(applied.status, 0 | 3), "{applied}");
        fixture.run(&["undo", "--yes"]).exits(0);
    }
    fixture.write(CONFIG_ENV, "LAN_IF=a\nLAN_IP=10.1.2.3\nLAN_NM=16\nLAN_GW=10.1.2.3\n");
    fixture.run(&["diff"]).exits(2).says_not("--accept-wide-lan");
}

#[test]
fn flags_win_over_config_env_over_the_environment() {
    let fixture = Fixture::debian(12);
    let environment = &[("LAN_IP", "10.3.0.1"), ("LAN_GW", "10.3.0.1")];
    let flags = ["diff", "--lan-ip", "10.1.0.1", "--lan-gw", "10.1.0.1"];
    fixture.run_with(&["diff"], environment).exits(2).says("192.168.1.0/24").says("config.env, line 2");
    fixture.run_with(&flags, environment).exits(2).says("10.1.0.0/24").says("--lan-ip");
}
