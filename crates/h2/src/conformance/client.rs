//! The same rules at the client's end: what a server may answer.

use super::*;

const MALFORMED: Expect = Stream(1, Reason::PROTOCOL_ERROR);

/// A client that has sent a request with this method, and what a server writes then.
fn answered(method: &Method, steps: &[Vec<u8>], is_dropped: bool) -> Vec<Expect> {
    let (requests, mut engine) = Engine::client(config());
    let uri = if *method == Method::CONNECT { "server:80" } else { "https://gateway/" };
    let request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let Poll::Ready(Ok(handles)) = pin!(requests.send(request, false)).poll(&mut { CX }) else {
        panic!("the request is sent")
    };
    engine.receive(&raw(SETTINGS, 0, 0, &[])).unwrap();
    if is_dropped {
        drop(handles);
    }
    engine.take_output();
    for step in steps {
        if engine.receive(step).is_err() {
            break;
        }
    }
    verdict(&frames_of(&engine.take_output()))
}

#[test]
fn responses() {
    let head = |flags, fields: &[(&str, &str)]| raw(HEADERS, flags, 1, &block(fields));
    let ok = |more: &[(&str, &str)]| head(END_HEADERS, &[&[(":status", "200")], more].concat());
    let data = |flags, bytes: &[u8]| raw(DATA, flags, 1, bytes);
    let length = [("content-length", "4")];
    let not_found = head(END_HEADERS, &[(":status", "404"), length[0]]);
    let trailers = head(WHOLE, &[("x", "y")]);
    let cases: Vec<(&str, Method, Vec<Vec<u8>>, Expect)> = vec![
        ("a response", Method::POST, vec![ok(&[])], Nothing),
        (
            "103, then a response",
            Method::POST,
            vec![head(END_HEADERS, &[(":status", "103")]), ok(&[])],
            Nothing,
        ),
        ("§8.1: 103 at the end", Method::POST, vec![head(WHOLE, &[(":status", "103")])], MALFORMED),
        ("§8.6: 101", Method::POST, vec![head(END_HEADERS, &[(":status", "101")])], MALFORMED),
        ("§8.3.2: no :status", Method::POST, vec![head(END_HEADERS, &[("x", "y")])], MALFORMED),
        ("§8.3.2: :status twice", Method::POST, vec![ok(&[(":status", "200")])], MALFORMED),
        ("§8.3.2: a field of requests", Method::POST, vec![ok(&[(":path", "/")])], MALFORMED),
        (
            "§8.3: after another field",
            Method::POST,
            vec![head(WHOLE, &[("x", "y"), (":status", "200")])],
            MALFORMED,
        ),
        ("§8.3.2: no number", Method::POST, vec![head(WHOLE, &[(":status", "2x0")])], MALFORMED),
        ("§8.2.2: Connection", Method::POST, vec![ok(&[("connection", "close")])], MALFORMED),
        ("§8.1: DATA before the response", Method::POST, vec![data(0, b"test")], MALFORMED),
        ("§8.1.1: as many bytes", Method::POST, vec![ok(&length), data(1, b"test")], Nothing),
        ("§8.1.1: fewer bytes", Method::POST, vec![ok(&length), data(1, b"tes")], MALFORMED),
        ("§8.1.1: more bytes", Method::POST, vec![ok(&length), data(0, b"tests")], MALFORMED),
        ("§8.1.1: none", Method::POST, vec![head(WHOLE, &[(":status", "200"), length[0]])], MALFORMED),
        ("§8.1.1: a response to HEAD", Method::HEAD, vec![ok(&length), data(1, b"")], Nothing),
        (
            "RFC 9110 §9.3.2: HEAD has no content",
            Method::HEAD,
            vec![ok(&length), data(1, b"test")],
            MALFORMED,
        ),
        ("§8.1.1: 304", Method::GET, vec![head(WHOLE, &[(":status", "304"), length[0]])], Nothing),
        ("RFC 9110 §9.3.6: a tunnel", Method::CONNECT, vec![ok(&length), data(1, b"tests")], Nothing),
        ("RFC 9110 §9.3.6: no tunnel", Method::CONNECT, vec![not_found, data(1, b"tests")], MALFORMED),
        ("§8.1: trailers", Method::POST, vec![ok(&[]), data(0, b"test"), trailers.clone()], Nothing),
        ("§8.5: trailers of a tunnel", Method::CONNECT, vec![ok(&[]), trailers], MALFORMED),
        (
            "§8.1: pseudo-fields in trailers",
            Method::POST,
            vec![ok(&[]), head(WHOLE, &[(":status", "200")])],
            MALFORMED,
        ),
    ];
    for (rule, method, steps, expect) in cases {
        let expected: Vec<Expect> = if expect == Nothing { Vec::new() } else { vec![expect] };
        assert_eq!(answered(&method, &steps, false), expected, "{rule}");
    }
}

#[test]
fn a_server_opens_no_streams() {
    let error = [Connection(Reason::PROTOCOL_ERROR)];
    let ok = block(&[(":status", "200")]);
    for frame in [
        raw(HEADERS, WHOLE, 2, &ok),
        raw(HEADERS, WHOLE, 3, &ok),
        raw(DATA, 0, 2, b"test"),
        raw(DATA, 0, 3, b"test"),
        raw(RST_STREAM, 0, 3, &[0; 4]),
        raw(WINDOW_UPDATE, 0, 2, &[0, 0, 0, 1]),
        raw(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get(&[])].concat()),
    ] {
        assert_eq!(answered(&Method::GET, std::slice::from_ref(&frame), false), error, "{frame:?}");
    }
}

#[test]
fn a_client_that_gave_up_drops_what_was_in_flight() {
    let ok = raw(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")]));
    let late = [ok, raw(DATA, 0, 1, b"test"), raw(DATA, END_STREAM, 1, b"test")];
    assert_eq!(answered(&Method::GET, &late, true), []);
    let reset = raw(RST_STREAM, 0, 1, &[0; 4]);
    assert_eq!(
        answered(&Method::GET, &[vec![reset], late[1..2].to_vec()].concat(), false),
        [Stream(1, Reason::STREAM_CLOSED)]
    );
}

#[test]
fn what_this_end_sends_keeps_the_rules() {
    let mut server = Server::new(config());
    server.step(&asked(1));
    let mut response = Response::new(());
    response.headers_mut().insert("x-test", HeaderValue::from_static("ok"));
    server.take(1).1.send(&response, true).unwrap();
    server.collect();
    let (_, _, _, sent) = server.sent.iter().find(|(kind, ..)| *kind == HEADERS).unwrap();
    let mut names = Vec::new();
    let mut decoder = hpack::Decoder::default();
    decoder.decode(sent, 1024, |name, _| names.push(String::from_utf8_lossy(name).into_owned())).unwrap();
    assert_eq!(names, [":status", "x-test"]);
}
