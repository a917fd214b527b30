use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::interfaces;

const IPV4: &str = "/proc/net/route";
const IPV6: &str = "/proc/net/ipv6_route";
/// Maximum size of a routing table that is read, in bytes: about 8000 routes.
const MAX_TABLE: u64 = 1 << 20;
/// Prefixes shorter than these are routes to the rest of the world, not networks.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 32;
/// Flags of `linux/route.h` and `linux/ipv6_route.h`: usable; through a router; refused; of this machine itself.
const UP: u32 = 1;
const GATEWAY: u32 = 2;
const REJECT: u32 = 0x200;
const LOCAL: u32 = 0x8000_0000;

/// Where a route leads.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// To the machines of this network.
    To(IpNet),
    /// To a router, or to the rest of the world.
    Beyond,
}

pub(super) fn networks() -> Vec<IpNet> {
    let (v4_table, v6_table) = (table(IPV4), table(IPV6));
    let routes = v4_table.lines().filter_map(v4).chain(v6_table.lines().filter_map(v6));
    let networks = routes.filter_map(|route| match route {
        Route::To(network) => Some(network),
        Route::Beyond => None,
    });
    IpNet::aggregate(&networks.collect::<Vec<_>>())
}

pub(super) fn only_interface() -> Option<String> {
    let up = interfaces::all().ok()?.into_iter().filter(|one| one.is_up && !one.is_loopback);
    only_one(&up.map(|one| one.name).collect(), &table(IPV4), &table(IPV6))
}

/// The only interface of those that are `up` to which these tables have routes, if they lead to one network of each family.
fn only_one(up: &BTreeSet<String>, v4_table: &str, v6_table: &str) -> Option<String> {
    let v4 = v4_table.lines().filter_map(|line| Some((line.split_whitespace().next()?, v4(line)?)));
    let v6 = v6_table.lines().filter_map(|line| Some((line.split_whitespace().last()?, v6(line)?)));
    let (mut interfaces, mut networks) = (BTreeSet::new(), Vec::new());
    for (interface, route) in v4.chain(v6).filter(|(interface, _)| up.contains(*interface)) {
        let Route::To(network) = route else { return None };
        interfaces.insert(interface);
        networks.push(network);
    }
    let networks = IpNet::aggregate(&networks);
    let is_one =
        |is_v4: bool| networks.iter().filter(|network| network.addr().is_ipv4() == is_v4).count() <= 1;
    let only = interfaces.pop_first().filter(|_| interfaces.is_empty() && is_one(true) && is_one(false))?;
    Some(only.to_owned())
}

pub(super) fn has_interface(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

pub(super) fn has_default_route(interface: &str) -> bool {
    table(IPV4).lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let mask = fields.get(7).and_then(|mask| hexadecimal(mask));
        fields.first() == Some(&interface) && mask == Some(0)
    })
}

fn table(path: &str) -> String {
    let mut text = String::new();
    // Where the table is not there, the family is disabled.
    let _ = File::open(path).and_then(|file| file.take(MAX_TABLE).read_to_string(&mut text));
    text
}

fn v4(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (address, router, mask) = (field(&fields, 1)?, field(&fields, 2)?, field(&fields, 7)?);
    let flags = field(&fields, 3)?;
    let is_direct = flags & GATEWAY == 0 && router == 0;
    // The kernel prints the four bytes, which are in network order, as one number of its own order.
    let ip = |number: u32| Ipv4Addr::from(number.to_ne_bytes());
    let net = Ipv4Net::with_netmask(ip(address), ip(mask)).ok()?;
    let is_network = is_direct && net.prefix_len() >= SHORTEST_V4;
    (flags & UP != 0 && flags & REJECT == 0).then(|| route(net.trunc().into(), is_network))
}

fn v6(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let prefix = u8::try_from(field(&fields, 1)?).ok()?;
    let flags = field(&fields, 8)?;
    let is_unicast = !address.is_unicast_link_local() && !address.is_multicast();
    let is_network = flags & GATEWAY == 0 && prefix >= SHORTEST_V6;
    let net = Ipv6Net::new(address, prefix).ok()?;
    let counts = flags & UP != 0 && flags & (REJECT | LOCAL) == 0 && is_unicast;
    counts.then(|| route(net.trunc().into(), is_network))
}

fn route(to: IpNet, is_network: bool) -> Route {
    if is_network { Route::To(to) } else { Route::Beyond }
}

fn field(fields: &[&str], index: usize) -> Option<u32> {
    hexadecimal(fields.get(index)?)
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_line(address: [u8; 4], router: [u8; 4], flags: u32, mask: [u8; 4]) -> String {
        let number = |bytes| u32::from_ne_bytes(bytes);
        let (address, router, mask) = (number(address), number(router), number(mask));
        format!("eth0\t{address:08X}\t{router:08X}\t{flags:04X}\t0\t0\t0\t{mask:08X}\t0\t0\t0")
    }

    #[test]
    fn routes_without_a_router_are_networks_and_default_routes_are_not() {
        let none = [0; 4];
        for (line, net) in [
            (v4_line([10, 1, 1, 0], none, 1, [255, 255, 255, 0]), Some("10.1.1.0/24")),
            (v4_line([10, 3, 3, 3], none, 5, [255; 4]), Some("10.3.3.3/32")),
            (v4_line([172, 21, 0, 0], [10, 1, 1, 2], 3, [255, 255, 0, 0]), None),
            (v4_line(none, none, 1, none), None),
            (v4_line([128, 0, 0, 0], none, 1, [128, 0, 0, 0]), None),
            (v4_line([10, 4, 0, 0], none, 0x201, [255, 255, 0, 0]), None),
            ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask".into(), None),
        ] {
            assert_eq!(network(v4(&line)), net.map(|net| net.parse().unwrap()), "{line}");
        }
        let line = |address: &str, prefix: &str, flags: &str| {
            let zero = "0".repeat(32);
            format!("{address} {prefix} {zero} 00 {zero} 00000100 00000001 00000000 {flags} eth0")
        };
        for (line, net) in [
            (line("fd000001000000000000000000000000", "40", "00000001"), Some("fd00:1::/64")),
            (line("fe800000000000000000000000000000", "40", "00000001"), None),
            (line("ff000000000000000000000000000000", "08", "00000001"), None),
            (line("fd000001000000000000000000000001", "80", "80200001"), None),
            (line("00000000000000000000000000000000", "00", "00000001"), None),
            (line("fd000002000000000000000000000000", "40", "00000003"), None),
        ] {
            assert_eq!(network(v6(&line)), net.map(|net| net.parse().unwrap()), "{line}");
        }
    }

    fn network(route: Option<Route>) -> Option<IpNet> {
        route.and_then(|route| if let Route::To(network) = route { Some(network) } else { None })
    }

    #[test]
    fn a_machine_with_one_network_and_no_route_beyond_it_reaches_that_network_only() {
        let up = ["eth0", "eth1"].map(str::to_owned).into();
        let none = [0; 4];
        let lan = v4_line([10, 1, 1, 0], none, 1, [255, 255, 255, 0]);
        let zero = "0".repeat(32);
        let v6_line = |address: &str, prefix: &str, flags: &str, interface: &str| {
            format!("{address} {prefix} {zero} 00 {zero} 00000100 00000001 00000000 {flags} {interface}\n")
        };
        let own = v6_line("fd000001000000000000000000000000", "40", "00000001", "eth0")
            + &v6_line("fe800000000000000000000000000000", "40", "00000001", "eth0")
            + &v6_line("ff000000000000000000000000000000", "08", "00000001", "eth0")
            + &v6_line(&zero, "00", "00200200", "lo");
        let only = |v4: &[&str], v6: &str| only_one(&up, &v4.join("\n"), v6);
        assert_eq!(only(&[&lan], &own).as_deref(), Some("eth0"));
        assert_eq!(only(&[], &own).as_deref(), Some("eth0"));
        // Nobody is connected to a bridge without ports.
        let bridge = v4_line([172, 17, 0, 0], none, 1, [255, 255, 0, 0]).replace("eth0", "docker0");
        assert_eq!(only(&[&lan, &bridge], "").as_deref(), Some("eth0"));
        let second = v4_line([10, 9, 0, 0], none, 1, [255, 255, 255, 0]);
        for (more, v6) in [
            (v4_line(none, [10, 1, 1, 1], 3, none), ""),
            (v4_line([10, 9, 0, 0], [10, 1, 1, 1], 3, [255, 255, 0, 0]), ""),
            (second.replace("eth0", "eth1"), ""),
            (second, ""),
            (lan.clone(), &*v6_line(&zero, "00", "00000003", "eth0")),
        ] {
            assert_eq!(only(&[&lan, &more], v6), None, "{more} {v6}");
        }
        assert_eq!(only(&[], ""), None, "no network");
    }
}
