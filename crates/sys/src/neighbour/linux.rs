//! Linux tells any process its routes and neighbours (`rtnetlink(7)`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::hop::{Hop, Presence};
use crate::netlink::{self, attributes, bytes, put_attribute};

/// The length of `struct rtmsg` and of `struct ndmsg`, with which a body begins; attributes follow them.
const FIXED: usize = 12;
/// `RTM_NEWROUTE`, `RTM_GETROUTE`, `RTM_NEWNEIGH` and `RTM_GETNEIGH` of `linux/rtnetlink.h`.
const ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;
/// `RTA_DST`, `RTA_OIF` and `RTA_GATEWAY`, and `NDA_DST` of `linux/neighbour.h`.
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
/// Where `rtm_type` is, and `RTN_UNICAST`: neither this machine, nor a broadcast, nor a prohibited destination.
const TYPE: usize = 7;
const UNICAST: u8 = 1;
/// Where `ndm_state` is, and the states `NUD_…` of `linux/neighbour.h`.
const STATE: usize = 8;
const INCOMPLETE: u16 = 1;
const REACHABLE: u16 = 2;
const DELAY: u16 = 8;
const PROBE: u16 = 16;
const FAILED: u16 = 32;

pub(super) fn next_hop(to: SocketAddr) -> Option<Hop> {
    let to = crate::net::plain(to);
    let scope = match to {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(to) => to.scope_id(),
    };
    let octets = octets(to.ip());
    let bits = u8::try_from(octets.len() * 8).ok()?;
    let mut body = vec![family(to.ip()), bits];
    body.resize(FIXED, 0);
    put_attribute(&mut body, DESTINATION, &octets);
    if scope != 0 {
        put_attribute(&mut body, INTERFACE, &scope.to_ne_bytes());
    }
    hop(to.ip(), &ask(GET_ROUTE, &body).ok()?)
}

pub(super) fn presence(hop: Hop) -> Option<Presence> {
    let mut body = vec![family(hop.address), 0, 0, 0];
    body.extend(hop.interface.to_ne_bytes());
    body.resize(FIXED, 0);
    put_attribute(&mut body, DESTINATION, &octets(hop.address));
    state(&ask(GET_NEIGHBOUR, &body).ok()?)
}

/// The hop of an answer about the route to `to`.
fn hop(to: IpAddr, answer: &[u8]) -> Option<Hop> {
    let body = body(answer, ROUTE)?;
    if body[TYPE] != UNICAST {
        return None;
    }
    let (mut address, mut interface) = (to, None);
    for (kind, value) in attributes(&body[FIXED..]) {
        match kind {
            INTERFACE => interface = value.try_into().ok().map(u32::from_ne_bytes),
            GATEWAY => address = ip(value)?,
            _ => {}
        }
    }
    Some(Hop { address, interface: interface? })
}

/// The presence of an answer about a neighbour.
fn state(answer: &[u8]) -> Option<Presence> {
    let body = body(answer, NEIGHBOUR)?;
    match u16::from_ne_bytes(bytes(body, STATE).ok()?) {
        REACHABLE => Some(Presence::Here),
        FAILED => Some(Presence::Absent),
        INCOMPLETE => Some(Presence::Unanswered),
        DELAY | PROBE => Some(Presence::Doubted),
        // It was there some time ago, or nothing is asked on this kind of network.
        _ => None,
    }
}

fn ask(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    netlink::ask(SockProtocol::NetlinkRoute, kind, body)
}

/// The body of an answer of this type, with all of its fixed part. `None` where the kernel knows nothing.
fn body(answer: &[u8], kind: u16) -> Option<&[u8]> {
    let (found, body) = netlink::read(answer).ok()?;
    (found == kind && body.len() >= FIXED).then_some(body)
}

/// `AF_INET` or `AF_INET6`, which have one byte here.
fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, fixed: [u8; FIXED], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        attributes.iter().for_each(|(kind, value)| put_attribute(&mut body, *kind, value));
        netlink::tests::answer(kind, &body)
    }

    #[test]
    fn a_route_leads_to_its_router_or_to_the_destination_itself() {
        let to: IpAddr = "10.88.0.100".parse().unwrap();
        let fixed = |kind: u8| [2, 32, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
        let interface = 7_u32.to_ne_bytes();
        let direct = answer(ROUTE, fixed(UNICAST), &[(INTERFACE, &interface)]);
        assert_eq!(hop(to, &direct), Some(Hop { address: to, interface: 7 }));
        let routed = answer(ROUTE, fixed(UNICAST), &[(INTERFACE, &interface), (GATEWAY, &[10, 77, 0, 1])]);
        let router = "10.77.0.1".parse().unwrap();
        assert_eq!(hop(to, &routed), Some(Hop { address: router, interface: 7 }));
        assert_eq!(hop(to, &answer(ROUTE, fixed(2), &[(INTERFACE, &interface)])), None, "this machine");
        assert_eq!(hop(to, &answer(2, fixed(UNICAST), &[(INTERFACE, &interface)])), None, "an error");
        for length in 0..routed.len() {
            let _ = hop(to, &routed[..length]);
        }
    }

    #[test]
    fn a_neighbour_that_does_not_answer_is_told_from_one_that_is_being_asked() {
        let of = |nud: u16| {
            let mut fixed = [0; FIXED];
            fixed[STATE..STATE + 2].copy_from_slice(&nud.to_ne_bytes());
            state(&answer(NEIGHBOUR, fixed, &[]))
        };
        assert_eq!(of(FAILED), Some(Presence::Absent));
        assert_eq!(of(REACHABLE), Some(Presence::Here));
        assert_eq!(of(INCOMPLETE), Some(Presence::Unanswered));
        for doubted in [DELAY, PROBE] {
            assert_eq!(of(doubted), Some(Presence::Doubted));
        }
        assert_eq!(of(4), None, "it was there some time ago");
    }

    #[test]
    fn the_kernel_answers_about_this_machine() {
        let own: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(next_hop(own), None);
        assert_eq!(next_hop("[::ffff:127.0.0.1]:1".parse().unwrap()), None);
        assert_eq!(presence(Hop { address: own.ip(), interface: u32::MAX }), None);
        let answer = ask(GET_ROUTE, &{
            let mut body = vec![family(own.ip()), 32];
            body.resize(FIXED, 0);
            put_attribute(&mut body, DESTINATION, &octets(own.ip()));
            body
        });
        assert!(body(&answer.unwrap(), ROUTE).is_some());
    }
}
