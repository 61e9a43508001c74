//! The built-in response: whom the daemon blocks, for how long, what goes on, and who never is. In network namespaces, as
//! root; what is so is asked of the kernel, of connections, of libwrap's tcpdmatch.

mod neighbourhood;

use std::collections::BTreeSet;

use neighbourhood::daemon::{Daemon, program};
use neighbourhood::home::Home;
use neighbourhood::{Net, scanner, wait_until};

const BLOCK: &str = "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nKILL_NFT=\"drop\"\n";
const TABLE: &str = "harden_portsentry_blocks";

/// Whom the kernel blocks.
fn blocked(net: &Net) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for set in ["blocked4", "blocked6"] {
        let output = net.output("host", "nft", &["-j", "list", "set", "inet", TABLE, set]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Ok(document) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
        let objects = document["nftables"].as_array().cloned().unwrap_or_default();
        for element in objects.iter().flat_map(|object| object["set"]["elem"].as_array().cloned().unwrap_or_default()) {
            let address = element["elem"]["val"].as_str().or(element.as_str());
            all.extend(address.map(str::to_owned));
        }
    }
    all
}

/// Runs `harden-portsentry` with these words; what it says, and whether it was content.
fn run(net: &Net, home: &Home, words: &[&str]) -> (String, bool) {
    let output = home.output(net, &program(), words);
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

fn set<const N: usize>(addresses: [&str; N]) -> BTreeSet<String> {
    addresses.map(str::to_owned).into()
}

#[test]
fn a_scanner_is_blocked_and_free_again_and_longer_blocked_when_it_comes_back() {
    let (net, home) = (Net::new("terms"), Home::new());
    home.write("/etc/harden-portsentry/policy.toml", "[block]\nfirst = \"3s\"\nterm = \"1h\"\n");
    let daemon = Daemon::at_home(&net, &home, "1-1023", BLOCK);
    let source = scanner(0);
    net.scan(&source, "1-20");
    wait_until("the scanner in the kernel's set", || blocked(&net).contains(&source));
    wait_until("that it is free again", || blocked(&net).is_empty());
    wait_until("that it is said", || daemon.said().contains(&format!("Host {source} is free again")));
    net.scan(&source, "21-40");
    wait_until("the scanner in the kernel's set", || blocked(&net).contains(&source));
    let (listed, _) = run(&net, &home, &["blocked"]);
    assert!(listed.contains(&source) && listed.contains(" 2      daemon  probed tcp/"), "{listed}");
    assert!(daemon.said().contains(&format!("Host {source} has been blocked via nftables for 3 seconds")));
    assert!(
        daemon.said().contains(&format!("Host {source} has been blocked via nftables for 1 hour")),
        "{}",
        daemon.said()
    );
}
