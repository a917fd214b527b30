//! RFC 9113 §5.1: the states of streams, their numbers and how many there may be.

use super::*;

const CLOSED: Reason = Reason::STREAM_CLOSED;

fn data(stream: u32) -> Step {
    frame(DATA, END_STREAM, stream, b"test")
}

fn reset(stream: u32) -> Step {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

#[test]
fn streams_that_are_not_open() {
    check(vec![
        case("§5.1: DATA on an idle stream", vec![data(1)], Connection(Reason::PROTOCOL_ERROR)),
        case(
            "§5.1: CONTINUATION on an idle stream",
            vec![frame(CONTINUATION, END_HEADERS, 1, &get(&[]))],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case("§5.1: DATA after END_STREAM", vec![asked(1), data(1)], Stream(1, CLOSED)),
        case("§5.1: empty DATA after END_STREAM", vec![asked(1), frame(DATA, 0, 1, b"")], Stream(1, CLOSED)),
        case("§5.1: HEADERS after END_STREAM", vec![asked(1), asked(1)], Stream(1, CLOSED)),
        case("§5.1: HEADERS after END_STREAM in DATA", vec![opened(1), data(1), asked(1)], Stream(1, CLOSED)),
        case(
            "§5.1: CONTINUATION after END_STREAM",
            vec![asked(1), frame(CONTINUATION, END_HEADERS, 1, &get(&[]))],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case("§5.1: DATA after the peer's RST_STREAM", vec![opened(1), reset(1), data(1)], Stream(1, CLOSED)),
        case(
            "§5.1: HEADERS after the peer's RST_STREAM",
            vec![opened(1), reset(1), asked(1)],
            Stream(1, CLOSED),
        ),
        case(
            "§5.1: CONTINUATION after the peer's RST_STREAM",
            vec![opened(1), reset(1), frame(CONTINUATION, END_HEADERS, 1, &get(&[]))],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case("§5.1: RST_STREAM after RST_STREAM", vec![opened(1), reset(1), reset(1)], Nothing),
        case("§5.1: DATA on a closed stream", vec![asked(1), Answer(1), data(1)], Stream(1, CLOSED)),
        case("§5.1: HEADERS on a closed stream", vec![asked(1), Answer(1), asked(1)], Connection(CLOSED)),
        case(
            "§5.1: CONTINUATION on a closed stream",
            vec![asked(1), Answer(1), frame(CONTINUATION, END_HEADERS, 1, &get(&[]))],
            Connection(Reason::PROTOCOL_ERROR),
        ),
        case("§5.1: RST_STREAM on a closed stream", vec![asked(1), Answer(1), reset(1)], Nothing),
    ]);
}

#[test]
fn frames_in_flight_when_this_end_resets_a_stream_are_dropped_until_the_peer_knows() {
    let trailers = |stream| frame(HEADERS, WHOLE, stream, &block(&[("some", "trailer")]));
    check(vec![
        case("§5.1: DATA in flight", vec![opened(1), Drop(1), frame(DATA, 0, 1, b"test"), data(1)], Nothing),
        case("§5.1: trailers in flight", vec![opened(1), Drop(1), trailers(1)], Nothing),
        case("§5.1: DATA when the peer knows", vec![opened(1), Drop(1), Alive, data(1)], Stream(1, CLOSED)),
        case(
            "§5.1: HEADERS when the peer knows",
            vec![opened(1), Drop(1), Alive, trailers(1)],
            Stream(1, CLOSED),
        ),
        case(
            "§4.3: the fields of a dropped header block are kept in the table",
            vec![
                opened(1),
                Drop(1),
                frame(HEADERS, WHOLE, 1, &[0x40, 1, b'a', 1, b'b']),
                frame(HEADERS, WHOLE, 3, &[get(&[]), vec![0xbe]].concat()),
            ],
            Nothing,
        ),
    ]);
    // More resets than are remembered one by one.
    let many: Vec<u32> = (0..500).map(|number| 2 * number + 1).collect();
    let opens = many.iter().map(|stream| opened(*stream));
    let drops = many.iter().map(|stream| Drop(*stream));
    let mut steps: Vec<Step> = opens.chain(drops).chain(many.iter().map(|stream| data(*stream))).collect();
    steps.extend(many.iter().map(|stream| trailers(*stream)));
    check(vec![case("§5.1: on 500 streams", steps, Nothing)]);
}

#[test]
fn numbers_of_streams() {
    let error = Connection(Reason::PROTOCOL_ERROR);
    check(vec![
        case("§5.1.1: 0", vec![frame(HEADERS, WHOLE, 0, &get(&[]))], error),
        case("§5.1.1: an even number", vec![asked(2)], error),
        case("§5.1.1: a smaller one than before", vec![asked(5), asked(3)], error),
        case("§5.1.1: a smaller one after others have closed", vec![asked(5), Answer(5), asked(1)], error),
        case("§5.1.1: numbers may be left out", vec![asked(1), asked(99)], Nothing),
        case("§5.1: DATA on one that was left out", vec![asked(5), data(3)], Stream(3, CLOSED)),
    ]);
}

#[test]
fn streams_above_the_announced_concurrency_are_refused() {
    let two = Config { max_concurrent_streams: 2, ..config() };
    let refused = Stream(5, Reason::REFUSED_STREAM);
    check_with(
        two,
        vec![
            case("§5.1.2: a third", vec![asked(1), opened(3), asked(5)], refused),
            case(
                "§5.1.2: a third of answered ones that go on",
                vec![asked(1), Begin(1), opened(3), asked(5)],
                refused,
            ),
            case(
                "§5.1.2: one after the end of another",
                vec![asked(1), opened(3), Answer(1), asked(5)],
                Nothing,
            ),
            case(
                "§5.1.2: one after the reset of another",
                vec![asked(1), opened(3), reset(3), asked(5)],
                Nothing,
            ),
            case(
                "§5.1.2: a refused one does not count",
                vec![asked(1), opened(3), asked(5), Answer(1), asked(7)],
                Nothing,
            ),
        ],
    );
}
