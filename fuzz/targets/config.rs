//! A portsentry.conf, read as each mode does: no panic, and every error names the file.
#![no_main]

use std::path::Path;

use harden_portsentry::daemon::{Config, Mode, ruleset_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for mode in [Mode::Stealth, Mode::Connect, Mode::AdvancedTcp, Mode::StealthUdp] {
        match Config::parse(&text, Path::new("/p.conf"), mode) {
            Ok(config) => {
                let ruleset = ruleset_for(mode, &config).expect("a configuration that was taken makes a ruleset");
                assert!(!ruleset.contains('`') && ruleset.matches("table inet").count() == 3);
            }
            Err(error) => assert!(error.to_string().contains("/p.conf")),
        }
    }
});
