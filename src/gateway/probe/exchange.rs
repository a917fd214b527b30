//! A real exchange of data with a server: what a connection alone does not prove.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::{Failure, Kind, Side};
use crate::gateway::dial::Dialled;
use crate::gateway::dialer::Dialer;
use crate::gateway::silence::{NOTHING, Speech};
use crate::gateway::tls::ServerTls;
use crate::net;
use crate::wire::target::{Host, Target};

/// The deadline of one exchange, from the connection to the first byte of the answer, or to the end of a handshake.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long a server of an unknown protocol has for the first word: many speak first.
const GREETING: Duration = Duration::from_millis(500);
/// How long it has to answer an empty line.
const ANSWER: Duration = Duration::from_secs(2);

/// What is asked of a server. None of it changes anything there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Ask {
    /// A connection, and no more.
    Connection,
    /// Data in its own protocol: `OPTIONS *`, which is for that (RFC 9110 §9.3.7); a handshake of TLS, whose answer needs large
    /// packets; in an unknown protocol its first word, or any reaction to an empty line.
    Data(Speech),
    /// As `Data` in an unknown protocol, but an acknowledgement of the empty line is enough.
    Acknowledgement,
}

/// The result of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Reply {
    /// It has answered: also by refusing, or by ending the connection. With the address that a connection was made to, if one
    /// was.
    Answered(Option<SocketAddr>),
    /// It has not answered; why, as a sentence.
    Nothing(String),
    /// This gateway refuses it by its own rules, which says nothing about the way out.
    NotAsked,
}

/// Asks a server.
pub(in crate::gateway) async fn run(dialer: &Dialer, tls: &ServerTls, target: &Target, ask: Ask) -> Reply {
    let deadline = Instant::now() + DEADLINE;
    let Dialled { stream, peer } = match connect(dialer, target, deadline).await {
        Ok(dialled) => dialled,
        Err(reply) => return reply,
    };
    let address = Some(peer);
    let heard = async {
        let heard = match ask {
            Ask::Connection => Ok(()),
            Ask::Data(Speech::Http) => options(stream, target).await,
            Ask::Data(Speech::Tls) => match tls.connect(stream, target).await {
                Ok(_) => Ok(()),
                Err(failure) => return reply(&failure, address),
            },
            Ask::Data(Speech::Other) => empty_line(stream, false).await,
            Ask::Acknowledgement => empty_line(stream, true).await,
        };
        heard.map_or_else(Reply::Nothing, |()| Reply::Answered(address))
    };
    timeout_at(deadline, heard).await.unwrap_or_else(|_late| Reply::Nothing(NOTHING.into()))
}

/// Connects to a server by the deadline. The error tells whether its name or the connection failed.
async fn connect(dialer: &Dialer, target: &Target, deadline: Instant) -> Result<Dialled, Reply> {
    let seconds = DEADLINE.as_secs();
    if let Host::Name(name) = &target.host
        && !dialer.carries(target)
    {
        if dialer.judge_question(&target.host).is_err() {
            return Err(Reply::NotAsked);
        }
        match timeout_at(deadline, dialer.resolver().find(name)).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Err(reply(&failure, None)),
            Err(_late) => {
                let why = format!("this machine's name servers did not answer for {name} within {seconds} s");
                return Err(Reply::Nothing(why));
            }
        }
    }
    match timeout_at(deadline, dialer.dial(target, DEADLINE)).await {
        Ok(Ok(dialled)) => Ok(dialled),
        Ok(Err(failure)) => Err(reply(&failure, None)),
        Err(_late) => Err(Reply::Nothing(format!("{target} did not answer within {seconds} s"))),
    }
}

/// A server that refuses, or that ends the exchange, is there.
fn reply(failure: &Failure, address: Option<SocketAddr>) -> Reply {
    match (failure.side, failure.kind) {
        (Side::Server, Kind::Refused | Kind::Terminated | Kind::BadResponse | Kind::Certificate) => {
            Reply::Answered(address)
        }
        (Side::Server, _) => Reply::Nothing(failure.said_here()),
        _ => Reply::NotAsked,
    }
}

async fn options(mut stream: TcpStream, target: &Target) -> Result<(), String> {
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    // Fails only on a connection that the server has ended.
    let _ = stream.write_all(request.as_bytes()).await;
    let read = stream.read(&mut [0; 512]).await;
    is_sign_of_life(&read)
}

/// Sends an empty line to a server that does not speak first.
pub(super) async fn empty_line(mut stream: TcpStream, or_acknowledgement: bool) -> Result<(), String> {
    if let Ok(read) = timeout(GREETING, stream.read(&mut [0; 512])).await {
        return is_sign_of_life(&read);
    }
    // Fails only on a connection that the server has ended.
    let _ = stream.write_all(b"\r\n").await;
    match timeout(ANSWER, stream.read(&mut [0; 512])).await {
        Ok(read) => is_sign_of_life(&read),
        Err(_late) if or_acknowledgement && net::is_acknowledged(&stream) == Some(true) => Ok(()),
        Err(_late) => Err(NOTHING.into()),
    }
}

/// Whether the server itself reacted: data, an end or a reset. What routers say does not count.
fn is_sign_of_life(read: &io::Result<usize>) -> Result<(), String> {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    match read {
        Err(error) if matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable) => {
            Err(NOTHING.into())
        }
        _ => Ok(()),
    }
}
