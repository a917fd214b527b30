//! The SOCKS5 handshake over a stream that delivers the bytes whole or in pieces, compared with an implementation
//! of RFC 1928 that has them all at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use laneway::local::socks::{Admit, Command, HandshakeError, Refused, handshake};
use laneway::wire::target::Target;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};

/// `data` is what an app sends before it ends its direction, to a proxy with the login `a:b` and to one without a login.
pub fn run(data: &[u8]) {
    let admit = |name: &[u8], password: &[u8]| (name, password) == (b"a", b"b");
    for admit in [None, Some(&admit as &Admit<'_>)] {
        let want = reference(data, admit.is_some());
        assert_eq!(serve(&mut std::iter::once(data), admit), want, "whole");
        assert_eq!(serve(&mut super::input::pieces(data), admit), want, "in pieces");
    }
}

type Handshake = Result<Command, HandshakeError>;

/// The result of the handshake, the reply, and the bytes left for the tunnel.
type Outcome = (Handshake, Vec<u8>, Option<Vec<u8>>);

fn serve(pieces: &mut dyn Iterator<Item = &[u8]>, admit: Option<&Admit<'_>>) -> Outcome {
    let mut reader = BufReader::with_capacity(512, App { pieces, piece: &[], answer: Vec::new() });
    let asked = handshake(&mut reader, admit).now_or_never().expect("nothing here has to be waited for");
    let mut rest = reader.buffer().to_vec();
    let app = reader.into_inner();
    rest.extend_from_slice(app.piece);
    app.pieces.for_each(|piece| rest.extend_from_slice(piece));
    let rest = matches!(asked, Ok(Command::Connect(_))).then_some(rest);
    (asked, app.answer, rest)
}

struct App<'a, 'b> {
    pieces: &'b mut dyn Iterator<Item = &'a [u8]>,
    piece: &'a [u8],
    answer: Vec<u8>,
}

impl AsyncRead for App<'_, '_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.piece.is_empty() {
            self.piece = self.pieces.next().unwrap_or_default();
        }
        let (now, later) = self.piece.split_at(self.piece.len().min(into.remaining()));
        into.put_slice(now);
        self.piece = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for App<'_, '_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn reference(data: &[u8], asks: bool) -> Outcome {
    let [5, count, rest @ ..] = data else { return (Err(HandshakeError::HungUp), Vec::new(), None) };
    let Some((methods, rest)) = rest.split_at_checked((*count).into()) else {
        return (Err(HandshakeError::HungUp), Vec::new(), None);
    };
    let logs_in = match (methods.contains(&0), methods.contains(&2)) {
        (true, _) if !asks => false,
        (_, true) => true,
        _ => return (Err(HandshakeError::NoMethod), vec![5, 0xff], None),
    };
    let mut answer = vec![5, if logs_in { 2 } else { 0 }];
    let rest = if logs_in {
        match login(rest) {
            None => return (Err(HandshakeError::HungUp), answer, None),
            Some(Login::Wrong) => return (Err(HandshakeError::WrongLogin), answer, None),
            Some(Login::Other(_)) if asks => return (Err(HandshakeError::WrongLogin), answer, None),
            Some(Login::Right(rest) | Login::Other(rest)) => rest,
        }
    } else {
        rest
    };
    answer.extend_from_slice(if logs_in { &[1, 0] } else { &[] });
    let (asked, rest) = request(rest).unwrap_or((Err(HandshakeError::HungUp), &[]));
    let rest = matches!(asked, Ok(Command::Connect(_))).then(|| rest.to_vec());
    (asked, answer, rest)
}

/// A login, and what follows it.
enum Login<'a> {
    /// The one that the proxy knows.
    Right(&'a [u8]),
    /// Any other one.
    Other(&'a [u8]),
    /// Not one by name and password.
    Wrong,
}

/// RFC 1929; `None` when the login is not whole.
fn login(data: &[u8]) -> Option<Login<'_>> {
    let (&version, rest) = data.split_first()?;
    if version != 1 {
        return Some(Login::Wrong);
    }
    let (&length, rest) = rest.split_first()?;
    let (name, rest) = rest.split_at_checked(length.into())?;
    let (&length, rest) = rest.split_first()?;
    let (password, rest) = rest.split_at_checked(length.into())?;
    Some(if (name, password) == (b"a", b"b") { Login::Right(rest) } else { Login::Other(rest) })
}

fn refused(why: Refused) -> Handshake {
    Err(HandshakeError::Refused(why))
}

/// `None` when the request is not whole.
fn request(data: &[u8]) -> Option<(Handshake, &[u8])> {
    let (&[version, command, _, kind], rest) = data.split_first_chunk()?;
    if version != 5 {
        return Some((refused(Refused::Version), rest));
    }
    let (host, rest) = match kind {
        1 => rest.split_first_chunk().map(|(ip, rest)| (Ok(Ipv4Addr::from(*ip).into()), rest))?,
        4 => rest.split_first_chunk().map(|(ip, rest)| (Ok(Ipv6Addr::from(*ip).into()), rest))?,
        3 => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked((*length).into())?;
            let Ok(name) = str::from_utf8(name) else {
                return Some((refused(Refused::Name), rest));
            };
            (Err(name), rest)
        }
        _ => return Some((refused(Refused::AddressType), rest)),
    };
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    if command == 3 {
        return Some((Ok(Command::Associate(port)), rest));
    }
    if command != 1 {
        return Some((refused(Refused::Command), rest));
    }
    let target = match host {
        Ok(ip) => Some(Target::from(SocketAddr::new(ip, port))).filter(|_| port != 0),
        Err(name) => Target::new(name, port).ok(),
    };
    Some((target.map_or(refused(Refused::Target), |target| Ok(Command::Connect(target))), rest))
}
