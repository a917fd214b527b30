//! What a case cannot express: what the engine itself sends and holds.

use super::*;

#[test]
fn a_connection_begins_with_the_preface_and_settings() {
    let mut engine = Engine::server(config());
    let greeting = frames_of(&engine.take_output());
    assert_eq!((greeting[0].0, greeting[0].1, greeting[0].2), (SETTINGS, 0, 0), "SETTINGS come first (§3.4)");
    for wrong in [&b"INVALID CONNECTION PREFACE\r\n\r\n"[..], b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\nx"] {
        let mut engine = Engine::server(config());
        assert_eq!(engine.receive(wrong), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(verdict(&frames_of(&engine.take_output())), [Connection(Reason::PROTOCOL_ERROR)]);
    }
    for first in [
        raw(PING, 0, 0, &[0; 8]),
        raw(SETTINGS, ACK, 0, &[]),
        raw(HEADERS, WHOLE, 1, &get(&[])),
        raw(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        raw(0x16, 0, 0, &[]),
    ] {
        let mut engine = Engine::server(config());
        engine.receive(PREFACE).unwrap();
        assert_eq!(engine.receive(&first), Err(Reason::PROTOCOL_ERROR), "{first:?} is not SETTINGS");
    }
}

#[test]
fn settings_are_acknowledged_and_a_later_parameter_of_one_frame_wins() {
    let mut server = Server::new(config());
    server.step(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2]));
    assert_eq!(server.sent, [(SETTINGS, ACK, 0, Vec::new())]);
    server.step(&opened(1));
    server.step(&Begin(1));
    let capacity = server.begun[0].poll_capacity(10, &mut { CX });
    assert!(matches!(capacity, Poll::Ready(Ok(2))), "{capacity:?}");
}

/// The first bytes of the header blocks with which three requests are answered, if the peer sets its table to these sizes
/// before each.
fn first_bytes(tables: [&[u32]; 3]) -> Vec<u8> {
    let mut server = Server::new(config());
    let mut first = Vec::new();
    for (stream, sizes) in [1, 3, 5].into_iter().zip(tables) {
        for size in sizes {
            server.step(&setting(1, *size));
        }
        server.step(&asked(stream));
        server.sent.clear();
        server.step(&Answer(stream));
        let headers = server.sent.iter().find(|(kind, ..)| *kind == HEADERS).unwrap();
        first.push(headers.3[0]);
    }
    first
}

#[test]
fn a_peer_that_makes_its_table_smaller_is_answered_by_an_update_in_the_next_header_block() {
    const STATUS: u8 = 0x88;
    const UPDATE: u8 = 0x20;
    assert_eq!(first_bytes([&[], &[], &[]]), [STATUS; 3]);
    assert_eq!(first_bytes([&[0], &[], &[]]), [UPDATE, STATUS, STATUS], "RFC 7541 §4.2: once");
    assert_eq!(first_bytes([&[65_536], &[4096], &[4096]]), [STATUS, UPDATE, STATUS]);
    assert_eq!(
        first_bytes([&[], &[0, 4096], &[]]),
        [STATUS, UPDATE, STATUS],
        "§4.2: the smallest one counts"
    );
}

#[test]
fn a_client_is_not_pushed_to() {
    for (value, expected) in [(0, Ok(())), (1, Err(Reason::PROTOCOL_ERROR))] {
        let (_requests, mut engine) = Engine::client(config());
        let written = raw(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, value]);
        assert_eq!(engine.receive(&written).map(drop), expected, "ENABLE_PUSH {value} of a server (§6.5.2)");
    }
}

#[test]
fn the_limit_of_concurrent_streams_is_announced() {
    let mut engine = Engine::server(Config { max_concurrent_streams: 2, ..config() });
    let (_, _, _, settings) = frames_of(&engine.take_output()).remove(0);
    assert!(settings.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 2]));
}

#[test]
fn data_in_flight_on_a_request_that_was_refused_as_malformed_is_dropped() {
    let malformed = frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "POST")]));
    check(vec![case("§5.1", vec![malformed, frame(DATA, END_STREAM, 1, b"test")], Nothing)]);
}
