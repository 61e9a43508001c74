//! policy.toml: every key that it knows, and refusals that name the line.

mod fixture;

use fixture::Fixture;

const CONFIG_ENV: &str = "/root/config.env";
const POLICY: &str = "/etc/harden-portsentry/policy.toml";

#[test]
fn an_unknown_key_of_the_policy_is_named_with_its_line_and_what_was_meant() {
    let fixture = Fixture::debian(12);
    for (text, says) in [
        ("# mine\nbantme = \"1d\"\n", &["line 2", "`bantme`", "did you mean `bantime`?"][..]),
        ("fail2bna = false\n", &["line 1", "did you mean `fail2ban`?"]),
        ("[lan]\n\nadress = \"192.168.1.5\"\n", &["line 3", "did you mean `address`?"]),
        ("wholly_unknown = 1\n", &["line 1", "`wholly_unknown`", "`mend_sshd_jail`"]),
        ("[[ssh_client]]\naddress = \"203.0.113.7\"\nconfirmd = \"2026-11-24\"\n", &["line 3", "`confirmed`"]),
    ] {
        fixture.write(POLICY, text);
        fixture.refuses(&[&["policy.toml"], says].concat());
    }
}

#[test]
fn a_wrong_value_of_the_policy_is_named_with_its_line() {
    let fixture = Fixture::debian(12);
    for (text, says) in [
        ("response = \"drp\"\n", &["line 1", "did you mean `drop`?"][..]),
        ("\nfail2ban = \"no\"\n", &["line 2", "boolean"]),
        ("bantime = \"1y\"\n", &["line 1", "\"1d\""]),
        ("safe = [\"10.0.0.0/33\"]\n", &["line 1", "10.0.0.0/33"]),
        ("safe = [\"0.0.0.0/0\"]\n", &["line 1", "every host of the world"]),
        ("engine = \"embeded\"\n", &["line 1", "did you mean `embedded`?"]),
        ("fail2ban = yes\n", &["line 1"]),
        ("fail2ban = true\nfail2ban = true\n", &["line 2", "duplicate"]),
    ] {
        fixture.write(POLICY, text);
        fixture.refuses(&[&["policy.toml"], says].concat());
    }
}

#[test]
fn a_policy_file_that_is_named_and_missing_is_an_error() {
    let fixture = Fixture::debian(12);
    fixture.run(&["diff", "--policy", "/nowhere/policy.toml"]).exits(1).says("/nowhere/policy.toml");
    fixture.run(&["diff", "--config-env", "/nowhere/config.env"]).exits(1).says("/nowhere/config.env");
}

#[test]
fn a_policy_that_others_could_write_is_refused() {
    let fixture = Fixture::debian(12);
    fixture.write(POLICY, "response = \"drop\"\n");
    fixture.chmod(POLICY, 0o664);
    fixture.refuses(&["policy.toml", "mode 0664", "chmod go-w"]);
    fixture.chmod(POLICY, 0o644);
    fixture.run(&["diff"]).exits(2);
}

#[test]
fn addresses_of_the_policy_with_line_breaks_or_quotes_are_refused() {
    let fixture = Fixture::debian(12);
    for value in ["10.0.0.1\\nALL: ALL", "10.0.0.1\\\"", "\\u001b[2J"] {
        fixture.write(POLICY, format!("safe = [\"{value}\"]\n"));
        let output = fixture.run(&["diff"]).exits(1).says("line 1").says("no address or network");
        assert!(!output.stderr.contains('\u{1b}'), "a file must not paint the terminal: {output}");
    }
    fixture.write(POLICY, "[[ssh_client]]\naddress = \"203.0.113.7\"\nconfirmed = \"now\\nALL: ALL\"\n");
    fixture.run(&["diff"]).exits(1);
}

#[test]
fn the_policy_may_say_yes_to_a_wide_lan() {
    let fixture = Fixture::debian(12);
    fixture.write(CONFIG_ENV, "LAN_IF=a\nLAN_IP=10.1.2.3\nLAN_NM=8\nLAN_GW=10.1.2.3\n");
    fixture.write(POLICY, "[lan]\nwide = true\n");
    let applied = fixture.run(&["apply", "--yes"]);
    assert!(matches!(applied.status, 0 | 3), "{applied}");
}

#[test]
fn the_environment_wins_over_the_policy_and_both_do_without_config_env() {
    let fixture = Fixture::debian(12);
    std::fs::remove_file(fixture.path(CONFIG_ENV)).expect("the fixture has one");
    let environment = &[("LAN_IP", "10.3.0.1"), ("LAN_GW", "10.3.0.1")];
    let lan = "[lan]\ninterface = \"pol0\"\naddress = \"10.4.0.1\"\nnetmask = \"24\"\ngateway = \"10.4.0.1\"\n";
    fixture.write(POLICY, lan);
    fixture.run(&["diff"]).exits(2).says("10.4.0.0/24").says("policy.toml, line 3");
    fixture.run_with(&["diff"], environment).exits(2).says("10.3.0.0/24").says("environment variable LAN_IP");
}

#[test]
fn a_jail_that_fail2ban_cannot_read_is_named_before_it_stops_all_of_them() {
    let fixture = Fixture::debian(12);
    fixture.write("/etc/fail2ban/jail.local", "[sshd]\nenabled = true\n  \nnot an option\n");
    fixture.run(&["diff"]).exits(2).says("/etc/fail2ban/jail.local, line 4").says("does not start");
}

#[test]
fn fail2ban_can_be_left_out_and_taken_out() {
    let fixture = Fixture::debian(12);
    fixture.apply();
    assert!(fixture.path("/etc/fail2ban/jail.d/portsentry.conf").exists());
    fixture.write(POLICY, "fail2ban = false\n");
    fixture.run(&["diff"]).exits(2).says("remove /etc/fail2ban/jail.d/portsentry.conf");
    fixture.apply();
    for directory in ["jail.d", "filter.d", "action.d"] {
        let names = std::fs::read_dir(fixture.path(&format!("/etc/fail2ban/{directory}"))).into_iter().flatten();
        let ours = names.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("portsentry")).count();
        assert_eq!(ours, 0, "{directory}");
    }
}
