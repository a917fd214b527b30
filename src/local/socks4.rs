//! SOCKS4 and 4a at the local port: CONNECT. BIND is rejected.

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::listener::{App, Local};
use super::session::Tunnelled;
use super::socks::refuse;
use crate::link::relay::ReplayBuffer;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::Refusal;
use crate::wire::replay;
use crate::wire::socks4::{self, Reply, Request};
use crate::wire::target::Target;

/// One read of the request: it fits as a rule.
const READ: usize = 1024;

/// Serves one app from its request to its end, or until it is a tunnel. The user id means nothing here;
/// where a login is asked for, nobody has one.
pub async fn serve(local: &Local, app: App) -> Option<Box<Tunnelled>> {
    let App { socket, peer, handshake } = app;
    let id = local.id();
    let mut record = Record::of_app(&local.telemetry, id, "socks4", peer.to_string());
    let mut buffer = BytesMut::new();
    let asked = handshake.within(request(&socket, &mut buffer)).await;
    drop(handshake);
    // The user id is no secret.
    let admitted = |target| match local.logins.are_needed() {
        true => Err((Refusal::NoLogin, "SOCKS4 has no logins".to_owned())),
        false => Ok(target),
    };
    let late = || Err((Refusal::Late, "the handshake took too long".to_owned()));
    let target = match asked.unwrap_or_else(late).and_then(admitted) {
        Ok(target) => target,
        Err((reason, why)) => {
            record.refused(reason, why);
            refuse(socket, &Reply::Rejected.bytes()).await;
            return None;
        }
    };
    record.aims_at(&target);
    let early = buffer.freeze();
    match local.routes.open(&target, id, early.clone(), replay::is_safe(&early)).await {
        Ok(upstream) => {
            // An app that is gone is noticed by the tunnel.
            let _ = net::write_all(&socket, &Reply::Granted.bytes()).await;
            let kept = Some(ReplayBuffer::new(&early));
            Some(Box::new(Tunnelled { app: socket, target, id, upstream, kept, record }))
        }
        Err(failure) => {
            record.failed(&failure);
            refuse(socket, &Reply::Rejected.bytes()).await;
            None
        }
    }
}

/// Reads the request. What the app sent after it stays in `buffer`.
async fn request(socket: &TcpStream, buffer: &mut BytesMut) -> Result<Target, (Refusal, String)> {
    loop {
        if let Some(request) =
            Request::parse(buffer).map_err(|refusal| (reason(refusal), refusal.to_string()))?
        {
            let _ = buffer.split_to(request.length);
            return Ok(request.target);
        }
        match net::read_some(socket, buffer, READ).await {
            Ok(0) => return Err((Refusal::Unfinished, "no handshake".into())),
            Ok(_) => {}
            Err(error) => return Err((Refusal::Unfinished, format!("the app hung up: {error}"))),
        }
    }
}

fn reason(refusal: socks4::Refusal) -> Refusal {
    match refusal {
        socks4::Refusal::Version => Refusal::Version,
        socks4::Refusal::Command => Refusal::Unsupported,
        socks4::Refusal::User | socks4::Refusal::Name => Refusal::TooLong,
        socks4::Refusal::Target => Refusal::Destination,
    }
}
