//! A client's end of an HTTP/2 connection that is fed whatever a server may send in answer to three requests: it never panics,
//! it sends whole frames, and it says why when it ends the connection.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use laneway::h2::Engine;

use super::h2::{config, last_frame};

const GOAWAY: u8 = 7;

/// `data` is what follows the server's first SETTINGS.
pub fn run(data: &[u8]) {
    let (requests, mut engine) = Engine::client(config());
    engine.receive(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("SETTINGS are taken");
    let mut handles = Vec::new();
    for (method, uri) in
        [("CONNECT", "server:80"), ("HEAD", "https://gateway/"), ("POST", "https://gateway/")]
    {
        let request = http::Request::builder().method(method).uri(uri).body(()).expect("it is one");
        let sending = requests.send(request, false);
        if let Poll::Ready(sent) = pin!(sending).poll(&mut Context::from_waker(Waker::noop())) {
            handles.push(sent.expect("the connection is open"));
        }
    }
    // The preface, the settings and the requests.
    engine.take_output();
    let mut rest = data;
    let mut failed = None;
    while !rest.is_empty() && failed.is_none() {
        match engine.receive(rest) {
            Ok(count) => rest = &rest[count..],
            Err(reason) => failed = Some(reason),
        }
        if !rest.is_empty() && failed.is_none() {
            last_frame(&engine.take_output());
        }
    }
    let sent = engine.take_output();
    if let Some(reason) = failed {
        let (kind, payload) = last_frame(&sent).expect("it says why");
        assert_eq!((kind, &payload[4..]), (GOAWAY, &reason.code().to_be_bytes()[..]));
    }
    drop(handles);
    last_frame(&engine.take_output());
}
