//! A real exchange of data with a server: what a connection alone does not prove.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::{Failure, Kind, Side};
use crate::gateway::egress::Egress;
use crate::gateway::silence::Speech;
use crate::gateway::tls::ServerTls;
use crate::wire::target::Target;

/// The deadline of one exchange, from the connection to the first byte of the answer, or to the end of a handshake.
const DEADLINE: Duration = Duration::from_secs(4);
/// What status and page show of a server that accepts connections and answers nothing.
pub const NOTHING: &str = "it accepts connections, and then nothing comes back";

/// Asks a server for something that changes nothing there, in its own protocol: `OPTIONS *`, which is for that (RFC 9110 §9.3.7), or a
/// handshake of TLS, whose answer needs large packets. Any answer is one. `None` in a protocol that is not known here.
pub(in crate::gateway) async fn run(
    egress: &Egress,
    tls: &ServerTls,
    target: &Target,
    speech: Speech,
) -> Option<Result<(), String>> {
    if speech == Speech::Other {
        return None;
    }
    let attempt = async {
        let stream = match egress.dial(target, DEADLINE).await {
            Ok(stream) => stream,
            Err(failure) => return is_answer(&failure),
        };
        match speech {
            Speech::Tls => tls.connect(stream, target).await.map(drop).or_else(|failure| is_answer(&failure)),
            Speech::Http | Speech::Other => ask(stream, target).await,
        }
    };
    Some(timeout(DEADLINE, attempt).await.unwrap_or_else(|_late| Err(NOTHING.into())))
}

/// A server that refuses, or that ends the exchange, is there. What this gateway refuses itself says nothing against its way out.
fn is_answer(failure: &Failure) -> Result<(), String> {
    match (failure.side, failure.kind) {
        (Side::Server, Kind::Refused | Kind::Terminated | Kind::BadResponse | Kind::Certificate) => Ok(()),
        (Side::Server, Kind::ConnectTimeout) => Err(NOTHING.into()),
        (Side::Server, _) => Err(failure.said_here()),
        _ => Ok(()),
    }
}

async fn ask(mut stream: TcpStream, target: &Target) -> Result<(), String> {
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    // Fails only on a connection that the server has ended.
    let _ = stream.write_all(request.as_bytes()).await;
    match stream.read(&mut [0; 512]).await {
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(NOTHING.into()),
        _ => Ok(()),
    }
}
