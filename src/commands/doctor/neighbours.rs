//! Whether anybody answers at the addresses that this machine hands its packets to.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::remedies::{connect_cable, route_to, with_interface};
use super::report::Finding;
use crate::lan::{self, Lan};
use crate::net;
use crate::sys::neighbour::{self, Hop, Presence};
use crate::sys::tools;

/// How long the system may take to find out: it believes for five seconds that a machine is still there, and asks three times.
const DEADLINE: Duration = Duration::from_secs(9);
/// How long a machine may take to answer for its address: the system asks three times, once a second.
const ANSWER: Duration = Duration::from_secs(3);
/// Interval between two checks meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum destinations of one finding that are looked at.
const MAX_DESTINATIONS: usize = 4;

/// What the system knows of the machine that packets to a destination are handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    destination: SocketAddr,
    hop: Hop,
    is_here: bool,
}

impl Neighbour {
    /// The machine that packets to `destination` are handed to, once the system knows whether it is there. Something must have
    /// been sent there a moment ago.
    pub(super) async fn towards(destination: SocketAddr) -> Option<Self> {
        let hop = neighbour::next_hop(destination)?;
        let found = |is_here| Some(Self { destination, hop, is_here });
        if dark(hop).is_some() {
            return found(false);
        }
        let (deadline, mut asked_since) = (Instant::now() + DEADLINE, None);
        while Instant::now() < deadline {
            match neighbour::presence(hop)? {
                Presence::Here => return found(true),
                Presence::Absent => return found(false),
                // Whatever is sent there meanwhile has the system ask again.
                Presence::Unanswered => {
                    let since: &mut Instant = asked_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= ANSWER {
                        return found(false);
                    }
                }
                Presence::Doubted => asked_since = None,
            }
            sleep(PAUSE).await;
        }
        None
    }

    /// A destination that is on a network of this machine, and there.
    #[cfg(test)]
    pub(super) fn here(destination: SocketAddr) -> Self {
        Self { destination, hop: Hop { address: destination.ip(), interface: 0 }, is_here: true }
    }

    /// Whether that is the destination itself, and it is there.
    pub(super) fn is_the_destination(&self) -> bool {
        self.is_here && !self.is_router()
    }

    fn is_router(&self) -> bool {
        self.hop.address != net::plain(self.destination).ip()
    }

    /// The finding about an uplink, with what follows from it that the router on the way is there.
    fn explain_far(&self, finding: Finding) -> Finding {
        if !self.is_here || !self.is_router() {
            return finding;
        }
        let (hop, hint) = (self.hop.address, finding.hint.clone().unwrap_or_default());
        finding
            .because(format!(
                "{hop}, the router on the way, has answered lately, so the uplink of this machine works as far as there"
            ))
            .hint(format!("see whether the router {hop} has its own uplink; otherwise {hint}"))
    }

    /// The finding that a server does not answer, with what follows from it that this neighbour is there.
    fn explain_silence(&self, finding: Finding) -> Finding {
        let (server, port, hop) = (self.destination.ip(), self.destination.port(), self.hop.address);
        let firewall = format!("let a firewall there admit TCP port {port}");
        match (self.is_here, self.is_router()) {
            (false, _) => finding,
            (true, true) => finding
                .because(format!(
                    "{hop}, the router on the way, has answered lately, so the uplink of this machine works as far as there: the server is \
                     off, a firewall drops TCP port {port}, or the way behind that router is interrupted"
                ))
                .hint(format!(
                    "switch {server} on or connect it, or {firewall}; if nothing else behind {hop} answers either, look at that router's \
                     uplink"
                )),
            (true, false) => finding
                .because(format!(
                    "the machine at {server} has answered for its address lately, so the uplink of this machine works: that machine went \
                     off a moment ago, or a firewall there drops TCP port {port}"
                ))
                .hint(format!("switch {server} on if it is off, else {firewall}")),
        }
    }

    /// The finding that something is not reached, with the reason that nobody is there; `None` where somebody is.
    pub(super) fn explain(&self, finding: &Finding) -> Option<Finding> {
        if self.is_here {
            return None;
        }
        let at = self.hop.address;
        let on =
            net::interface_name(self.hop.interface).map_or_else(String::new, |name| format!(" on {name}"));
        let finding = finding.clone();
        if let Some(interface) = dark(self.hop) {
            let why = format!(
                "packets there leave by {interface}, which has no carrier: its cable is out, or what it leads to is off"
            );
            return Some(finding.because(why).hint(connect_cable()));
        }
        Some(match self.is_router() {
            true => finding
                .because(format!(
                    "nobody answers at {at}{on}, the router on the way: it is off or not connected, or the route is wrong"
                ))
                .hint(format!(
                    "switch that router on or connect it, or correct the route, which {} shows",
                    route_to(self.destination)
                )),
            false => finding
                .because(format!(
                    "nobody answers at {at}{on}: that machine is off or not connected, or has another address now"
                ))
                .hint(format!(
                    "switch that machine on or connect it; '{}' shows whether it answers for its address",
                    tools::neighbour(&with_interface(self.destination))
                )),
        })
    }
}

/// The interface by which packets to `hop` leave, if it has no carrier.
fn dark(hop: Hop) -> Option<String> {
    let name = net::interface_name(hop.interface)?;
    let dark = lan::without_carrier(&[]).unwrap_or_default();
    dark.into_iter().any(|(interface, _)| interface == name).then_some(name)
}

/// The finding that something does not answer, with the reason that nobody is at one of `destinations`, or where packets to it go
/// first.
pub(super) async fn explain(finding: Finding, destinations: impl IntoIterator<Item = SocketAddr>) -> Finding {
    let known = join_all(destinations.into_iter().take(MAX_DESTINATIONS).map(Neighbour::towards)).await;
    let explained = known.into_iter().flatten().find_map(|neighbour| neighbour.explain(&finding));
    explained.unwrap_or(finding)
}

/// The finding that the server at `address` does not answer, although whoever its packets are handed to is there: then the uplink
/// works as far as to that one.
pub(super) async fn explain_silence(finding: Finding, address: SocketAddr) -> Finding {
    match Neighbour::towards(address).await {
        Some(neighbour) => neighbour.explain_silence(finding),
        None => finding,
    }
}

/// The finding about an uplink by which `address` is not reached, although the router on the way is there: then the line behind
/// that one comes first.
pub(super) async fn behind_router(finding: Finding, address: SocketAddr) -> Finding {
    match Neighbour::towards(address).await {
        Some(neighbour) => neighbour.explain_far(finding),
        None => finding,
    }
}

/// Packets to an address of a LAN that leave by another interface than that LAN's, as with a VPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Astray {
    to: SocketAddr,
    by: String,
    lan: Lan,
}

impl Astray {
    /// Whether packets to `to` go astray.
    pub(super) fn find(to: SocketAddr, lans: &[Lan]) -> Option<Self> {
        let hop = neighbour::next_hop(to)?;
        Self::judge(to, net::interface_name(hop.interface)?, lans)
    }

    fn judge(to: SocketAddr, by: String, lans: &[Lan]) -> Option<Self> {
        // With a link-local address, the interface is named.
        if to.is_ipv6() {
            return None;
        }
        let own: Vec<_> = lans.iter().filter(|lan| lan.net.contains(&to.ip())).collect();
        // A second address of an interface may be called `eth0:1`.
        let is_its = |lan: &&Lan| lan.interface.split(':').next() == Some(by.as_str());
        let lan = own.first().filter(|_| !own.iter().any(is_its))?;
        Some(Self { to, lan: (*lan).clone(), by })
    }

    /// The finding that something is not reached, with this reason.
    pub(super) fn explain(&self, finding: Finding) -> Finding {
        let Self { to, by, lan } = self;
        finding
            .because(format!(
                "packets to {} leave by {by}, and not by {}, which is on its network: a VPN or a rule of routing takes them",
                to.ip(),
                lan.interface
            ))
            .hint(format!(
                "{} shows their route: take {} out of what the VPN carries, or remove that route or rule ('{}', 'ip rule')",
                route_to(*to),
                lan.net.trunc(),
                tools::ROUTES
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Layer;
    use super::*;

    #[test]
    fn an_address_where_nobody_is_and_a_router_that_is_gone_are_told() {
        let finding = Finding::wrong(Layer::Link, "no link");
        let destination = "10.77.0.21:7420".parse().unwrap();
        let hop = |address: &str| Hop { address: address.parse().unwrap(), interface: 0 };
        let absent = Neighbour { destination, hop: hop("10.77.0.21"), is_here: false };
        let explained = absent.explain(&finding).unwrap();
        assert!(
            explained.why[0].starts_with("nobody answers at 10.77.0.21: that machine is off"),
            "{explained:?}"
        );
        let routed = Neighbour { hop: hop("10.77.0.1"), ..absent };
        let explained = routed.explain(&finding).unwrap();
        assert!(explained.why[0].starts_with("nobody answers at 10.77.0.1, the router"), "{explained:?}");
        for present in [Neighbour { is_here: true, ..absent }, Neighbour { is_here: true, ..routed }] {
            assert_eq!(present.explain(&finding), None);
        }
        let silence = |neighbour: Neighbour| neighbour.explain_silence(finding.clone());
        let far = silence(Neighbour { is_here: true, ..routed });
        assert!(far.why[0].starts_with("10.77.0.1, the router on the way, has answered"), "{far:?}");
        assert!(far.hint.unwrap().starts_with("switch 10.77.0.21 on or connect it"));
        let near = silence(Neighbour { is_here: true, ..absent });
        assert!(near.why[0].contains("a firewall there drops TCP port 7420"), "{near:?}");
        assert_eq!(silence(absent), finding);
        let lost = Finding::wrong(Layer::WayOut, "lost").hint("bring it up");
        for unclear in [Neighbour { is_here: true, ..absent }, absent, routed] {
            assert_eq!(unclear.explain_far(lost.clone()), lost);
        }
        let far = Neighbour { is_here: true, ..routed }.explain_far(lost.clone());
        let hint = "see whether the router 10.77.0.1 has its own uplink; otherwise bring it up";
        assert_eq!(far.hint.as_deref(), Some(hint));
        assert!(Neighbour { is_here: true, ..absent }.is_the_destination());
        assert!(!Neighbour { is_here: true, ..routed }.is_the_destination() && !absent.is_the_destination());
    }

    #[test]
    fn packets_of_a_lan_that_leave_by_another_interface_go_astray() {
        let lan = |interface: &str, net: &str| Lan {
            interface: interface.into(),
            index: 0,
            net: net.parse().unwrap(),
        };
        let lans =
            [lan("eth0:1", "10.77.0.11/24"), lan("eth1", "10.88.0.11/24"), lan("wlan0", "10.88.0.12/24")];
        let astray = |to: &str, by: &str| Astray::judge(to.parse().unwrap(), by.into(), &lans);
        for (to, by) in [
            ("10.77.0.21:7420", "eth0"),
            // Either has the network.
            ("10.88.0.21:7420", "wlan0"),
            ("10.99.0.21:7420", "tun0"),
        ] {
            assert_eq!(astray(to, by), None, "{to} by {by}");
        }
        let found =
            astray("10.77.0.21:7420", "tun0").unwrap().explain(Finding::wrong(Layer::Link, "no link"));
        assert!(found.why[0].contains("leave by tun0, and not by eth0:1"), "{found:?}");
        assert!(found.hint.unwrap().contains("take 10.77.0.0/24 out of"));
    }
}
