//! Questions by UDP. What arrives while too much is being answered is answered with SERVFAIL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use tokio::net::UdpSocket;

use super::Names;
use crate::wire::dns::{Decision, LONGEST, Reason, encode, failure};

/// How long the socket is left alone when reading fails, which happens in a shortage only.
const PAUSE: Duration = Duration::from_millis(20);

impl Names {
    pub(super) async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = self.local.drain.cancelled() => return,
            };
            match received {
                Ok((length, app)) => self.meet_datagram(&socket, &buffer[..length], app).await,
                Err(error) => {
                    tracing::debug!(%error, "no datagram read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn meet_datagram(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], app: SocketAddr) {
        let decision = Decision::of(bytes);
        self.met("udp", &decision);
        let query = match decision {
            Decision::Ignore => return,
            Decision::Answer(_, _, answer) => return reply(socket, &answer, app).await,
            Decision::Ask(query) => query,
        };
        if let Some(answer) = self.kept(&query) {
            return reply(socket, &encode(&answer, query.payload()), app).await;
        }
        let Ok(place) = self.queries.clone().try_acquire_owned() else {
            self.turned_away();
            let busy = failure(ResponseCode::ServFail, Reason::Other, "too many questions at a time");
            return reply(socket, &encode(&query.answer(&busy), query.payload()), app).await;
        };
        let (names, socket) = (self.clone(), socket.clone());
        self.local.tasks.spawn(async move {
            let payload = query.payload();
            let answer = names.answer(*query).await;
            reply(&socket, &encode(&answer, payload), app).await;
            drop(place);
        });
    }
}

/// An app that is gone is no event.
async fn reply(socket: &UdpSocket, answer: &[u8], app: SocketAddr) {
    if let Err(error) = socket.send_to(answer, app).await {
        tracing::debug!(%app, %error, "answer not sent");
    }
}
