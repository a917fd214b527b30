//! Who on the LAN can admit this machine to a group that it has a code for.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::discovery::{RETRANSMIT_MILLIS, link_address, random};
use laneway_sys::lan::{self, Ear, Lan};
use laneway_wire::datagram::{Datagram, Keys, Message, SIZE, Way};
use laneway_wire::id::{GroupId, NodeId};

/// Asks the LAN who can admit the holder of an invite; gives the address where to enrol, or `None` when
/// nobody answers in time.
///
/// # Errors
/// When no LAN can be asked: no interface is up, or the port is taken (then try port 0).
pub async fn find_signer(
    group: GroupId,
    invite: [u8; 8],
    key: &[u8; 32],
    port: u16,
    own_port: u16,
    only: &[String],
) -> io::Result<Option<SocketAddr>> {
    let keys = Keys::new(key);
    let mut ears = Vec::new();
    for lan in lan::lans(only)? {
        match Ear::unicast(&lan, own_port) {
            Ok(ear) => ears.push((ear, lan)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // One that is still being checked for duplicates, as after a cable was plugged in, keeps no other from use.
            Err(error) => {
                tracing::debug!(interface = lan.interface, address = %lan.net.addr(), %error, "not used")
            }
        }
    }
    if ears.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no network interface is up"));
    }
    let nonce = random();
    let query =
        Datagram { group, epoch: 0, sender: NodeId([0; 16]), message: Message::JoinQuery { nonce, invite } };
    for wait in RETRANSMIT_MILLIS.map(Duration::from_millis) {
        for (ear, lan) in &ears {
            let to = lan.everybody(port);
            if let Err(error) = ear.tell(&query.encode(&keys, Way { from: ear.own, to }), to).await {
                tracing::debug!(%to, %error, "join query not sent");
            }
        }
        let answers = ears.iter().map(|(ear, lan)| Box::pin(hear_signer(ear, lan, group, &keys, nonce)));
        if let Ok((signer, _, _)) =
            tokio::time::timeout(wait, futures_util::future::select_all(answers)).await
        {
            return Ok(Some(signer));
        }
    }
    Ok(None)
}

async fn hear_signer(ear: &Ear, lan: &Lan, group: GroupId, keys: &Keys, nonce: [u8; 16]) -> SocketAddr {
    let mut buffer = [0; SIZE + 1];
    loop {
        let Ok(heard) = ear.hear(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(datagram) =
            Datagram::decode(&buffer[..heard.size], group, keys, Way { from: heard.from, to: ear.own })
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
