//! Which portsentry watches: Debian's, or the one built into the program.

use crate::bed::{Bed, Suite};

/// auto takes Debian's while apt has it; the embedded one is asked for, or is what is left.
pub fn where_apt_has_no_portsentry_the_embedded_one_takes_its_place(suite: Suite) {
    let bed = Bed::pristine(suite).with_program();
    bed.tool("diff").exits(2).says_not("embedded").says("edit /etc/portsentry/portsentry.conf");

    bed.write("/etc/apt/preferences.d/none", "Package: portsentry\nPin: release *\nPin-Priority: -1\n");
    bed.run("apt-get install -y portsentry").fails().says("no installation candidate");
    bed.tool("diff --engine package").exits(1).says("apt has no package portsentry").says("--engine embedded");
    bed.tool("diff")
        .exits(2)
        .says("apt has no package portsentry, so the portsentry built into this program watches")
        .says("/etc/harden-portsentry/portsentry.conf")
        .says_not("edit /etc/portsentry/portsentry.conf");
    bed.tool("diff --format json").exits(2).says("\"fallback\": \"apt has no package portsentry\"");
}
