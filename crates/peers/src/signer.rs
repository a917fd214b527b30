//! Finds the machine on the LAN that admits with a join code.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::discovery::{RETRANSMIT_MILLIS, link_address};
use laneway_sys::lan::{self, Lan, LanSocket};
use laneway_trust::random::random;
use laneway_wire::datagram::{Datagram, Keys, Message, Received, SIZE, Way};
use laneway_wire::id::{GroupId, NodeId};

/// Queries the LAN for the machine that admits with an invite. Returns the address at which to enrol, or `None` when there
/// is no answer in time.
///
/// # Errors
/// When no query can be sent: no interface is up, or the port is in use (then try port 0).
pub async fn find_signer(
    group: GroupId,
    invite: [u8; 8],
    key: &[u8; 32],
    port: u16,
    own_port: u16,
    only: &[String],
) -> io::Result<Option<SocketAddr>> {
    let keys = Keys::new(key);
    let mut sockets = Vec::new();
    for lan in lan::lans(only)? {
        match LanSocket::unicast(&lan, own_port) {
            Ok(socket) => sockets.push((socket, lan)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // Such as an IPv6 address still being checked for duplicates; the other addresses are used.
            Err(error) => {
                tracing::debug!(interface = lan.interface, address = %lan.net.addr(), %error, "not used")
            }
        }
    }
    if sockets.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no network interface is up"));
    }
    let nonce = random();
    let query =
        Datagram { group, epoch: 0, sender: NodeId([0; 16]), message: Message::JoinQuery { nonce, invite } };
    for wait in RETRANSMIT_MILLIS.map(Duration::from_millis) {
        for (socket, lan) in &sockets {
            let to = lan.everybody(port);
            if let Err(error) =
                socket.send(&query.encode(&keys, Way { from: socket.own, to }, None), to).await
            {
                tracing::debug!(%to, %error, "join query not sent");
            }
        }
        let answers =
            sockets.iter().map(|(socket, lan)| Box::pin(receive_offer(socket, lan, group, &keys, nonce)));
        if let Ok((signer, _, _)) =
            tokio::time::timeout(wait, futures_util::future::select_all(answers)).await
        {
            return Ok(Some(signer));
        }
    }
    Ok(None)
}

/// Waits for the offer to the query with this nonce.
async fn receive_offer(
    socket: &LanSocket,
    lan: &Lan,
    group: GroupId,
    keys: &Keys,
    nonce: [u8; 16],
) -> SocketAddr {
    let mut buffer = [0; SIZE + 1];
    loop {
        let Ok(heard) = socket.receive(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(Received::Unsigned(datagram)) =
            Datagram::decode(&buffer[..heard.size], group, keys, Way { from: heard.from, to: socket.own })
        else {
            continue;
        };
        match datagram.message {
            Message::JoinOffer { nonce: echoed, link_port }
                if echoed == nonce && lan.net.contains(&heard.from.ip()) && heard.neighbour =>
            {
                return link_address(heard.from, link_port);
            }
            _ => {}
        }
    }
}
