//! The options of a rule (hosts_options(5)), as far as they decide who is let in. An option that libwrap cannot read
//! shuts the client out.

use super::rules::options;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// None of the options says it: hosts.allow allows, hosts.deny denies.
    OfTheFile,
    Allow,
    Deny,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    MayBe,
    Value,
}

/// An option's name, what it takes, and whether it has to be the last.
const KNOWN: [(&str, Takes, bool); 15] = [
    ("user", Takes::Value, false),
    ("group", Takes::Value, false),
    ("umask", Takes::Value, false),
    ("linger", Takes::Value, false),
    ("keepalive", Takes::Nothing, false),
    ("spawn", Takes::Value, false),
    ("aclexec", Takes::Value, false),
    ("twist", Takes::Value, true),
    ("rfc931", Takes::MayBe, false),
    ("setenv", Takes::Value, false),
    ("nice", Takes::MayBe, false),
    ("severity", Takes::Value, false),
    ("allow", Takes::Nothing, true),
    ("deny", Takes::Nothing, true),
    ("banners", Takes::Value, false),
];

const FACILITIES: [&str; 17] = [
    "kern", "user", "mail", "daemon", "auth", "lpr", "news", "uucp", "cron", "local0", "local1", "local2", "local3",
    "local4", "local5", "local6", "local7",
];
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// What stands behind a rule's second colon, its newline included. Users and groups are taken to exist.
pub(super) fn decide(text: &str) -> Decision {
    let options = options(text);
    for (index, option) in options.iter().enumerate() {
        let last = index + 1 == options.len();
        let (name, value) = name_and_value(option);
        let known = KNOWN.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let Some(&(name, takes, must_be_last)) = known else { return Decision::Deny };
        let wrong = match (takes, value) {
            (Takes::Nothing, Some(_)) | (Takes::Value, None) => true,
            _ => (must_be_last && !last) || value.is_some_and(|value| !is_valid(name, value)),
        };
        match name {
            _ if wrong => return Decision::Deny,
            "allow" => return Decision::Allow,
            // Another program answers in place of the daemon.
            "deny" | "twist" => return Decision::Deny,
            _ => {}
        }
    }
    Decision::OfTheFile
}

/// One `=` may stand between them.
fn name_and_value(option: &str) -> (&str, Option<&str>) {
    let option = option.trim_ascii();
    let Some(at) = option.find(['=', ' ', '\t', '\r', '\n']) else { return (option, None) };
    let rest = option[at..].trim_ascii_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim_ascii_start();
    (&option[..at], Some(value).filter(|value| !value.is_empty()))
}

fn is_valid(name: &str, value: &str) -> bool {
    let number = value.parse::<i32>();
    match name {
        "umask" => u32::from_str_radix(value, 8).is_ok_and(|mask| mask <= 0o777),
        "linger" => number.is_ok_and(|seconds| seconds >= 0),
        "nice" => number.is_ok(),
        "rfc931" => number.is_ok_and(|seconds| seconds > 0),
        "severity" => {
            let listed = |list: &[&str], name: &str| list.iter().any(|one| one.eq_ignore_ascii_case(name));
            match value.split_once('.') {
                Some((facility, level)) => listed(&FACILITIES, facility) && listed(&LEVELS, level),
                None => listed(&LEVELS, value),
            }
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::Decision::{Allow, Deny, OfTheFile};
    use super::decide;

    #[test]
    fn what_cannot_be_read_shuts_out() {
        for (text, wanted) in [
            (" ALLOW\n", Allow),
            (" severity info : deny\n", Deny),
            (" spawn a\\:b : severity mail.info\n", OfTheFile),
            ("nice = 5\n", OfTheFile),
            (" twist /bin/true\n", Deny),
            ("\n", Deny),
            (" allow : \n", Deny),
            (" allow now\n", Deny),
            (" allow : nice\n", Deny),
            (" severity loud\n", Deny),
            (" umask 888\n", Deny),
            (" unheard-of\n", Deny),
        ] {
            assert_eq!(decide(text), wanted, "{text:?}");
        }
    }
}
