//! SOCKS5 (RFC 1928) at the local port: CONNECT and UDP ASSOCIATE, without authentication or by name and password
//! (RFC 1929).
//!
//! fast-socks5 negotiates the method and reads the address. The command and the replies are ours, because a
//! reply must wait for the real connection and carry its true code, which fast-socks5 gives away on its own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use fast_socks5::server::{NoAuthentication, PasswordAuthentication, Socks5ServerProtocol, SocksServerError};
use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::associate::Association;
use super::endpoint::Peer;
use super::handshakes::HANDSHAKE;
use super::listener::{App, Local, quiet};
use super::session::Tunnelled;
use crate::link::relay::ReplayBuffer;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::Refusal;
use crate::wire::replay;
use crate::wire::target::Target;

/// The first byte of SOCKS5.
pub const VERSION: u8 = 5;

/// The version of the login, and what it came to (RFC 1929 §2).
const LOGIN: u8 = 1;
const WELCOME: [u8; 2] = [LOGIN, 0];
const WRONG: [u8; 2] = [LOGIN, 1];

const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
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
    /// The app wants a way for its datagrams, which will come from this port; 0 if it does not know yet.
    Associate(u16),
    /// The app is to be refused.
    Refused(Refused),
    /// The app was told that it cannot authenticate here (RFC 1928 §3).
    NoMethod,
    /// The app is to be told that its login is wrong (RFC 1929 §2).
    WrongLogin,
    /// There is nobody to answer: an end before the request was whole.
    Gone,
}

/// Why an app is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another version after the greeting.
    #[error("not a SOCKS5 request")]
    Version,
    /// BIND, or what nobody knows; UDP where the app has no address.
    #[error("command not supported")]
    Command,
    /// Neither an address nor a name.
    #[error("address type not supported")]
    AddressType,
    /// A name of other bytes than text.
    #[error("the name is not text")]
    Name,
    /// Port 0, or a name that is none.
    #[error("not a destination")]
    Target,
}

impl Refused {
    /// The code of the reply (RFC 1928 §6).
    pub fn reply(self) -> u8 {
        match self {
            Self::Version | Self::Name | Self::Target => GENERAL_FAILURE,
            Self::Command => COMMAND_NOT_SUPPORTED,
            Self::AddressType => ADDRESS_TYPE_NOT_SUPPORTED,
        }
    }

    fn reason(self) -> Refusal {
        match self {
            Self::Version => Refusal::Version,
            Self::Command => Refusal::Unsupported,
            Self::AddressType => Refusal::AddressType,
            Self::Name | Self::Target => Refusal::Destination,
        }
    }
}

/// Serves one app from its greeting to its end, or until it is a tunnel.
pub async fn serve(local: &Local, app: App) -> Option<Box<Tunnelled>> {
    let App { socket, peer, handshake: limits } = app;
    let id = local.id();
    let mut record = Record::of_app(&local.telemetry, id, "socks5", peer.to_string());
    let mut reader = BufReader::with_capacity(BUFFER, socket);
    let admit = |name: &[u8], password: &[u8]| local.logins.admit(peer.source(), name, password);
    let admit: Option<&Admit<'_>> = if local.logins.are_needed() { Some(&admit) } else { None };
    let asked = limits.within(handshake(&mut reader, admit)).await;
    drop(limits);
    let early = Bytes::copy_from_slice(reader.buffer());
    let app = reader.into_inner();
    let target = match asked {
        Some(Asked::Connect(target)) => target,
        // Who comes over a unix socket has no address that its datagrams could come from.
        Some(Asked::Associate(_)) if matches!(peer, Peer::User(_)) => {
            return turn_away(app, Refused::Command, record).await;
        }
        Some(Asked::Associate(port)) => {
            Box::pin(associate(local, app, &peer, port, record)).await;
            return None;
        }
        Some(Asked::Refused(why)) => return turn_away(app, why, record).await,
        Some(Asked::NoMethod) => {
            let (reason, why) = match local.logins.are_needed() {
                true => (Refusal::NoLogin, "the app has no login"),
                false => (Refusal::Unsupported, "the app does not do without a login"),
            };
            record.refused(reason, why);
            refuse(app, &[]).await;
            return None;
        }
        Some(Asked::WrongLogin) => {
            record.refused(Refusal::WrongLogin, "wrong login");
            refuse(app, &WRONG).await;
            return None;
        }
        Some(Asked::Gone) => {
            record.refused(Refusal::Unfinished, "no handshake");
            return None;
        }
        None => {
            record.refused(Refusal::Late, "the handshake took too long");
            return None;
        }
    };
    record.aims_at(&target);
    match local.routes.open(&target, id, early.clone(), replay::is_safe(&early)).await {
        Ok(upstream) => {
            // An app that is gone is noticed by the tunnel.
            let _ = net::write_all(&app, &reply(SUCCEEDED)).await;
            let kept = Some(ReplayBuffer::new(&early));
            Some(Box::new(Tunnelled { app, target, id, upstream, kept, record }))
        }
        Err(failure) => {
            record.failed(&failure);
            refuse(app, &reply(failure.socks5_reply())).await;
            None
        }
    }
}

/// Says no to what an app asks for.
async fn turn_away(app: TcpStream, why: Refused, mut record: Record) -> Option<Box<Tunnelled>> {
    record.refused(why.reason(), why.to_string());
    refuse(app, &reply(why.reply())).await;
    None
}

/// Carries an app's datagrams as long as its connection stands.
async fn associate(local: &Local, app: TcpStream, peer: &Peer, port: u16, mut record: Record) {
    record.is_for("udp");
    let bound = Association::bind(&app, port, &local.telemetry).await;
    match bound.and_then(|association| Ok((association.address()?, association))) {
        Ok((address, association)) => {
            // An app that is gone is noticed by the association.
            let _ = net::write_all(&app, &reply_with(SUCCEEDED, address)).await;
            association.serve(local, app, peer, &mut record).await;
        }
        Err(error) => {
            record.ended(format!("no UDP socket: {error}"));
            refuse(app, &reply(GENERAL_FAILURE)).await;
        }
    }
}

/// Says whether a name and a password are right.
pub type Admit<'a> = dyn Fn(&[u8], &[u8]) -> bool + Sync + 'a;

/// Reads the greeting, the login if `admit` judges one, and the request (RFC 1928 §3, §4), and answers all but the last.
/// What the app sent after them stays in `reader`.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    reader: &mut BufReader<S>,
    admit: Option<&Admit<'_>>,
) -> Asked {
    let greeting = Socks5ServerProtocol::start(&mut *reader);
    let agreed = match admit {
        None => greeting.negotiate_auth(&[NoAuthentication]).await.map(drop),
        Some(_) => greeting.negotiate_auth(&[PasswordAuthentication]).await.map(drop),
    };
    match agreed {
        Ok(()) => {}
        Err(SocksServerError::AuthMethodUnacceptable(_)) => return Asked::NoMethod,
        Err(_) => return Asked::Gone,
    }
    if let Some(admit) = admit {
        match login(reader).await {
            Ok(Some((name, password))) if admit(&name, &password) => {
                if reader.write_all(&WELCOME).await.is_err() {
                    return Asked::Gone;
                }
            }
            Ok(_) => return Asked::WrongLogin,
            Err(_) => return Asked::Gone,
        }
    }
    let mut head = [0; 4];
    if reader.read_exact(&mut head).await.is_err() {
        return Asked::Gone;
    }
    let [version, command, _, address_type] = head;
    if version != VERSION {
        return Asked::Refused(Refused::Version);
    }
    let address = match read_address(reader, address_type).await {
        Ok(address) => address,
        Err(AddrError::IncorrectAddressType) => {
            return Asked::Refused(Refused::AddressType);
        }
        Err(AddrError::Utf8(_)) => return Asked::Refused(Refused::Name),
        Err(_) => return Asked::Gone,
    };
    if command == UDP_ASSOCIATE {
        // The host says nothing: only the one at the other end of this connection is heard.
        return Asked::Associate(match address {
            TargetAddr::Ip(address) => address.port(),
            TargetAddr::Domain(_, port) => port,
        });
    }
    if command != CONNECT {
        return Asked::Refused(Refused::Command);
    }
    let target = match address {
        TargetAddr::Ip(address) if address.port() != 0 => Ok(Target::from(address)),
        TargetAddr::Ip(_) => Target::new("", 0),
        TargetAddr::Domain(name, port) => Target::new(&name, port),
    };
    target.map_or(Asked::Refused(Refused::Target), Asked::Connect)
}

/// Reads a name and a password (RFC 1929 §2); `None` when it is another kind of login. Not left to fast-socks5, which
/// writes passwords to its log.
async fn login(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    if reader.read_u8().await? != LOGIN {
        return Ok(None);
    }
    let mut parts = [Vec::new(), Vec::new()];
    for part in &mut parts {
        part.resize(reader.read_u8().await?.into(), 0);
        reader.read_exact(part).await?;
    }
    let [name, password] = parts;
    Ok(Some((name, password)))
}

/// `VER REP RSV ATYP BND.ADDR BND.PORT`. The bound address is at the gateway and of no use to the app: zeroes,
/// as other proxies answer.
fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The same with an address that means something: where datagrams are to be sent (RFC 1928 §6).
fn reply_with(code: u8, bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![VERSION, code, 0];
    match bound.ip() {
        IpAddr::V4(ip) => {
            reply.push(1);
            reply.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            reply.push(4);
            reply.extend(ip.octets());
        }
    }
    reply.extend(bound.port().to_be_bytes());
    reply
}

/// Sends the last answer of a connection, and sees to it that it arrives, whatever the app has sent already.
pub(super) async fn refuse(socket: TcpStream, answer: &[u8]) {
    match timeout(HANDSHAKE, net::write_all(&socket, answer)).await {
        Ok(Ok(())) => net::linger(&socket).await,
        Ok(Err(error)) => quiet(&error),
        Err(_) => tracing::debug!("the app does not read its answer"),
    }
}
