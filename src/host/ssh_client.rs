//! Who is logged in here by ssh and runs this: an apply must not lock its own user out.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use crate::kernel::is_connected;

/// The clients of the ssh session that this process descends from: one, as a rule. sudo strips SSH_CONNECTION from its child's
/// environment, so every ancestor's is read, nearest first. Where that connection has ended, as in a window of tmux or screen
/// that was made in an earlier session, these are the clients of all sessions of that user that go on, or, if there is none,
/// the one of then.
pub fn ssh_clients() -> Vec<IpAddr> {
    let Some((pid, connection)) = nearest() else { return Vec::new() };
    if connection.goes_on() {
        return vec![connection.client.ip()];
    }
    let user = |pid: u32| fs::metadata(format!("/proc/{pid}")).map(|process| process.uid()).ok();
    let owner = user(pid);
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = all.filter(|&pid| owner.is_some() && user(pid) == owner).filter_map(in_environment);
    let others: BTreeSet<IpAddr> =
        others.filter(Connection::goes_on).map(|connection| connection.client.ip()).collect();
    if others.is_empty() { vec![connection.client.ip()] } else { others.into_iter().collect() }
}

/// The nearest ancestor that knows of a session.
fn nearest() -> Option<(u32, Connection)> {
    let mut pid = std::process::id();
    for _ in 0..64 {
        if let Some(connection) = in_environment(pid) {
            return Some((pid, connection));
        }
        pid = parent(pid)?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

fn in_environment(pid: u32) -> Option<Connection> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    Connection::parse(std::str::from_utf8(value).ok()?)
}

#[derive(Debug, PartialEq)]
struct Connection {
    client: SocketAddr,
    /// Of this host.
    port: u16,
}

impl Connection {
    /// `CLIENT PORT SERVER PORT` (ssh(1)); a link-local client carries its interface after a %.
    fn parse(value: &str) -> Option<Connection> {
        let [address, port, _, own_port] = value.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let address: IpAddr = address.split('%').next()?.parse().ok()?;
        let client = SocketAddr::new(address.to_canonical(), port.parse().ok()?);
        Some(Connection { client, port: own_port.parse().ok()? })
    }

    fn goes_on(&self) -> bool {
        is_connected(self.port, self.client)
    }
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
        let client = |value: &str| Connection::parse(value).map(|connection| connection.client.ip());
        assert_eq!(client("203.0.113.50 50000 192.0.2.1 22"), Some([203, 0, 113, 50].into()));
        assert_eq!(client("::ffff:203.0.113.50 1 ::1 22"), Some([203, 0, 113, 50].into()));
        assert_eq!(client("fe80::2%eth0 1 fe80::1 22"), "fe80::2".parse().ok());
        assert!(client("nonsense").is_none() && client("203.0.113.50 50000 192.0.2.1").is_none());
    }
}
