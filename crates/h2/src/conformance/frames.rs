//! RFC 9113 §3.4, §4 and §6: the preface, and each type of frame.

use super::*;

#[test]
fn frames_in_general() {
    let largest = config().max_frame_size;
    let head_of = |kind: u8, length: u32| {
        let [_, l0, l1, l2] = length.to_be_bytes();
        Write(vec![l0, l1, l2, kind, 0, 0, 0, 0, 1])
    };
    check(vec![
        case("§4.1: an unknown type is ignored", vec![frame(0x16, 0, 0, &[0; 8])], Nothing),
        case("§5.5: also with a stream that is not open", vec![frame(0xfa, 0xff, 99, &[0; 300])], Nothing),
        case("§4.1: undefined flags are ignored", vec![frame(PING, 0x16, 0, &[0; 8])], Nothing),
        case("§4.1: the reserved bit is ignored", vec![frame(PING, 0, 1 << 31, &[0; 8])], Nothing),
        case("§4.1: also on a stream", vec![frame(HEADERS, WHOLE, 1 << 31 | 1, &get(&[]))], Nothing),
        case(
            "§4.2: a frame of 2^14 bytes is accepted",
            vec![opened(1), frame(DATA, 1, 1, &[0; 1 << 14])],
            Nothing,
        ),
        case(
            "§4.2: DATA above SETTINGS_MAX_FRAME_SIZE",
            vec![opened(1), head_of(DATA, largest + 1)],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§4.2: HEADERS above SETTINGS_MAX_FRAME_SIZE",
            vec![head_of(HEADERS, largest + 1)],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§4.2: an unknown type above SETTINGS_MAX_FRAME_SIZE",
            vec![head_of(0x16, largest + 1)],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case("§6.7: PING is answered", vec![frame(PING, 0, 0, b"whatever")], Nothing),
        case("§6.7: an answer that was not asked for", vec![frame(PING, ACK, 0, &[0; 8])], Nothing),
        case("§6.7: PING on a stream", vec![frame(PING, 0, 3, &[0; 8])], Connection(Reason::PROTOCOL_ERROR)),
        case("§6.7: a short PING", vec![frame(PING, 0, 0, &[0; 6])], Connection(Reason::FRAME_SIZE_ERROR)),
        case("§6.7: a long PING", vec![frame(PING, 0, 0, &[0; 9])], Connection(Reason::FRAME_SIZE_ERROR)),
        case(
            "§6.8: GOAWAY on a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.8: a short GOAWAY",
            vec![frame(GOAWAY, 0, 0, &[0; 7])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case("§6.8: GOAWAY with debug data", vec![opened(1), frame(GOAWAY, 0, 0, &[0; 20])], Nothing),
        case(
            "§7: GOAWAY with an unknown error code",
            vec![opened(1), frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])],
            Nothing,
        ),
        case(
            "§8.4: PUSH_PROMISE of a client",
            vec![opened(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get(&[])].concat())],
            Connection(Reason::PROTOCOL_ERROR),
        ),
    ]);
}

#[test]
fn data() {
    check(vec![
        case("§6.1: a body", vec![opened(1), frame(DATA, END_STREAM, 1, b"test")], Nothing),
        case(
            "§6.1: a body in two frames",
            vec![opened(1), frame(DATA, 0, 1, b"test"), frame(DATA, END_STREAM, 1, b"test")],
            Nothing,
        ),
        case("§6.1: padding", vec![opened(1), frame(DATA, PADDED | 1, 1, b"\x05test\0\0\0\0\0")], Nothing),
        case("§6.1: padding alone", vec![opened(1), frame(DATA, PADDED, 1, b"\x03\0\0\0")], Nothing),
        case(
            "§6.1: padding that is longer than the frame",
            vec![opened(1), frame(DATA, PADDED | 1, 1, b"\x06test")],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.1: padding that is as long as the frame",
            vec![opened(1), frame(DATA, PADDED | 1, 1, b"\x05test")],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.1: no room for the length of the padding",
            vec![opened(1), frame(DATA, PADDED, 1, b"")],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case("§6.1: DATA on stream 0", vec![frame(DATA, 1, 0, b"test")], Connection(Reason::PROTOCOL_ERROR)),
    ]);
}

#[test]
fn priority_and_resets() {
    let priority = [0, 0, 0, 0, 255];
    check(vec![
        case("§6.3: PRIORITY before the stream is opened", vec![frame(PRIORITY, 0, 1, &priority)], Nothing),
        case("§6.3: on an open stream", vec![opened(1), frame(PRIORITY, 0, 1, &priority)], Nothing),
        case("§6.3: on an ended one", vec![asked(1), frame(PRIORITY, 0, 1, &priority)], Nothing),
        case("§6.3: on a closed one", vec![asked(1), Answer(1), frame(PRIORITY, 0, 1, &priority)], Nothing),
        case(
            "§5.1.1: the number in PRIORITY opens nothing",
            vec![frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 0]), asked(1)],
            Nothing,
        ),
        case(
            "§5.3.2: a stream that depends on itself",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])],
            Nothing,
        ),
        case("§6.3: stream 0", vec![frame(PRIORITY, 0, 0, &priority)], Connection(Reason::PROTOCOL_ERROR)),
        case(
            "§6.3: a wrong length on an open stream",
            vec![opened(1), frame(PRIORITY, 0, 1, &[0; 4])],
            Stream(1, Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§6.3: a wrong length on a closed stream",
            vec![asked(1), Answer(1), frame(PRIORITY, 0, 1, &[0; 6])],
            Stream(1, Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§6.3: a wrong length on an idle stream, which cannot be reset",
            vec![frame(PRIORITY, 0, 1, &[0; 4])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case("§6.4: a reset", vec![opened(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], Nothing),
        case(
            "§6.4: a reset of an ended stream",
            vec![asked(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            Nothing,
        ),
        case("§7: an unknown error code", vec![opened(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 255])], Nothing),
        case("§6.4: stream 0", vec![frame(RST_STREAM, 0, 0, &[0; 4])], Connection(Reason::PROTOCOL_ERROR)),
        case(
            "§6.4: an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0; 4])],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.4: a wrong length",
            vec![opened(1), frame(RST_STREAM, 0, 1, &[0; 3])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
    ]);
}

#[test]
fn window_updates() {
    let most = [0x7f, 0xff, 0xff, 0xff];
    check(vec![
        case("§6.9: of the connection", vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])], Nothing),
        case("§6.9: of an open stream", vec![opened(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], Nothing),
        case("§5.1: of an ended stream", vec![asked(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], Nothing),
        case(
            "§5.1: of a closed stream",
            vec![asked(1), Answer(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Nothing,
        ),
        case(
            "§6.9: the reserved bit is ignored",
            vec![opened(1), frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 0, 1])],
            Nothing,
        ),
        case(
            "§6.9: 0 for the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.9: 0 beside the reserved bit",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0])],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.9: 0 for a stream",
            vec![opened(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Stream(1, Reason::PROTOCOL_ERROR),
        ),
        case(
            "§6.9: a wrong length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§6.9: a wrong length on a stream",
            vec![opened(1), frame(WINDOW_UPDATE, 0, 1, &[0; 5])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case(
            "§6.9.1: more than 2^31-1 for the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &most)],
            Connection(Reason::FLOW_CONTROL_ERROR),
        ),
        case(
            "§6.9.1: more than 2^31-1 for a stream",
            vec![opened(1), frame(WINDOW_UPDATE, 0, 1, &most)],
            Stream(1, Reason::FLOW_CONTROL_ERROR),
        ),
        case(
            "§5.1: an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Connection(Reason::PROTOCOL_ERROR),
        ),
    ]);
    let few = Config { stream_window: 10, ..config() };
    check_with(
        few,
        vec![
            case(
                "§6.9.1: more DATA than the stream's window",
                vec![opened(1), frame(DATA, 0, 1, &[0; 11])],
                Stream(1, Reason::FLOW_CONTROL_ERROR),
            ),
            case(
                "§6.9.1: padding counts",
                vec![opened(1), frame(DATA, PADDED, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
                Stream(1, Reason::FLOW_CONTROL_ERROR),
            ),
        ],
    );
    let few = Config { connection_window: 65_535, ..config() };
    let much = frame(DATA, 0, 1, &[0; 65_536]);
    let rule = "§6.9.1: more DATA than the connection's window";
    check_with(few, vec![case(rule, vec![opened(1), much], Connection(Reason::FLOW_CONTROL_ERROR))]);
}
