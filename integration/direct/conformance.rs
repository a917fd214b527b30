//! The cases of `crates/h2/src/conformance` against a gateway, by a member over TLS: what the engine says reaches the other end
//! of the socket, also when the link ends with it.
//!
//! A case that needs the engine's user to do something is left out, as are those with settings of their own: here the user
//! is the gateway.

use laneway::h2::{Config, Reason, hpack};

use crate::lab::Lab;
use crate::raw::Raw;
use cases::*;

#[path = "../../crates/h2/src/conformance/cases.rs"]
#[allow(dead_code, reason = "some words are for the engine's user")]
mod cases;
#[path = "../../crates/h2/src/conformance/frames.rs"]
mod frames;
#[path = "../../crates/h2/src/conformance/headers.rs"]
mod headers;
#[path = "../../crates/h2/src/conformance/messages.rs"]
mod messages;
#[path = "../../crates/h2/src/conformance/settings.rs"]
mod settings;
#[path = "../../crates/h2/src/conformance/streams.rs"]
mod streams;

/// What a link sets, as far as cases depend on it.
fn config() -> Config {
    Config {
        max_frame_size: 256 * 1024,
        stream_window: 1024 * 1024,
        connection_window: (1 << 31) - 1,
        send_buffer: 256 * 1024,
        max_header_list_size: 16 * 1024,
        max_concurrent_streams: 16_384,
        max_pending_resets: 1024,
    }
}

fn check(cases: Vec<Case>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wrong = runtime.block_on(async {
        // Every request is refused at once, so none asks a name server.
        let lab = Lab::with_access("other.example:80").await;
        let mut wrong = Vec::new();
        for Case { rule, steps, expect } in cases {
            let Some(written) = written(&steps) else { continue };
            let seen = seen(&lab, written).await;
            let expected: Vec<Expect> = if expect == Nothing { Vec::new() } else { vec![expect] };
            if seen != expected {
                wrong.push(format!("{rule}: expected {expect:?}, seen {seen:?}"));
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn check_with(_config: Config, _cases: Vec<Case>) {}

/// What the peer writes in these steps, if they are nothing else.
fn written(steps: &[Step]) -> Option<Vec<u8>> {
    let bytes = steps.iter().map(|step| if let Write(bytes) = step { Some(&bytes[..]) } else { None });
    bytes.collect::<Option<Vec<_>>>().map(|bytes| bytes.concat())
}

/// Writes this on a link of its own, and gives what the gateway says about faults until it answers a ping or ends the link.
async fn seen(lab: &Lab, written: Vec<u8>) -> Vec<Expect> {
    let mut link = Raw::connect(lab, &lab.client).await;
    let ping = b"go on???";
    // The link may end before all of it is written.
    link.output.try_say([written, raw(PING, 0, 0, ping)].concat()).await;
    let mut sent = Vec::new();
    let is_alive = loop {
        let Some(frame) = link.input.frame().await else { break false };
        if (frame.kind, frame.flags, &frame.payload[..]) == (PING, ACK, ping) {
            break true;
        }
        sent.push((frame.kind, frame.flags, frame.stream, frame.payload));
    };
    let mut seen = verdict(&sent);
    // How the gateway ends a stream of which it wants nothing more (RFC 9113 §8.1).
    seen.retain(|fault| !matches!(fault, Stream(_, Reason::NO_ERROR | Reason::CANCEL)));
    if !is_alive && !seen.iter().any(|fault| matches!(fault, Connection(_))) {
        seen.push(Connection(Reason::NO_ERROR));
    }
    seen
}
