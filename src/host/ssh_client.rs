//! Who is logged in here by ssh and runs this: an apply must not lock its own user out.

use std::fs;
use std::net::IpAddr;

/// The client of the ssh session that this process descends from. sudo strips SSH_CONNECTION from its
/// child's environment, so every ancestor's is read, nearest first.
pub fn ssh_client() -> Option<IpAddr> {
    let mut pid = std::process::id();
    for _ in 0..64 {
        if let Some(client) = client_in_environment(pid) {
            return Some(client);
        }
        pid = parent(pid)?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

fn client_in_environment(pid: u32) -> Option<IpAddr> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    parse(std::str::from_utf8(value).ok()?)
}

/// `CLIENT PORT SERVER PORT` (ssh(1)); a link-local client carries its interface after a %.
fn parse(value: &str) -> Option<IpAddr> {
    let address: IpAddr = value.split_whitespace().next()?.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_client() {
        assert_eq!(parse("203.0.113.50 50000 192.0.2.1 22"), Some([203, 0, 113, 50].into()));
        assert_eq!(parse("::ffff:203.0.113.50 1 ::1 22"), Some([203, 0, 113, 50].into()));
        assert_eq!(parse("fe80::2%eth0 1 fe80::1 22"), "fe80::2".parse().ok());
        assert_eq!(parse("nonsense"), None);
    }
}
