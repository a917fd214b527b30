//! RFC 9113 §4.3, §6.2 and §6.10, and RFC 7541: header blocks in their frames, and what is in them.

use super::*;

fn hpack(rule: &'static str, prefix: &[u8], suffix: &[u8], expect: Expect) -> Case {
    let block = [prefix, &get(&[]), suffix].concat();
    case(rule, vec![frame(HEADERS, WHOLE, 1, &block)], expect)
}

#[test]
fn header_blocks_in_frames() {
    let error = Connection(Reason::PROTOCOL_ERROR);
    let [one, two] = [&get(&[])[..5], &get(&[])[5..]];
    let part = |block: &[u8]| frame(HEADERS, END_STREAM, 1, block);
    let next = |stream, flags, block: &[u8]| frame(CONTINUATION, flags, stream, block);
    let more = block(&[("some", "field")]);
    let priority = [&[0, 0, 0, 0, 255][..], &get(&[])].concat();
    check(vec![
        case(
            "§6.2: padding",
            vec![frame(HEADERS, WHOLE | PADDED, 1, &[&[2], &get(&[])[..], &[0, 0]].concat())],
            Nothing,
        ),
        case("§6.2: priority", vec![frame(HEADERS, WHOLE | PRIORITY_FLAG, 1, &priority)], Nothing),
        case(
            "§6.2: both",
            vec![frame(HEADERS, WHOLE | PADDED | PRIORITY_FLAG, 1, &[&[1], &priority[..], &[0]].concat())],
            Nothing,
        ),
        case(
            "§6.2: padding that is too long",
            vec![frame(HEADERS, WHOLE | PADDED, 1, &[&[99], &get(&[])[..]].concat())],
            error,
        ),
        case(
            "§6.2: padding that leaves no room for the priority",
            vec![frame(HEADERS, WHOLE | PADDED | PRIORITY_FLAG, 1, &[3, 0, 0, 0, 0, 0, 0])],
            error,
        ),
        case(
            "§6.2: too short for its priority",
            vec![frame(HEADERS, WHOLE | PRIORITY_FLAG, 1, &[0; 4])],
            Connection(Reason::FRAME_SIZE_ERROR),
        ),
        case("§6.10: CONTINUATION", vec![part(one), next(1, END_HEADERS, two)], Nothing),
        case("§6.10: two", vec![part(one), next(1, 0, &two[..5]), next(1, END_HEADERS, &two[5..])], Nothing),
        case(
            "§6.10: more fields",
            vec![part(&get(&[])), next(1, 0, &more), next(1, END_HEADERS, &more)],
            Nothing,
        ),
        case("§6.10: an empty HEADERS before it", vec![part(&[]), next(1, END_HEADERS, &get(&[]))], Nothing),
        case("§6.10: an empty one at the end", vec![part(&get(&[])), next(1, END_HEADERS, &[])], Nothing),
        case("§6.2: PRIORITY within a block", vec![part(one), frame(PRIORITY, 0, 1, &[0; 5])], error),
        case("§6.2: PING within a block", vec![part(one), frame(PING, 0, 0, &[0; 8])], error),
        case("§5.5: an unknown type within a block", vec![part(one), frame(0x16, 0, 0, &[])], error),
        case("§6.2: HEADERS of another stream within it", vec![part(one), asked(3)], error),
        case("§6.2: HEADERS again within it", vec![part(one), frame(HEADERS, WHOLE, 1, two)], error),
        case(
            "§6.10: DATA after CONTINUATION",
            vec![part(one), next(1, 0, two), frame(DATA, 1, 1, b"x")],
            error,
        ),
        case("§6.10: stream 0", vec![part(&get(&[])), next(0, END_HEADERS, &more)], error),
        case("§6.10: another stream", vec![part(&get(&[])), next(3, END_HEADERS, &more)], error),
        case("§6.10: after END_HEADERS", vec![opened(1), next(1, END_HEADERS, &more)], error),
        case(
            "§6.10: after END_HEADERS of another",
            vec![part(one), next(1, END_HEADERS, two), next(1, 4, &more)],
            error,
        ),
        case("§6.10: after DATA", vec![opened(1), frame(DATA, 0, 1, b"test"), next(1, 0, &more)], error),
    ]);
    let endless = std::iter::once(part(one)).chain(std::iter::repeat_n(next(1, 0, &[]), 63)).collect();
    let calm = Connection(Reason::ENHANCE_YOUR_CALM);
    check(vec![case("§10.5.1: empty CONTINUATION frames without end", endless, calm)]);
}

#[test]
fn header_blocks_that_are_decoded() {
    let coded_agent = b"\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4";
    let agent = b"\x0auser-agent\x06client";
    let kinds: [(u8, &str); 3] = [
        (0x40, "RFC 7541 §6.2.1: kept in the table"),
        (0x00, "RFC 7541 §6.2.2: not kept"),
        (0x10, "RFC 7541 §6.2.3: never kept"),
    ];
    for (first, rule) in kinds {
        check(vec![
            hpack(rule, &[], &[&[first], &agent[..]].concat(), Nothing),
            hpack(rule, &[], &[&[first], &coded_agent[..]].concat(), Nothing),
            hpack(rule, &[], &[&[first], &b"\x06x-test\x06client"[..]].concat(), Nothing),
            hpack(
                rule,
                &[],
                &[&[first], &b"\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"[..]].concat(),
                Nothing,
            ),
        ]);
    }
    check(vec![
        hpack("RFC 7541 §6.1: an index", &[], &[0xba], Nothing),
        hpack("RFC 7541 §6.3: a smaller table", &[0x3f, 0x61], &[], Nothing),
        hpack("RFC 7541 §6.3: two updates", &[0x3f, 0x61, 0x3f, 0xe1, 0x1f], &[], Nothing),
    ]);
}

#[test]
fn header_blocks_that_cannot_be_decoded() {
    let error = Connection(Reason::COMPRESSION_ERROR);
    check(vec![
        case("§4.3: half a field", vec![frame(HEADERS, WHOLE, 1, &[0x40])], error),
        hpack("RFC 7541 §2.3.3: an index beyond the table", &[], &[0xc6], error),
        hpack("RFC 7541 §2.3.3: a name beyond the table", &[], &[0x7f, 7, 0], error),
        hpack("RFC 7541 §6.1: the index 0", &[], &[0x80], error),
        hpack(
            "RFC 7541 §5.1: an endless integer",
            &[],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            error,
        ),
        hpack("RFC 7541 §5.2: a string beyond the end", &[], &[0x00, 0x05, b'a'], error),
        hpack(
            "RFC 7541 §5.2: padding of more than 7 bits",
            &[],
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
            error,
        ),
        hpack(
            "RFC 7541 §5.2: padding with zeros",
            &[],
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",
            error,
        ),
        hpack(
            "RFC 7541 §5.2: the end of a string within it",
            &[],
            b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f",
            error,
        ),
        hpack("RFC 7541 §4.2: an update after a field", &[], &[0x21], error),
        hpack("RFC 7541 §6.3: a table larger than was announced", &[0x3f, 0xe2, 0x1f], &[], error),
        case(
            "§4.3: also on a stream that is closed",
            vec![opened(1), Drop(1), frame(HEADERS, WHOLE, 1, &[0x80])],
            error,
        ),
    ]);
}
