//! Questions by UDP. Those above the limit are answered with SERVFAIL at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::NameServer;
use crate::wire::dns::{Decision, LONGEST, encode_datagram};

/// Pause after a failed read, which only a shortage of the system causes.
const PAUSE: Duration = Duration::from_millis(20);

impl NameServer {
    /// Serves one socket until the node drains.
    pub(super) async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LONGEST];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = self.local.drain.cancelled() => return,
            };
            match received {
                Ok((length, app)) => self.serve_datagram(&socket, &buffer[..length], app).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot read a datagram");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn serve_datagram(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], app: SocketAddr) {
        let decision = Decision::of(bytes);
        self.counts.question("udp", &decision);
        let query = match decision {
            Decision::Ignore => return,
            Decision::Answer(_, _, answer) => return reply(socket, &answer, app).await,
            Decision::Ask(query) => query,
        };
        if let Some(answer) = self.find_in_cache(&query) {
            return reply(socket, &encode_datagram(&answer, query.payload()), app).await;
        }
        let Ok(place) = self.queries.clone().try_acquire_owned() else {
            return reply(socket, &encode_datagram(&self.excess(&query), query.payload()), app).await;
        };
        let (server, socket) = (self.clone(), socket.clone());
        self.local.tasks.spawn(async move {
            let payload = query.payload();
            let answer = server.answer(*query, place).await;
            reply(&socket, &encode_datagram(&answer, payload), app).await;
        });
    }
}

/// Sends an answer. An app that is gone is not a failure.
async fn reply(socket: &UdpSocket, answer: &[u8], app: SocketAddr) {
    if let Err(error) = socket.send_to(answer, app).await {
        tracing::debug!(%app, %error, "answer not sent");
    }
}
