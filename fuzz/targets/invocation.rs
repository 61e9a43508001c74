//! A command line of either generation: no panic, and no name of an interface that the ruleset could take for more.
#![no_main]

use harden_portsentry::daemon::{Asked, Interfaces, Invocation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let words: Vec<String> = line.split('\0').map(str::to_owned).collect();
    if let Ok(Asked::Run(invocation)) = Invocation::parse(&words)
        && let Interfaces::Named(names) = invocation.interfaces
    {
        assert!(names.iter().all(|name| name.len() <= 15 && !name.contains(['"', ' ', '\n', '{', '}'])));
    }
});
