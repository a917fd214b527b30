//! The addresses of this machine and the ports that this node listens on. A destination among them would reach the
//! gateway's own services or form a loop.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::net;

/// How long the list of the machine's addresses is cached. It expires because interfaces come and go while the node
/// runs.
const FRESH: Duration = Duration::from_secs(1);

/// This machine's addresses, and the addresses and ports that this node listens on.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    ports: RwLock<Vec<SocketAddr>>,
    link_port: AtomicU16,
    listed: Mutex<Option<(Instant, Arc<HashSet<IpAddr>>)>>,
    networks: Mutex<Option<(Instant, Vec<IpNet>)>>,
}

impl OwnAddresses {
    /// Records that this node listens on `address`.
    pub fn listens_on(&self, address: SocketAddr) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).push(net::plain(address));
    }

    /// Records that this node accepts links on `address`.
    pub fn accepts_links_on(&self, address: SocketAddr) {
        self.link_port.store(address.port(), Relaxed);
        self.listens_on(address);
    }

    /// Whether other gateways on this machine's networks are likely to accept links at `address`: they use the same port, on
    /// all their interfaces.
    pub fn is_like_own_link(&self, address: SocketAddr) -> bool {
        address.port() == self.link_port.load(Relaxed) && self.shares_network_with(address.ip())
    }

    /// All addresses of all interfaces of this machine, cached briefly. If they cannot be listed, the previous list.
    ///
    /// # Errors
    /// When the system cannot list them and has never listed them before.
    pub fn addresses(&self) -> io::Result<Arc<HashSet<IpAddr>>> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listed {
            Some((since, addresses)) if since.elapsed() < FRESH => Ok(addresses.clone()),
            old => {
                let addresses = match (net::own_addresses(), old) {
                    (Ok(addresses), _) => Arc::new(addresses),
                    (Err(error), Some((_, addresses))) => {
                        tracing::debug!(%error, "interfaces not listed");
                        addresses.clone()
                    }
                    (Err(error), None) => return Err(error),
                };
                *listed = Some((Instant::now(), addresses.clone()));
                Ok(addresses)
            }
        }
    }

    /// Whether `ip` is on a network of one of this machine's interfaces. The list is cached briefly; when it cannot be made,
    /// every address counts as on one.
    pub fn shares_network_with(&self, ip: IpAddr) -> bool {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if networks.as_ref().is_none_or(|(since, _)| since.elapsed() >= FRESH) {
            match net::own_networks() {
                Ok(found) => *networks = Some((Instant::now(), found)),
                Err(error) => tracing::debug!(%error, "networks not listed"),
            }
        }
        networks.as_ref().is_none_or(|(_, found)| found.iter().any(|network| network.contains(&ip)))
    }

    /// Whether `address` is one that this node itself listens on.
    pub fn is_this_node(&self, address: SocketAddr) -> bool {
        let address = net::plain(address);
        let ip = address.ip();
        let is_own = || ip.is_loopback() || self.addresses().is_ok_and(|own| own.contains(&ip));
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        ports.iter().any(|port| {
            port.port() == address.port() && (port.ip() == ip || port.ip().is_unspecified() && is_own())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_every_address_is_this_node_at_each_of_them() {
        let own = OwnAddresses::default();
        own.listens_on("[::]:7420".parse().unwrap());
        own.listens_on("127.0.0.2:1080".parse().unwrap());
        for (address, is_own) in [
            ("127.0.0.1:7420", true),
            ("127.1.2.3:7420", true),
            ("[::1]:7420", true),
            ("[::ffff:127.0.0.1]:7420", true),
            ("127.0.0.1:7421", false),
            ("192.0.2.1:7420", false),
            ("127.0.0.2:1080", true),
            ("127.0.0.3:1080", false),
        ] {
            assert_eq!(own.is_this_node(address.parse().unwrap()), is_own, "{address}");
        }
    }

    #[test]
    fn the_machines_addresses_are_listed() {
        assert!(OwnAddresses::default().addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
