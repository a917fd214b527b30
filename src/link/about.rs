//! What a gateway says of itself over a link: one request, one small JSON answer. A member asks it to find out what is
//! wrong, or how far away the gateway is.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::client::{Link, refusal};
use super::http2;
use super::server::Incoming;
use super::stream::Inbox;
use crate::failure::{Failure, Kind, Side};

/// What the request is for; the path is what counts.
const URI: &str = "https://gateway.laneway/laneway/about";
/// The path of the request.
pub(super) const PATH: &str = "/laneway/about";
/// How long the gateway may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 * 1024;
/// The most servers that one answer names.
pub const MOST_SERVERS: usize = 64;

/// What a gateway says of itself. Later versions may add fields; readers ignore what they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its clock, in milliseconds since 1970 (UTC).
    pub clock: u64,
    /// The servers that it was told of, `host:port`; at most [`MOST_SERVERS`].
    pub servers: Vec<String>,
    /// What it is to the group (`active`, `standby` …); none while it is no candidate.
    pub state: Option<String>,
    /// Whether its own probe reaches a server: `reachable`, `unreachable` or `not probed`.
    pub reach: Option<String>,
}

/// Asks the gateway of `link`.
///
/// # Errors
/// [`Side::Link`] when the link itself failed; [`Kind::Unsupported`] from a gateway that is too old to know the question;
/// else what the gateway says.
pub async fn ask(link: &Link) -> Result<About, Failure> {
    let counted = link.pulse.tunnel();
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = http::Uri::from_static(URI);
    let exchange = async {
        let response = link.ask_bare(request).await?.await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(refusal(&response, link.address)));
        }
        let mut inbox = Inbox::new(response.into_body(), counted);
        let mut body = BytesMut::new();
        while let Some(piece) = inbox.next().await? {
            if body.len() + piece.len() > LONGEST {
                break;
            }
            body.extend_from_slice(&piece);
        }
        Ok(read(&body).ok_or_else(|| {
            let sentence = format!("the gateway {} does not say what it should of itself", link.address);
            Failure::new(Kind::BadResponse, Side::Gateway, sentence)
        }))
    };
    match timeout(PATIENCE, exchange).await {
        Ok(answer) => answer.unwrap_or_else(|error: http2::Error| Err(link.lost(&error))),
        Err(_) => {
            let sentence = format!("the gateway {} does not answer over its link", link.address);
            Err(Failure::new(Kind::ConnectTimeout, Side::Link, sentence))
        }
    }
}

/// Reads an answer, whatever bytes it is.
fn read(body: &[u8]) -> Option<About> {
    let mut about: About = serde_json::from_slice(body).ok()?;
    about.servers.truncate(MOST_SERVERS);
    Some(about)
}

impl Incoming {
    /// Says what this gateway is. Fails only when nobody listens any more.
    pub fn tell(self, about: &About) {
        let sent = self.respond.send(&http::Response::new(()), false);
        let json = serde_json::to_vec(about).unwrap_or_default();
        let _ = sent.and_then(|mut send| send.send_data(Bytes::from(json), true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn what_later_versions_add_is_ignored_and_a_list_is_bounded() {
        let servers = vec!["a:1".to_owned(); MOST_SERVERS + 1];
        let json = serde_json::json!({ "clock": 1, "servers": servers, "moon": "full" });
        let about = read(json.to_string().as_bytes()).unwrap();
        assert_eq!((about.clock, about.servers.len(), about.reach), (1, MOST_SERVERS, None));
    }
}
