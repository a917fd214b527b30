//! The name server inside the network of `laneway run --all`: it passes each question to the node (RFC 8484 on its local port).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::shared::Outlet;
use crate::mark;
use crate::net;
use crate::wire::dns::{Decision, LONGEST, Reason, ResponseCode, encode, encode_datagram, failure};

/// How long the node may take to answer: longer than it asks gateways for.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may be idle (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// Pause after a failed read, which only a shortage of the system causes.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum length of the head of a response, in bytes.
const HEAD: usize = 16 * 1024;

/// Answers questions by UDP.
pub(super) async fn run_datagrams(outlet: Arc<Outlet>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; LONGEST];
    loop {
        let place = outlet.questions.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (length, app) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        let (question, shared, socket) = (buffer[..length].to_vec(), outlet.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some((answer, most)) = answer(&shared, &question).await {
                // An app that is gone is not a failure.
                let _ = socket.send_to(&encode_datagram(&answer, most), app).await;
            }
            drop(place);
        });
    }
}

/// Answers questions by TCP (RFC 7766), one after the other on each connection.
pub(super) async fn run_streams(outlet: Arc<Outlet>, listener: TcpListener) {
    loop {
        let place = outlet.questions.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (socket, _) = net::accept(&listener).await;
        let shared = outlet.clone();
        tokio::spawn(async move {
            // It ends when the app has no more questions, or is silent.
            let _ = serve_stream(&shared, socket).await;
            drop(place);
        });
    }
}

async fn serve_stream(outlet: &Outlet, mut socket: TcpStream) -> io::Result<()> {
    loop {
        let length = timeout(IDLE, socket.read_u16()).await??;
        let mut question = vec![0; length.into()];
        timeout(IDLE, socket.read_exact(&mut question)).await??;
        let Some((answer, _)) = answer(outlet, &question).await else { return Ok(()) };
        let answer = encode(&answer);
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(IDLE, socket.write_all(&[&length.to_be_bytes()[..], &answer].concat())).await??;
    }
}

/// The answer to a question, and how many bytes it may have by UDP; `None` if the message is not a question.
async fn answer(outlet: &Outlet, question: &[u8]) -> Option<(Message, usize)> {
    let query = match Decision::of(question) {
        Decision::Ignore => return None,
        Decision::Answer(_, _, bytes) => return Some((Message::from_vec(&bytes).ok()?, LONGEST)),
        Decision::Ask(query) => query,
    };
    let asked = timeout(DEADLINE, ask(outlet.node, question)).await.map_err(io::Error::from);
    let answer = asked.and_then(|answer| Message::from_vec(&answer?).map_err(io::Error::other));
    let answer = answer.unwrap_or_else(|error| {
        query.answer(&failure(
            ResponseCode::ServFail,
            Reason::NoReachableAuthority,
            &format!("the node does not answer: {error}"),
        ))
    });
    outlet.names.learn(&answer);
    Some((answer, query.payload()))
}

/// Asks the node.
async fn ask(node: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = mark::connect(node).await?;
    // A node answers only to a Host of its own machine.
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/dns-message\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        node.port(),
        question.len()
    );
    socket.write_all(&[head.as_bytes(), question].concat()).await?;
    let mut response = Vec::new();
    socket.take((HEAD + LONGEST) as u64).read_to_end(&mut response).await?;
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    match end {
        Some(end) if response.starts_with(b"HTTP/1.1 200 ") => Ok(response.split_off(end + 4)),
        _ => Err(io::Error::other("it does not answer questions")),
    }
}
