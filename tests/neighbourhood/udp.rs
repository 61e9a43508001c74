//! Datagrams that a host gets without anybody scanning it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{channel, sync_channel};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, ipproto, netdevice, socket};

use super::{BOX, CLIENT, CLIENT6, HOST, HOST6, LIMIT, Net, wait_until};

/// A query as resolvers send it: for the addresses of `host.test`.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x04host\x04test\0\0\x01\0\x01";

/// The host asks a name server, and nobody is there any more when the answer comes.
pub fn answers_to_nobody(net: &Net, count: usize, six: bool) -> usize {
    let (host, server) = if six { (HOST6, CLIENT6) } else { (HOST, CLIENT) };
    let table = "table inet count {
        counter answers { }
        chain arrived { type filter hook prerouting priority raw; udp sport 53 counter name answers; }
    }";
    net.nft("host", table);
    std::thread::scope(|scope| {
        let (gone, is_gone) = sync_channel(64); // as many queries as the server has room for while it is slow
        let (ready, is_ready) = channel();
        net.inside(scope, "client", move || {
            let server = UdpSocket::bind((server, 53)).expect("a free port");
            server.set_read_timeout(Some(LIMIT)).expect("a socket");
            ready.send(()).expect("somebody waits");
            for _ in 0..count {
                let mut query = [0; 512];
                let (length, from) = server.recv_from(&mut query).expect("a query");
                is_gone.recv().expect("the socket is gone");
                let _ = server.send_to(&query[..length], from); // what ICMP said of the one before is no failure
            }
        });
        is_ready.recv().expect("it listens");
        net.inside(scope, "host", move || {
            for _ in 0..count {
                let asks = UdpSocket::bind((host, 0)).expect("a port");
                asks.send_to(QUERY, (server, 53)).expect("a route");
                drop(asks);
                gone.send(()).expect("somebody waits");
            }
        });
    });
    wait_until("every answer at the host", || net.counter("host", "count", "answers") >= count as u64);
    net.nft("host", "delete table inet count");
    count
}

/// Others ask the host's name server, dnsmasq; some do not wait for the answer, and some ask on when it has ended.
pub fn name_server(net: &Net, count: usize) -> usize {
    let mut dnsmasq = dnsmasq(
        net,
        "host",
        &["--no-resolv", "--no-hosts", "--address=/host.test/192.0.2.1", "--listen-address=192.0.2.1"],
    );
    let ask = |from| {
        let asks = UdpSocket::bind((from, 0)).expect("a port");
        asks.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
        asks.send_to(QUERY, (HOST, 53)).expect("a route");
        asks
    };
    std::thread::scope(|scope| {
        // whether it is ready the host asks itself: a query before that would be one to a closed port
        let ready = || wait_until("an answer of dnsmasq", || ask(HOST).recv(&mut [0; 512]).is_ok());
        net.inside(scope, "host", ready).join().expect("answers");
        let client = net.inside(scope, "client", move || {
            let answers = (0..count).filter(|number| {
                let asks = ask(CLIENT);
                number % 4 == 0 || asks.recv(&mut [0; 512]).is_ok()
            });
            answers.count()
        });
        let answered = client.join().expect("asks");
        assert!(answered > count / 2, "dnsmasq answered {answered} of {count}");
        end(&mut dnsmasq);
        let too_late =
            net.inside(scope, "client", move || (0..20).filter(|_| ask(CLIENT).recv(&mut [0; 512]).is_err()).count());
        assert_eq!(too_late.join().expect("asks"), 20);
    });
    count
}

/// Addresses by DHCP, with the real server and the real client: through the host's bridge, to the host, and from the host.
pub fn leases(net: &Net) -> usize {
    let range = "--dhcp-range=10.3.0.50,10.3.0.99,1h";
    let mut on_left = dnsmasq(
        net,
        "left",
        &["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping", range],
    );
    lease(net, "right", "eth0", "10.3.0.");
    lease(net, "host", "br0", "10.3.0.");
    end(&mut on_left);
    let range = "--dhcp-range=10.2.0.50,10.2.0.99,1h";
    let mut on_host = dnsmasq(
        net,
        "host",
        &["--port=0", "--interface=beyond", "--bind-interfaces", "--dhcp-authoritative", "--no-ping", range],
    );
    lease(net, "far", "eth0", "10.2.0.");
    end(&mut on_host);
    3
}

fn lease(net: &Net, place: &str, interface: &str, prefix: &str) {
    let files = tempfile::TempDir::new().expect("a temporary directory");
    let (leases, pid) = (files.path().join("leases"), files.path().join("pid"));
    let path = |path: &Path| path.display().to_string();
    // /bin/true in place of its script: the lease is taken and no address changed; -d because it is stopped afterwards
    let words = ["-4", "-d", "-1", "-sf", "/bin/true", "-lf", &path(&leases), "-pf", &path(&pid), interface];
    let mut client = net.spawn(place, "dhclient", &words);
    wait_until(&format!("a lease for {place}"), || {
        std::fs::read_to_string(&leases).is_ok_and(|text| text.contains(&format!("fixed-address {prefix}")))
    });
    end(&mut client);
}

fn dnsmasq(net: &Net, place: &str, words: &[&str]) -> std::process::Child {
    let common = ["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file", "--leasefile-ro"];
    net.spawn(place, "dnsmasq", &[&common[..], words].concat())
}

fn end(process: &mut std::process::Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// What a LAN chatters: broadcasts and multicasts for which nobody on the host has a socket.
pub fn chatter(net: &Net, count: usize) -> usize {
    const GROUPS: [(&str, u16); 4] =
        [("224.0.0.251", 5353), ("239.255.255.250", 1900), ("224.0.0.252", 5355), ("224.0.0.1", 9)];
    const PORTS: [u16; 8] = [67, 68, 111, 137, 138, 631, 1900, 9999];
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
    std::thread::scope(|scope| {
        // the host is in the groups, so that the packets are let in, but on another port
        let member = net.inside(scope, "host", move || {
            let member = UdpSocket::bind("0.0.0.0:0").expect("a port");
            for (group, _) in &GROUPS[..3] {
                member.join_multicast_v4(&address(group), &address(HOST)).expect("a group");
            }
            let six = UdpSocket::bind("[::]:0").expect("a port");
            let lan = netdevice::name_to_index(&six, "lan").expect("the lan");
            six.join_multicast_v6(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), lan).expect("a group");
            (member, six)
        });
        let _member = member.join().expect("joins");
        net.inside(scope, "client", move || {
            let talks = UdpSocket::bind((CLIENT, 0)).expect("a port");
            talks.set_broadcast(true).expect("a socket");
            let six = UdpSocket::bind("[::]:0").expect("a port");
            let lan = netdevice::name_to_index(&six, "lan").expect("the lan");
            for _ in 0..count {
                for (group, port) in GROUPS {
                    talks.send_to(QUERY, (group, port)).expect("a route");
                }
                for port in PORTS {
                    talks.send_to(QUERY, ("192.0.2.255", port)).expect("a route");
                    talks.send_to(QUERY, ("255.255.255.255", port)).expect("a route");
                }
                for (last, port) in [(0xfb, 5353), (1, 547)] {
                    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last);
                    six.send_to(QUERY, SocketAddrV6::new(group, port, 0, lan)).expect("a route");
                }
            }
        });
    });
    count * (GROUPS.len() + 2 * PORTS.len() + 2)
}

/// Echo requests by the thousand, errors that name ports of the host, and the errors that its own datagrams earn.
pub fn icmp(net: &Net, count: usize) -> usize {
    std::thread::scope(|scope| {
        net.inside(scope, "client", move || {
            let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).expect("root may");
            let raw = UdpSocket::from(raw); // std has no raw sockets; sending is the same
            for number in 0..count as u16 {
                raw.send_to(&message(8, 0, &number.to_be_bytes()), (HOST, 0)).expect("a route");
                // port unreachable, about a segment from the host's port 1-1023 that it never sent
                let mut about = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
                about.extend((number % 1023 + 1).to_be_bytes());
                about.extend([0, 80, 0, 0, 0, 1]);
                raw.send_to(&message(3, 3, &about), (HOST, 0)).expect("a route");
            }
        });
        net.inside(scope, "host", move || {
            let asks = UdpSocket::bind((HOST, 0)).expect("a port");
            for number in 0..count as u16 {
                let _ = asks.send_to(QUERY, (CLIENT, 20_000 + number % 5_000));
            }
        });
    });
    3 * count
}

fn message(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], body].concat();
    let pairs = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

/// Datagrams that the host passes on, to a container behind DNAT and to a network beyond it, answered or not.
pub fn passed_on(net: &Net, count: usize) -> usize {
    std::thread::scope(|scope| {
        let (ready, is_ready) = channel();
        net.inside(scope, "box", move || {
            let server = UdpSocket::bind((BOX, 53)).expect("a free port");
            server.set_read_timeout(Some(LIMIT)).expect("a socket");
            ready.send(()).expect("somebody waits");
            for _ in 0..count {
                let (length, from) = server.recv_from(&mut [0; 512]).expect("a query");
                let _ = server.send_to(&QUERY[..length.min(QUERY.len())], from);
            }
        });
        is_ready.recv().expect("it listens");
        net.inside(scope, "client", move || {
            for number in 0..count {
                let asks = UdpSocket::bind((CLIENT, 0)).expect("a port");
                asks.set_read_timeout(Some(LIMIT)).expect("a socket");
                asks.send_to(QUERY, (HOST, 154)).expect("a route"); // the container's 53
                if number % 2 == 0 {
                    asks.recv(&mut [0; 512]).expect("an answer");
                }
                let nobody = UdpSocket::bind((CLIENT, 0)).expect("a port");
                nobody.send_to(QUERY, (super::FAR, 1 + number as u16 % 1000)).expect("a route");
            }
        });
    });
    2 * count
}
