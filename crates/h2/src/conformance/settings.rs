//! RFC 9113 §6.5 and §6.9.2, and RFC 8441 §3: what the peer may set.

use super::*;

#[test]
fn settings() {
    let protocol = Connection(Reason::PROTOCOL_ERROR);
    let size = Connection(Reason::FRAME_SIZE_ERROR);
    let flow = Connection(Reason::FLOW_CONTROL_ERROR);
    let most = [0x7f, 0xff, 0xff, 0xff];
    check(vec![
        case("§6.5: empty", vec![frame(SETTINGS, 0, 0, &[])], Nothing),
        case("§6.5.2: an unknown parameter", vec![setting(0xff, 1)], Nothing),
        case("§6.5: an acknowledgement that was not asked for", vec![frame(SETTINGS, ACK, 0, &[])], Nothing),
        case("§6.5: ACK with a payload", vec![frame(SETTINGS, ACK, 0, &[0])], size),
        case("§6.5: ACK with a parameter", vec![frame(SETTINGS, ACK, 0, &[0, 4, 0, 0, 0, 1])], size),
        case("§6.5: on a stream", vec![frame(SETTINGS, 0, 1, &[])], protocol),
        case("§6.5: half a parameter", vec![frame(SETTINGS, 0, 0, &[0, 3, 0])], size),
        case("§6.5.2: ENABLE_PUSH 0 of a client", vec![setting(2, 0)], Nothing),
        case("§6.5.2: ENABLE_PUSH 1 of a client", vec![setting(2, 1)], Nothing),
        case("§6.5.2: ENABLE_PUSH 2", vec![setting(2, 2)], protocol),
        case("§6.5.2: MAX_CONCURRENT_STREAMS 0", vec![setting(3, 0)], Nothing),
        case("§6.5.2: INITIAL_WINDOW_SIZE 2^31-1", vec![setting(4, (1 << 31) - 1)], Nothing),
        case("§6.5.2: INITIAL_WINDOW_SIZE 2^31", vec![setting(4, 1 << 31)], flow),
        case("§6.5.2: MAX_FRAME_SIZE 2^14", vec![setting(5, 1 << 14)], Nothing),
        case("§6.5.2: MAX_FRAME_SIZE 2^14-1", vec![setting(5, (1 << 14) - 1)], protocol),
        case("§6.5.2: MAX_FRAME_SIZE 2^24-1", vec![setting(5, (1 << 24) - 1)], Nothing),
        case("§6.5.2: MAX_FRAME_SIZE 2^24", vec![setting(5, 1 << 24)], protocol),
        case("§6.5.2: MAX_HEADER_LIST_SIZE 0", vec![setting(6, 0)], Nothing),
        case("RFC 8441 §3: ENABLE_CONNECT_PROTOCOL 1", vec![setting(8, 1)], Nothing),
        case("RFC 8441 §3: ENABLE_CONNECT_PROTOCOL 2", vec![setting(8, 2)], protocol),
        case("RFC 8441 §3: 0 was never otherwise", vec![setting(8, 0)], Nothing),
        case("RFC 8441 §3: 0 after 1", vec![setting(8, 1), setting(8, 0)], protocol),
        case(
            "RFC 8441 §3: 0 after 1 in one frame",
            vec![frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0])],
            protocol,
        ),
        case(
            "§6.9.2: a window that overflows by SETTINGS",
            vec![
                opened(1),
                setting(4, 1),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xfe]),
                setting(4, 2),
            ],
            flow,
        ),
        case(
            "§6.9.2: but not on a closed stream",
            vec![opened(1), setting(4, 0), frame(WINDOW_UPDATE, 0, 1, &most), Drop(1), setting(4, 1)],
            Nothing,
        ),
        case(
            "§6.9.2: a window below 0",
            vec![
                opened(1),
                setting(4, 9),
                Begin(1),
                setting(4, 0),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            ],
            Nothing,
        ),
    ]);
}
