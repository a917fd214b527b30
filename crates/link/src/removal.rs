//! The proof that the group has removed a node, which a gateway gives to that node alone when it does not accept its link: the
//! word of one gateway is not enough. The protocol: once both ends have shown certificates of the group, revoked or not, the
//! gateway sends the length of its revocation list (u32, big-endian) and the list; none to a node that is not on it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::handshake::Hello;
use super::tls::{self, ALPN_REMOVAL, Credentials};
use laneway_sys::mark;
use laneway_sys::net::Segments;
use laneway_trust::update::MAX_CRL;
use laneway_wire::id::NodeId;

/// How long the exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How many bytes are encrypted before the other end takes them. The list itself is that of all.
const STEP: usize = 4 * 1024;

/// Asks the gateway at `address` for the proof. `config` is that of links.
///
/// # Errors
/// When it gives none.
pub(super) async fn ask(
    address: SocketAddr,
    id: Option<NodeId>,
    segments: Segments,
    config: &ClientConfig,
) -> io::Result<Vec<u8>> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN_REMOVAL.to_vec()];
    config.enable_secret_extraction = false;
    let asked = async {
        let tcp = mark::connect_with(address, segments).await?;
        let mut tls = TlsConnector::from(Arc::new(config)).connect(tls::server_name(id), tcp).await?;
        let length = usize::try_from(tls.read_u32().await?).unwrap_or(usize::MAX);
        if length > MAX_CRL {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut list = vec![0; length];
        tls.read_exact(&mut list).await?;
        Ok(list)
    };
    timeout(DEADLINE, asked).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}

/// Gives a node that asks for it the proof that the group has removed it, if it has.
///
/// # Errors
/// When the other end is not a node of the group, or does not take it.
pub async fn prove(hello: Hello, credentials: &Credentials) -> io::Result<()> {
    let proved = async {
        let config = credentials.removal().map_err(io::Error::other)?;
        let mut tls = TlsAcceptor::from(config).accept(hello.into_bounded()).await?;
        tls.get_mut().1.set_buffer_limit(Some(STEP));
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = tls::peer(certificates).map_err(io::Error::other)?;
        let group = credentials.membership.group();
        let list = if group.update.revokes(peer.id) { group.update.crl().as_ref() } else { &[] };
        tls.write_u32(u32::try_from(list.len()).map_err(io::Error::other)?).await?;
        tls.write_all(list).await?;
        tls.shutdown().await
    };
    timeout(DEADLINE, proved).await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}
