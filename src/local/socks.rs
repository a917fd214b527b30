//! SOCKS5 (RFC 1928) at the local port: no authentication, CONNECT.
//!
//! fast-socks5 negotiates the method and reads the address. The command and the replies are ours, because a
//! reply must wait for the real connection and carry its true code, which fast-socks5 gives away on its own.

use bytes::Bytes;
use fast_socks5::server::{AuthMethodSuccessState, NoAuthentication, Socks5ServerProtocol, SocksServerError};
use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handshakes::HANDSHAKE;
use super::listener::{App, Local, quiet};
use super::session::Tunnelled;
use crate::link::relay::Kept;
use crate::net;
use crate::telemetry::record::Record;
use crate::wire::replay;
use crate::wire::target::Target;

/// The first byte of SOCKS5.
pub const VERSION: u8 = 5;
/// The first byte of SOCKS4.
pub const VERSION_4: u8 = 4;

const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Holds a greeting and a request of the longest name, so that one read takes each.
const BUFFER: usize = 512;

/// What came of a handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The app wants to go there.
    Connect(Target),
    /// The app is to be refused with this reply code (RFC 1928 §6), for this reason.
    Refused(u8, &'static str),
    /// The app was told that it cannot authenticate here (RFC 1928 §3).
    NoMethod,
    /// There is nobody to answer: an end before the request was whole.
    Gone,
}

/// Serves one app from its greeting to its end, or until it is a tunnel.
pub async fn serve(local: &Local, app: App) -> Option<Box<Tunnelled>> {
    let App { socket, peer, handshake: limits } = app;
    let id = local.id();
    let mut record = Record::of_app(&local.telemetry, id, "socks5", peer.to_string());
    let mut reader = BufReader::with_capacity(BUFFER, socket);
    let asked = limits.within(handshake(&mut reader)).await;
    drop(limits);
    let early = Bytes::copy_from_slice(reader.buffer());
    let app = reader.into_inner();
    let target = match asked {
        Some(Asked::Connect(target)) => target,
        Some(Asked::Refused(code, why)) => {
            record.ended(why);
            refuse(app, &reply(code)).await;
            return None;
        }
        Some(Asked::NoMethod) => {
            record.ended("the app does not do without a login");
            refuse(app, &[]).await;
            return None;
        }
        Some(Asked::Gone) => {
            record.ended("no handshake");
            return None;
        }
        None => {
            record.ended("the handshake took too long");
            return None;
        }
    };
    record.aims_at(&target);
    match local.routes.open(&target, id, early.clone(), replay::is_safe(&early)).await {
        Ok(upstream) => {
            // An app that is gone is noticed by the tunnel.
            let _ = net::write_all(&app, &reply(SUCCEEDED)).await;
            let kept = Some(Kept::new(&early));
            Some(Box::new(Tunnelled { app, target, id, upstream, kept, record }))
        }
        Err(failure) => {
            record.failed(&failure);
            refuse(app, &reply(failure.socks5_reply())).await;
            None
        }
    }
}

/// Tells a SOCKS4 app that this proxy speaks SOCKS5 (request rejected).
pub async fn refuse_version_4(app: App) {
    tracing::info!(peer = %app.peer, "SOCKS4 refused: point the app at SOCKS5");
    drop(app.handshake);
    refuse(app.socket, &[0, 0x5b, 0, 0, 0, 0, 0, 0]).await;
}

/// Reads the greeting and the request (RFC 1928 §3, §4), and answers the greeting. What the app sent after them stays
/// in `reader`.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(reader: &mut BufReader<S>) -> Asked {
    let negotiated = Socks5ServerProtocol::start(&mut *reader).negotiate_auth(&[NoAuthentication]).await;
    let negotiated = match negotiated {
        Ok(negotiated) => negotiated,
        Err(SocksServerError::AuthMethodUnacceptable(_)) => return Asked::NoMethod,
        Err(_) => return Asked::Gone,
    };
    let reader = negotiated.into_inner();
    let mut head = [0; 4];
    if reader.read_exact(&mut head).await.is_err() {
        return Asked::Gone;
    }
    let [version, command, _, address_type] = head;
    if version != VERSION {
        return Asked::Refused(GENERAL_FAILURE, "not a SOCKS5 request");
    }
    let address = match read_address(reader, address_type).await {
        Ok(address) => address,
        Err(AddrError::IncorrectAddressType) => {
            return Asked::Refused(ADDRESS_TYPE_NOT_SUPPORTED, "address type not supported");
        }
        Err(AddrError::Utf8(_)) => return Asked::Refused(GENERAL_FAILURE, "the name is not text"),
        Err(_) => return Asked::Gone,
    };
    if command != CONNECT {
        return Asked::Refused(COMMAND_NOT_SUPPORTED, "command not supported");
    }
    let target = match address {
        TargetAddr::Ip(address) if address.port() != 0 => Ok(Target::from(address)),
        TargetAddr::Ip(_) => Target::new("", 0),
        TargetAddr::Domain(name, port) => Target::new(&name, port),
    };
    target.map_or(Asked::Refused(GENERAL_FAILURE, "not a destination"), Asked::Connect)
}

/// `VER REP RSV ATYP BND.ADDR BND.PORT`. The bound address is at the gateway and of no use to the app: zeroes,
/// as other proxies answer.
fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// Sends the last answer of a connection, and sees to it that it arrives, whatever the app has sent already.
async fn refuse(socket: TcpStream, answer: &[u8]) {
    match timeout(HANDSHAKE, net::write_all(&socket, answer)).await {
        Ok(Ok(())) => net::linger(&socket).await,
        Ok(Err(error)) => quiet(&error),
        Err(_) => tracing::debug!("the app does not read its answer"),
    }
}
