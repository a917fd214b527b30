//! Whether this machine is connected to anything but the network of its clients. Where it is not, a lost way out cannot have come
//! back, whatever the time.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::served::ServedLinks;
use crate::net;
use crate::sys::connected;

/// The interfaces that links of clients have come from.
#[derive(Debug, Default)]
pub(super) struct ClientInterfaces(BTreeSet<String>);

impl ClientInterfaces {
    /// Whether this machine is connected to anything else now. `true` where the system does not tell.
    pub(super) fn has_path_beyond(&mut self, served: &ServedLinks) -> bool {
        let Ok(up) = net::networks_up() else { return true };
        self.learn(&up, |network| served.come_from(network));
        self.is_passed(&up, connected::has_router)
    }

    fn learn(&mut self, up: &[(String, IpNet)], is_of_clients: impl Fn(&IpNet) -> bool) {
        let found = up.iter().filter(|(_, network)| is_of_clients(network));
        self.0.extend(found.map(|(name, _)| name.clone()));
    }

    fn is_passed(&self, up: &[(String, IpNet)], has_router: impl Fn(&str) -> bool) -> bool {
        up.iter().any(|(name, _)| !self.0.contains(name) || has_router(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_on_the_clients_network_alone_has_no_path_beyond_it_without_a_router() {
        let network = |name: &str, net: &str| (name.to_owned(), net.parse::<IpNet>().unwrap());
        let lan = [network("eth0", "10.77.0.1/24"), network("eth0", "fd00::1/64")];
        let both = [&lan[..], &[network("eth1", "10.88.0.1/24")]].concat();
        let mut clients = ClientInterfaces::default();
        assert!(clients.is_passed(&lan, |_| false), "which network the clients are in is not known yet");
        clients.learn(&both, |network| network.to_string().starts_with("10.77"));
        assert!(clients.is_passed(&both, |_| false));
        assert!(!clients.is_passed(&lan, |_| false), "eth1 is down");
        assert!(clients.is_passed(&lan, |name| name == "eth0"), "a router on the LAN");
        assert!(!clients.is_passed(&[], |_| true), "no interface is up");
    }
}
