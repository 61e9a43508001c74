//! Who is blocked on the host of a [`Net`](super::Net), as the kernel and the program say.

use std::collections::BTreeSet;

use super::Net;
use super::daemon::program;
use super::home::Home;

/// Lines of portsentry.conf for the built-in response.
pub const BLOCK: &str = "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nKILL_NFT=\"drop\"\n";
pub const TABLE: &str = "harden_portsentry_blocks";

/// Whom the kernel blocks.
pub fn blocked(net: &Net) -> BTreeSet<String> {
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
pub fn run(net: &Net, home: &Home, words: &[&str]) -> (String, bool) {
    let output = home.output(net, &program(), words);
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

/// Whom `harden-portsentry blocked` lists.
pub fn listed(net: &Net, home: &Home) -> BTreeSet<String> {
    let (text, ok) = run(net, home, &["blocked", "--format", "json"]);
    assert!(ok, "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let all = document["blocked"].as_array().expect("a list");
    all.iter().map(|one| one["address"].as_str().expect("an address").to_owned()).collect()
}
