//! The ports on which somebody listens: /proc/net/tcp and its like (Linux, Documentation/networking/proc_net_tcp.rst).

use std::collections::BTreeSet;
use std::fs;

/// The ports of this network namespace, TCP and UDP, that a socket listens on; none where the kernel does not tell.
pub fn listening_ports() -> (BTreeSet<u16>, BTreeSet<u16>) {
    /// TCP's state LISTEN; and CLOSE, which a UDP socket without a peer is in.
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
    let of = |names: [&str; 2], state: &str| {
        let tables = names.map(|name| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default());
        tables.iter().flat_map(|table| ports(table, state)).collect()
    };
    (of(["tcp", "tcp6"], LISTEN), of(["udp", "udp6"], UNCONNECTED))
}

/// The local ports of the sockets in `state`. Columns: number, local address:port, remote address:port, state; in hex.
fn ports(table: &str, state: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut cells = line.split_whitespace().skip(1);
        let (local, _, is) = (cells.next()?, cells.next()?, cells.next()?);
        (is == state).then_some(())?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    };
    table.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_this_test_are_found() {
        let (tcp, udp) = (TcpListener::bind("[::1]:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (tcp_ports, udp_ports) = listening_ports();
        assert!(tcp_ports.contains(&tcp.local_addr().unwrap().port()), "{tcp_ports:?}");
        assert!(udp_ports.contains(&udp.local_addr().unwrap().port()), "{udp_ports:?}");
    }

    #[test]
    fn what_is_no_table_has_none() {
        let connected = "   0: 0100007F:0016 0100007F:D431 01 00000000:00000000\n";
        for table in ["", "sl local_address rem_address st\n", "0: :::: x 0A\n", connected] {
            assert_eq!(ports(table, "0A"), [] as [u16; 0]);
        }
    }
}
