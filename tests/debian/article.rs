//! What a person does who follows the article by hand, on a box that has the packages: the control of every trap.

use crate::bed::{Bed, Output};

/// The article's edits of portsentry's files, with its own patterns (they are what the traps are about).
pub const EDITS: &str = r#"
set -e
. /root/config.env
[ ! -e /etc/default/portsentry ] || sed -i -e 's|TCP_MODE="tcp"|TCP_MODE="atcp"|' -e 's|UDP_MODE="udp"|UDP_MODE="audp"|' /etc/default/portsentry
conf=/etc/portsentry/portsentry.conf
sed -i -e 's|BLOCK_UDP="0"|BLOCK_UDP="1"|' -e 's|BLOCK_TCP="0"|BLOCK_TCP="1"|' -e 's|RESOLVE_HOST = "0"|RESOLVE_HOST = "1"|' $conf
sed -i 's|^KILL_ROUTE|#&|' $conf
sed -i 's|^#\?KILL_ROUTE="/sbin/iptables -I INPUT -s $TARGET$ -j DROP"|KILL_ROUTE="/sbin/iptables -I INPUT -s $TARGET$ -j CHAOS"|' $conf
echo "ALL: ${LAN_IP}/${LAN_NM}" >>/etc/hosts.allow
echo "${LAN_IP}/${LAN_NM}" >>/etc/portsentry/portsentry.ignore.static
"#;

/// Its fail2ban section; the restart comes after.
pub const JAIL: &str = r#"
mkdir -p /var/lib/portsentry
>/var/lib/portsentry/portsentry.history
printf '[portsentry]\nenabled = true\n' >/etc/fail2ban/jail.d/portsentry.conf
"#;

impl Bed {
    /// The article's edits, then the restart: its output.
    pub fn follow_the_article(&self) -> Output {
        self.ok(EDITS);
        self.run("systemctl restart portsentry")
    }

    /// 1.2 in advanced mode, or 2.0, blocking with a rule that this kernel takes: the article as it was meant.
    pub fn block_by_hand(&self, kill_route: &str) {
        let edit = r#"sed -i -e '/^KILL_ROUTE\|^BLOCK_\|^RESOLVE_HOST/d' /etc/portsentry/portsentry.conf
            cat /tmp/by-hand >>/etc/portsentry/portsentry.conf
            [ ! -e /etc/default/portsentry ] || sed -i -e 's|="tcp"|="atcp"|' -e 's|="udp"|="audp"|' /etc/default/portsentry"#;
        self.write("/tmp/by-hand", &format!("BLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nKILL_ROUTE=\"{kill_route}\"\n"));
        self.ok(edit);
        self.ok(&format!(
            "systemctl daemon-reload; systemctl enable --quiet {0}; systemctl restart {0}",
            self.suite.units().join(" ")
        ));
        self.wait_until_it_listens();
    }
}

pub const DROP: &str = "/usr/sbin/iptables -I INPUT -s $TARGET$ -j DROP";
