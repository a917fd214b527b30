//! The network of the demo: loopback addresses of this machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use laneway_sys::lan::{LanSocket, lans};
use tokio::time::timeout;

/// The address of a machine on each network: the network's first number, and the machine's.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// How long a broadcast on loopback may take, on a busy machine.
const ARRIVAL: Duration = Duration::from_millis(500);

/// How the machines of the demo find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Each has a loopback address of its own, and all hear broadcasts to this UDP port.
    Lan(u16),
    /// Loopback is not a LAN on this system: it has one address, or no broadcasts. The gateways are named.
    Named,
}

/// One machine's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    FirstGateway,
    SecondGateway,
    Client,
}

impl Network {
    /// Finds out which of these ways this system offers.
    ///
    /// # Errors
    /// The operating system's error, when not even loopback can be used.
    pub(crate) async fn find() -> io::Result<Self> {
        let port = free_port(Ipv4Addr::LOCALHOST)?;
        match timeout(ARRIVAL, carries_broadcasts(port)).await {
            Ok(Ok(true)) => Ok(Self::Lan(port)),
            _ => Ok(Self::Named),
        }
    }

    /// The address of a machine.
    pub(crate) fn address(self, place: Place) -> Ipv4Addr {
        match (self, place) {
            (Self::Named, _) => Ipv4Addr::LOCALHOST,
            (Self::Lan(_), Place::FirstGateway) => FIRST,
            (Self::Lan(_), Place::SecondGateway) => SECOND,
            (Self::Lan(_), Place::Client) => CLIENT,
        }
    }

    /// The options by which a machine at this address takes part in discovery. Without an address it gets a port of its own.
    ///
    /// # Errors
    /// The operating system's error.
    pub(crate) fn options(self, address: Ipv4Addr) -> io::Result<[String; 4]> {
        let port = match self {
            Self::Lan(port) => port,
            Self::Named => free_port(address)?,
        };
        Ok(["--lan".into(), address.to_string(), "--discovery-port".into(), port.to_string()])
    }
}

/// A UDP port that was free.
fn free_port(address: Ipv4Addr) -> io::Result<u16> {
    UdpSocket::bind((address, 0)).and_then(|socket| socket.local_addr()).map(|address| address.port())
}

/// Whether, as on a LAN, one machine hears another's broadcast, sees its address, and hears nothing that is sent to the
/// other alone.
async fn carries_broadcasts(port: u16) -> io::Result<bool> {
    let lans = lans(&[FIRST.to_string(), SECOND.to_string()])?;
    let [first, second] = &*lans else { return Ok(false) };
    let (sender, receiver) = (LanSocket::unicast(first, port)?, LanSocket::unicast(second, port)?);
    let ear = LanSocket::broadcast(second, port, &receiver)?;
    let ear = ear.as_ref().unwrap_or(&receiver);
    let mut buffer = [0; 16];
    sender.send(b"everybody", first.everybody(port)).await?;
    let heard = ear.receive(&mut buffer).await?;
    if heard.from != sender.own {
        return Ok(false);
    }
    receiver.send(b"one", sender.own).await?;
    let answer = sender.receive(&mut buffer).await?;
    Ok(answer.from == SocketAddr::from((SECOND, port)) && &buffer[..answer.size] == b"one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_network_gives_the_machines_addresses_at_which_they_can_listen() {
        for network in [Network::find().await.unwrap(), Network::Named] {
            for place in [Place::FirstGateway, Place::SecondGateway, Place::Client] {
                let address = network.address(place);
                std::net::TcpListener::bind((address, 0)).unwrap();
                assert_eq!(network.options(address).unwrap()[1], address.to_string());
            }
        }
    }
}
