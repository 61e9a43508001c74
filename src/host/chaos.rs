//! Whether this kernel has the CHAOS target of xtables-addons, which the article's KILL_ROUTE needs.

use std::path::Path;

use super::Host;
use super::commands::Invocation;

/// What packets of blocked hosts are marked with for CHAOS.
pub const CHAOS_MARK: &str = "0x504f5254";
/// The rule for all of them, as `iptables -S` prints it behind `-A`.
pub const CHAOS_RULE: &str = "INPUT -m mark --mark 0x504f5254 -j CHAOS";

/// Can CHAOS answer a blocked host here?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChaosSupport {
    /// The kernel took a CHAOS rule.
    Works,
    /// It did not, or has no such module; why, in words.
    Missing(String),
}

const MODULES: [&str; 3] = ["xt_CHAOS", "xt_DELUDE", "xt_TARPIT"];

impl ChaosSupport {
    /// Looks for iptables' extension and the kernel's module, and only where both are there tries a rule, in
    /// a namespace of its own; a module that the trial loaded is unloaded again.
    pub fn probe(host: &Host) -> ChaosSupport {
        if !host.is_live() {
            return ChaosSupport::Missing("an image is not asked for the kernel that will run it".to_owned());
        }
        let extension = host
            .list("/usr/lib")
            .iter()
            .any(|triplet| host.exists(&format!("/usr/lib/{triplet}/xtables/libxt_CHAOS.so")));
        if !extension {
            return ChaosSupport::Missing("iptables has no CHAOS extension (package xtables-addons-common)".to_owned());
        }
        let release = kernel_release();
        let loaded = Path::new("/sys/module/xt_CHAOS").exists();
        if !loaded && !module_is_built(host, &release) {
            return ChaosSupport::Missing(format!(
                "kernel {release} has no module xt_CHAOS (package xtables-addons-dkms)"
            ));
        }
        let before: Vec<bool> = MODULES.iter().map(|name| Path::new("/sys/module").join(name).exists()).collect();
        let tried = host.try_rule(false, "CHAOS");
        for (name, was_loaded) in MODULES.iter().zip(before) {
            if !was_loaded {
                let _ = Invocation::new("modprobe", &["-q", "-r", name]).run();
            }
        }
        match tried {
            Ok(()) => ChaosSupport::Works,
            Err(said) => ChaosSupport::Missing(format!("kernel {release} refused a CHAOS rule: {said}")),
        }
    }
}

/// Whether this machine boots only what is signed; its kernel then refuses a module that dkms built, unless the
/// machine's owner has enrolled dkms' key at the console.
pub fn secure_boot() -> bool {
    // The variable of the UEFI specification: four bytes of attributes, then 1 for on.
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    std::fs::read(variable).is_ok_and(|bytes| bytes.get(4) == Some(&1))
}

/// The running kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// modules.dep lists every module that modprobe can find; dkms puts its own below updates/dkms.
fn module_is_built(host: &Host, release: &str) -> bool {
    let list = host.text(&format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains("/xt_CHAOS.ko")))
}
