//! Finds the machines on the LAN that say that they admit with a join code.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::discovery::{RETRANSMIT_MILLIS, link_address};
use laneway_sys::lan::{self, Lan, LanSocket};
use laneway_trust::random::random;
use laneway_wire::datagram::{Datagram, Keys, Message, Received, SIZE, Way};
use laneway_wire::id::{GroupId, NodeId};

/// Maximum machines that are found. The one that admits is one of them; whoever else has the code can answer, too.
pub const MAX_OFFERS: usize = 64;

/// Queries the LAN for the machines that admit with an invite of a group, until all of them had time to answer, and sends the
/// address at which each says that it enrols. `port` is the one of discovery, `own_port` the one to send from.
///
/// # Errors
/// When no query can be sent: no interface is up, or the port is in use (then try port 0).
pub async fn find_signers(
    (group, invite): (GroupId, [u8; 8]),
    key: &[u8; 32],
    (port, own_port): (u16, u16),
    only: &[String],
    found: &mpsc::Sender<SocketAddr>,
) -> io::Result<()> {
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
    let (nonce, mut known) = (random(), HashSet::new());
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
        let end = Instant::now() + wait;
        // Offers that come without a pause must not keep it from asking again.
        while Instant::now() < end {
            let offers =
                sockets.iter().map(|(socket, lan)| Box::pin(receive_offer(socket, lan, group, &keys, nonce)));
            let Ok((signer, _, _)) = timeout_at(end, futures_util::future::select_all(offers)).await else {
                break;
            };
            if known.len() < MAX_OFFERS && known.insert(signer) {
                // Fails when nobody asks any more, or cannot follow.
                let _ = found.try_send(signer);
            }
        }
    }
    Ok(())
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
