//! What a gateway says about itself over a link: one request, one small JSON answer. Members ask for it to diagnose a
//! problem, and to measure the distance to the gateway.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::client::Link;
use super::incoming::Incoming;
use super::request::{INFO_PATH, uri};
use super::tunnel::Inbox;
use laneway_h2 as http2;
use laneway_telemetry::snapshot::{RulesSeen, Unreached, UnusedDirectory};
use laneway_wire::failure::{Failure, Kind, Side, printable};

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How many addresses of links one answer names at most.
pub const MAX_ADDRESSES: usize = 8;
/// How many servers that are not reached one answer names at most.
pub const MAX_UNREACHED: usize = 8;
/// How many directories one answer names at most.
const MAX_UNUSED: usize = 4;
/// How many servers one answer names at most.
pub const MAX_SERVERS: usize = 64;

/// What a gateway says about itself. Later versions may add fields; readers ignore those that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// Its clock, in milliseconds since 1970 (UTC).
    pub clock: u64,
    /// The servers that it is configured to reach, as `host:port`; at most [`MAX_SERVERS`].
    pub servers: Vec<String>,
    /// Its role in the selection (`active`, `standby` …); none while it is not a candidate.
    pub state: Option<String>,
    /// Whether its own probe reaches a server: `reachable`, `unreachable` or `unproved`.
    pub reach: Option<String>,
    /// Which destinations it allows: members may know the rules that decide what they reach.
    #[serde(default)]
    pub rules: Option<RulesSeen>,
    /// Whether it serves no clients because of `laneway drain` on it.
    #[serde(default)]
    pub in_maintenance: bool,
    /// What its own probe does not reach, and why; at most [`MAX_UNREACHED`].
    #[serde(default)]
    pub unreached: Vec<Unreached>,
    /// The directories in which it cannot store anything; at most four.
    #[serde(default)]
    pub unused: Vec<UnusedDirectory>,
    /// The address from which the asking machine has made this link.
    #[serde(default)]
    pub asked_from: Option<IpAddr>,
    /// The addresses from which there are links with the keys of the asking machine, at most [`MAX_ADDRESSES`].
    #[serde(default)]
    pub linked_from: Vec<IpAddr>,
}

/// Asks the gateway at the other end of `link`.
///
/// # Errors
/// [`Side::Link`] when the link itself failed; [`Kind::Unsupported`] from a gateway that is too old to know the request;
/// otherwise what the gateway answers.
pub async fn fetch(link: &Link) -> Result<GatewayInfo, Failure> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri(INFO_PATH);
    let body = get(link, request, MAX_ANSWER).await?;
    parse(&body).ok_or_else(|| {
        let sentence = format!("{} sent no valid description of itself", link.called());
        Failure::new(Kind::BadResponse, Side::Gateway, sentence)
    })
}

/// The body of the answer to a request about the gateway itself, cut off at `most` bytes.
///
/// # Errors
/// As [`fetch`].
pub(super) async fn get(link: &Link, request: Request<()>, most: usize) -> Result<BytesMut, Failure> {
    let counted = link.state.tunnel();
    let exchange = async {
        let response = link.send_without_body(request).await?.await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(link.refusal(&response)));
        }
        let mut inbox = Inbox::new(response.into_body(), counted);
        let mut body = BytesMut::new();
        while let Some(piece) = inbox.next().await? {
            if body.len() + piece.len() > most {
                break;
            }
            body.extend_from_slice(&piece);
        }
        Ok(Ok(body))
    };
    match timeout(TIMEOUT, exchange).await {
        Ok(answer) => answer.unwrap_or_else(|error: http2::Error| Err(link.lost(&error))),
        Err(_) => {
            let sentence = format!("{} does not answer over its link", link.called());
            Err(Failure::new(Kind::ConnectTimeout, Side::Link, sentence))
        }
    }
}

/// Parses an answer, which may be any bytes.
fn parse(body: &[u8]) -> Option<GatewayInfo> {
    let mut info: GatewayInfo = serde_json::from_slice(body).ok()?;
    info.servers.truncate(MAX_SERVERS);
    info.linked_from.truncate(MAX_ADDRESSES);
    info.unreached.truncate(MAX_UNREACHED);
    for Unreached { server, reason } in &mut info.unreached {
        (*server, *reason) = (printable(server), printable(reason));
    }
    info.unused.truncate(MAX_UNUSED);
    for UnusedDirectory { what, directory, reason, .. } in &mut info.unused {
        for text in [what, directory, reason] {
            *text = printable(text);
        }
    }
    if let Some(rules) = &mut info.rules {
        rules.allowed.truncate(MAX_SERVERS);
        rules.denied.truncate(MAX_SERVERS);
    }
    Some(info)
}

impl Incoming {
    /// Answers with what this gateway is. A client that has given up meanwhile gets no answer.
    pub async fn answer_info(self, info: GatewayInfo) {
        let json = serde_json::to_vec(&info).unwrap_or_default();
        drop(info);
        self.answer(&http::Response::new(()), Bytes::from(json)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_the_list_of_servers_is_bounded() {
        let servers = vec!["a:1".to_owned(); MAX_SERVERS + 1];
        let json = serde_json::json!({ "clock": 1, "servers": servers, "moon": "full" });
        let info = parse(json.to_string().as_bytes()).unwrap();
        assert_eq!((info.clock, info.servers.len(), info.reach), (1, MAX_SERVERS, None));
    }
}
