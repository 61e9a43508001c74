//! Sockets: on which ports somebody listens, and who is connected. /proc/net/tcp and its like (Linux,
//! Documentation/networking/proc_net_tcp.rst).

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

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

/// Whether `client` has a TCP connection with this port of this network namespace; no, where the kernel does not tell.
pub fn is_connected(port: u16, client: SocketAddr) -> bool {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default());
    tables.iter().any(|table| has_connection(table, port, client))
}

fn has_connection(table: &str, port: u16, client: SocketAddr) -> bool {
    /// TCP's state ESTABLISHED.
    const ESTABLISHED: &str = "01";
    let is_it = |line: &str| {
        let mut cells = line.split_whitespace().skip(1);
        let (local, remote, is) = (socket(cells.next()?)?, socket(cells.next()?)?, cells.next()?);
        Some(is == ESTABLISHED && local.port() == port && remote == client)
    };
    table.lines().any(|line| is_it(line).unwrap_or_default())
}

/// `0100007F:0016`: the address in words of 32 bits, each in the order of this machine; an IPv4 address plain.
fn socket(cell: &str) -> Option<SocketAddr> {
    let (address, port) = cell.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
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
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_this_test_are_found() {
        let (tcp, udp) = (TcpListener::bind("[::1]:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (tcp_ports, udp_ports) = listening_ports();
        assert!(tcp_ports.contains(&tcp.local_addr().unwrap().port()), "{tcp_ports:?}");
        assert!(udp_ports.contains(&udp.local_addr().unwrap().port()), "{udp_ports:?}");
    }

    #[test]
    fn whoever_is_connected_is_found_for_as_long() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let (own, stream) =
                (listener.local_addr().unwrap(), TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let client = stream.local_addr().unwrap();
            let client = SocketAddr::new(client.ip().to_canonical(), client.port());
            assert!(is_connected(own.port(), client) && !is_connected(own.port() ^ 1, client), "{client}");
            drop((listener, stream));
            assert!(!is_connected(own.port(), client), "{client}");
        }
    }

    #[test]
    fn what_is_no_table_has_none() {
        let connected = "   0: 0100007F:0016 0100007F:D431 01 00000000:00000000\n";
        for table in ["", "sl local_address rem_address st\n", "0: :::: x 0A\n", connected] {
            assert_eq!(ports(table, "0A"), [] as [u16; 0]);
        }
        for table in ["", "sl local_address rem_address st\n", "0: :::: x 01\n", "0: 0100007F:0016 0100 01\n"] {
            assert!(!has_connection(table, 22, ([127, 0, 0, 1], 54_321).into()));
        }
    }
}
