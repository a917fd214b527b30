//! SOCKS5 (RFC 1928) at the local port: CONNECT and UDP ASSOCIATE, without authentication or by name and password
//! (RFC 1929).
//!
//! fast-socks5 reads the address. The rest is handled here: which methods are accepted depends on what the app offers, and a
//! reply must wait for the connection to the server and carry its real code, but fast-socks5 would send it on its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use fast_socks5::util::target_addr::{AddrError, TargetAddr, read_address};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::answer::send_last;
use super::associate::Association;
use super::context::{App, Local};
use super::endpoint::AppPeer;
use super::session::Session;
use crate::memory::Account;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::target::Target;

/// The first byte of SOCKS5.
pub const VERSION: u8 = 5;

/// The methods that are known, and the answer where none of them is offered (RFC 1928 §3).
const WITHOUT_LOGIN: u8 = 0;
const BY_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;

/// The version of the login, and its two answers (RFC 1929 §2).
const LOGIN: u8 = 1;
const LOGIN_ACCEPTED: [u8; 2] = [LOGIN, 0];
const LOGIN_REJECTED: [u8; 2] = [LOGIN, 1];

const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Size of the read buffer, in bytes: holds a greeting, or a request with the longest name, so that one read takes each.
const BUFFER: usize = 512;

/// What an app asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// A connection to this target.
    Connect(Target),
    /// An association for datagrams, with the port in the request: the app's own UDP port, 0, or any other.
    Associate(u16),
}

/// Why a handshake yields no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The request cannot be served; the app is to be told so.
    Refused(Refused),
    /// No method in common; the app has been told so (RFC 1928 §3).
    NoMethod,
    /// The login is wrong; the app is to be told so (RFC 1929 §2).
    WrongLogin,
    /// The connection ended before the request was complete.
    HungUp,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another version after the greeting.
    #[error("not a SOCKS5 request")]
    Version,
    /// BIND or an unknown command; UDP for an app that has no address.
    #[error("command not supported")]
    Command,
    /// Neither an address nor a name.
    #[error("address type not supported")]
    AddressType,
    /// The bytes of the name are not text.
    #[error("the name is not text")]
    Name,
    /// Port 0, or an invalid name.
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

    fn reason(self) -> RefusalReason {
        match self {
            Self::Version => RefusalReason::Version,
            Self::Command => RefusalReason::Unsupported,
            Self::AddressType => RefusalReason::AddressType,
            Self::Name | Self::Target => RefusalReason::Destination,
        }
    }
}

/// Serves one app from its greeting until it has become a session, or to its end.
pub async fn serve(local: &Local, app: App) -> Option<Box<Session>> {
    let App { socket, peer, handshake: limits, account } = app;
    let id = local.next_id();
    let record = Record::of_app(&local.telemetry, id, "socks5", peer.to_string());
    // The source of a login matters only where one is needed.
    let are_needed = local.logins.are_needed();
    let port = if are_needed { socket.local_addr().ok() } else { None };
    let mut reader = BufReader::with_capacity(BUFFER, socket);
    let admit = |name: &[u8], password: &[u8]| local.logins.admit(peer.login_source(port), name, password);
    let admit: Option<&Admit<'_>> = if are_needed { Some(&admit) } else { None };
    let command = limits.within(handshake(&mut reader, admit)).await;
    drop(limits);
    let early = Bytes::copy_from_slice(reader.buffer());
    let app = reader.into_inner();
    match command {
        Some(Ok(Command::Connect(target))) => connect(local, (app, account), target, id, early, record).await,
        // An app on a unix socket has no address that its datagrams could come from.
        Some(Ok(Command::Associate(_))) if matches!(peer, AppPeer::User(_)) => {
            refuse(local, app, HandshakeError::Refused(Refused::Command), record).await;
            None
        }
        Some(Ok(Command::Associate(port))) => {
            Box::pin(associate(local, app, &peer, port, record)).await;
            None
        }
        Some(Err(error)) => {
            refuse(local, app, error, record).await;
            None
        }
        None => {
            let mut record = record;
            record.refused(RefusalReason::Late, "the handshake took too long");
            None
        }
    }
}

async fn connect(
    local: &Local,
    app: (TcpStream, Arc<Account>),
    target: Target,
    id: u64,
    early: Bytes,
    record: Record,
) -> Option<Box<Session>> {
    match Session::open(&local.routes, app, target, id, early, record).await {
        Ok(session) => {
            // If the app is gone, the session notices.
            let _ = net::write_all(session.app(), &reply(SUCCEEDED)).await;
            Some(session)
        }
        Err((app, failure)) => {
            send_last(app, &reply(failure.socks5_reply())).await;
            None
        }
    }
}

/// Tells the app why its handshake failed, unless it has been told or has hung up.
async fn refuse(local: &Local, app: TcpStream, error: HandshakeError, mut record: Record) {
    match error {
        HandshakeError::Refused(why) => {
            record.refused(why.reason(), why.to_string());
            send_last(app, &reply(why.reply())).await;
        }
        HandshakeError::NoMethod => {
            let (reason, why) = match local.logins.are_needed() {
                true => (RefusalReason::NoLogin, "the app has no login"),
                false => (RefusalReason::Unsupported, "the app offers no known method"),
            };
            record.refused(reason, why);
            send_last(app, &[]).await;
        }
        HandshakeError::WrongLogin => {
            record.refused(RefusalReason::WrongLogin, "wrong login");
            send_last(app, &LOGIN_REJECTED).await;
        }
        HandshakeError::HungUp => record.refused(RefusalReason::Unfinished, "no handshake"),
    }
}

/// Carries an app's datagrams until its connection ends.
async fn associate(local: &Local, app: TcpStream, peer: &AppPeer, port: u16, mut record: Record) {
    record.is_for("udp");
    let bound = Association::bind(&app, port, &local.telemetry).await;
    match bound.and_then(|association| Ok((association.address()?, association))) {
        Ok((address, association)) => {
            // If the app is gone, the association notices.
            let _ = net::write_all(&app, &reply_with(SUCCEEDED, address)).await;
            association.serve(local, app, peer, &mut record).await;
        }
        Err(error) => {
            record.ended(format!("no UDP socket: {error}"));
            send_last(app, &reply(GENERAL_FAILURE)).await;
        }
    }
}

/// Decides whether a name and a password are accepted.
pub type Admit<'a> = dyn Fn(&[u8], &[u8]) -> bool + Sync + 'a;

/// Reads the greeting, the login, and the request (RFC 1928 §3, §4), and answers all but the request. `admit` judges the login;
/// without it none is needed. What the app sent after them stays in `reader`.
///
/// # Errors
/// [`HandshakeError`].
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    reader: &mut BufReader<S>,
    admit: Option<&Admit<'_>>,
) -> Result<Command, HandshakeError> {
    if greeting(reader, admit.is_some()).await? == BY_PASSWORD {
        match login(reader).await {
            Ok(Some((name, password))) if admit.is_none_or(|admit| admit(&name, &password)) => {
                reader.write_all(&LOGIN_ACCEPTED).await.map_err(hung_up)?;
            }
            Ok(_) => return Err(HandshakeError::WrongLogin),
            Err(error) => return Err(hung_up(error)),
        }
    }
    request(reader).await
}

/// Reads the greeting and answers with the method, which it returns. Many apps that have a login offer only that: where none is
/// needed, any is accepted.
async fn greeting<S: AsyncRead + AsyncWrite + Unpin>(
    reader: &mut BufReader<S>,
    needs_login: bool,
) -> Result<u8, HandshakeError> {
    if reader.read_u8().await.map_err(hung_up)? != VERSION {
        return Err(HandshakeError::HungUp);
    }
    let mut offered = vec![0; reader.read_u8().await.map_err(hung_up)?.into()];
    reader.read_exact(&mut offered).await.map_err(hung_up)?;
    let accepted: &[u8] = if needs_login { &[BY_PASSWORD] } else { &[WITHOUT_LOGIN, BY_PASSWORD] };
    let method = accepted.iter().copied().find(|method| offered.contains(method));
    reader.write_all(&[VERSION, method.unwrap_or(NO_METHOD)]).await.map_err(hung_up)?;
    method.ok_or(HandshakeError::NoMethod)
}

async fn request(reader: &mut (impl AsyncRead + Unpin)) -> Result<Command, HandshakeError> {
    let mut head = [0; 4];
    reader.read_exact(&mut head).await.map_err(hung_up)?;
    let [version, command, _, address_type] = head;
    let refused = |why| Err(HandshakeError::Refused(why));
    if version != VERSION {
        return refused(Refused::Version);
    }
    let address = match read_address(reader, address_type).await {
        Ok(address) => address,
        Err(AddrError::IncorrectAddressType) => return refused(Refused::AddressType),
        Err(AddrError::Utf8(_)) => return refused(Refused::Name),
        Err(_) => return Err(HandshakeError::HungUp),
    };
    match command {
        CONNECT => {}
        // The host is ignored: only datagrams from the other end of this connection are accepted. Many apps write their
        // destination here.
        UDP_ASSOCIATE => {
            return Ok(Command::Associate(match address {
                TargetAddr::Ip(address) => address.port(),
                TargetAddr::Domain(_, port) => port,
            }));
        }
        _ => return refused(Refused::Command),
    }
    let target = match address {
        TargetAddr::Ip(address) if address.port() != 0 => Ok(Target::from(address)),
        TargetAddr::Ip(_) => return refused(Refused::Target),
        TargetAddr::Domain(name, port) => Target::new(&name, port),
    };
    target.map_or(refused(Refused::Target), |target| Ok(Command::Connect(target)))
}

fn hung_up(_: io::Error) -> HandshakeError {
    HandshakeError::HungUp
}

/// Reads a name and a password (RFC 1929 §2); `None` for another kind of login. Not left to fast-socks5, which writes
/// passwords to its log.
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

/// `VER REP RSV ATYP BND.ADDR BND.PORT` (RFC 1928 §6). The bound address is the gateway's and of no use to the app: zeroes,
/// as other proxies answer.
fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// A reply with the address to which the app sends its datagrams.
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
