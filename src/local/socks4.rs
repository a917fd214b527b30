//! SOCKS4 and 4a at the local port: CONNECT. BIND is rejected.

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::answer::send_last;
use super::context::{App, Local};
use super::session::Session;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::socks4::{self, Reply, Request};
use crate::wire::target::Target;

/// The size of one read, in bytes: enough for a whole request as a rule.
const READ: usize = 1024;

/// Serves one app until it has become a session, or is refused. The user id of the request is ignored; where a login is
/// required, every request is refused.
pub async fn serve(local: &Local, app: App) -> Option<Box<Session>> {
    let App { socket, peer, handshake, account } = app;
    let id = local.next_id();
    let mut record = Record::of_app(&local.telemetry, id, "socks4", peer.to_string());
    let mut buffer = BytesMut::new();
    let request = handshake.within(request(&socket, &mut buffer)).await;
    drop(handshake);
    // The user id is not a secret, so it is not a login.
    let admitted = |target| match local.logins.are_needed() {
        true => Err((RefusalReason::NoLogin, "SOCKS4 has no logins".to_owned())),
        false => Ok(target),
    };
    let late = || Err((RefusalReason::Late, "the handshake took too long".to_owned()));
    let target = match request.unwrap_or_else(late).and_then(admitted) {
        Ok(target) => target,
        Err((reason, why)) => {
            record.refused(reason, why);
            send_last(socket, &Reply::Rejected.bytes()).await;
            return None;
        }
    };
    let app = (socket, account);
    match Session::open(&local.routes, app, target, id, buffer.freeze(), record).await {
        Ok(session) => {
            // If the app is gone, the session notices.
            let _ = net::write_all(session.app(), &Reply::Granted.bytes()).await;
            Some(session)
        }
        Err((socket, _failure)) => {
            send_last(socket, &Reply::Rejected.bytes()).await;
            None
        }
    }
}

/// Reads the request. What the app sent after it stays in `buffer`.
async fn request(socket: &TcpStream, buffer: &mut BytesMut) -> Result<Target, (RefusalReason, String)> {
    loop {
        if let Some(request) = Request::parse(buffer).map_err(|error| (reason(error), error.to_string()))? {
            let _ = buffer.split_to(request.length);
            return Ok(request.target);
        }
        match net::read_some(socket, buffer, READ).await {
            Ok(0) => return Err((RefusalReason::Unfinished, "no handshake".into())),
            Ok(_) => {}
            Err(error) => return Err((RefusalReason::Unfinished, format!("the app hung up: {error}"))),
        }
    }
}

fn reason(error: socks4::Refusal) -> RefusalReason {
    match error {
        socks4::Refusal::Version => RefusalReason::Version,
        socks4::Refusal::Command => RefusalReason::Unsupported,
        socks4::Refusal::User | socks4::Refusal::Name => RefusalReason::TooLong,
        socks4::Refusal::Target => RefusalReason::Destination,
    }
}
