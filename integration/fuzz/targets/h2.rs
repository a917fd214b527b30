//! A server's end of an HTTP/2 connection that is fed whatever a client may send: it never panics, it sends whole frames,
//! it says why when it ends the connection, and it does not depend on how the bytes are cut.

use laneway::h2::{Config, Engine};

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame header.
const HEAD: usize = 9;
const GOAWAY: u8 = 7;

pub(super) fn config() -> Config {
    Config {
        max_frame_size: 16 * 1024,
        stream_window: 10_000,
        connection_window: 1 << 20,
        send_buffer: 64 * 1024,
        max_header_list_size: 16 * 1024,
        max_concurrent_streams: 100,
        max_pending_resets: 10,
    }
}

/// `data` is what follows the preface.
pub fn run(data: &[u8]) {
    let whole = serve(data, usize::MAX);
    assert_eq!(whole, serve(data, 7), "the same bytes in other parts");
}

/// What a server answers that accepts every request and answers none, when the bytes arrive in parts.
fn serve(data: &[u8], part: usize) -> Vec<u8> {
    let mut engine = Engine::server(config());
    let (mut sent, mut accepted) = (Vec::new(), Vec::new());
    engine.receive(PREFACE).expect("the preface is taken");
    let mut failed = None;
    for part in data.chunks(part) {
        let mut rest = part;
        while !rest.is_empty() && failed.is_none() {
            match engine.receive(rest) {
                Ok(count) => rest = &rest[count..],
                Err(reason) => failed = Some(reason),
            }
            if !rest.is_empty() {
                // The engine reads on once its answers are read and its requests accepted.
                sent.extend(engine.take_output());
                accepted.extend(std::iter::from_fn(|| engine.accept()));
            }
        }
    }
    // Accepted at the end, because accepting a stream changes what its reset means.
    accepted.extend(std::iter::from_fn(|| engine.accept()));
    sent.extend(engine.take_output());
    let frames = frames(&sent);
    if let Some(reason) = failed {
        let (kind, payload) = frames.last().expect("it says why");
        assert_eq!((*kind, &payload[4..]), (GOAWAY, &reason.code().to_be_bytes()[..]));
    }
    drop(accepted);
    sent
}

/// The last frame of `bytes`, which are whole frames: its type and payload.
pub(super) fn last_frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    frames(bytes).pop()
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(HEAD).expect("a whole frame header");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length).expect("a whole payload");
        frames.push((head[3], payload));
        bytes = rest;
    }
    frames
}
