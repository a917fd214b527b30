//! RFC 9113 §8: requests, their fields, bodies and trailers.

use super::*;

const MALFORMED: Expect = Stream(1, Reason::PROTOCOL_ERROR);

/// A request without a body.
fn request(rule: &'static str, fields: &[(&str, &str)], expect: Expect) -> Case {
    case(rule, vec![frame(HEADERS, WHOLE, 1, &block(fields))], expect)
}

/// GET with more fields.
fn with(rule: &'static str, more: &[(&str, &str)], expect: Expect) -> Case {
    request(rule, &[&GET[..], more].concat(), expect)
}

#[test]
fn pseudo_fields_of_requests() {
    let [method, scheme, path, authority] = GET;
    let of = |fields: &[(&'static str, &'static str)]| fields.to_vec();
    let all = |changed: (&'static str, &'static str)| {
        GET.map(|field| if field.0 == changed.0 { changed } else { field }).to_vec()
    };
    check(vec![
        request("§8.3.1: GET", &GET, Nothing),
        request("§8.3.1: HEAD", &all((":method", "HEAD")), Nothing),
        request("§8.3.1: OPTIONS *", &[(":method", "OPTIONS"), scheme, (":path", "*"), authority], Nothing),
        request("§8.3.1: Host for :authority", &[method, scheme, path, ("host", "gateway")], Nothing),
        request("§8.3: in any order", &of(&[authority, path, scheme, method]), Nothing),
        request("§8.3.1: no :method", &of(&[scheme, path, authority]), MALFORMED),
        request("§8.3.1: no :scheme", &of(&[method, path, authority]), MALFORMED),
        request("§8.3.1: no :path", &of(&[method, scheme, authority]), MALFORMED),
        request("§8.3.1: no authority at all", &of(&[method, scheme, path]), MALFORMED),
        request("§8.3.1: an empty :path", &all((":path", "")), MALFORMED),
        request("§8.3.1: a :path that does not begin with a slash", &all((":path", "about")), MALFORMED),
        request("§8.3.1: GET *", &all((":path", "*")), MALFORMED),
        request("§8.3.1: a :method that is no token", &all((":method", "GE T")), MALFORMED),
        request("§8.3.1: a :scheme that is none", &all((":scheme", "ht tps")), MALFORMED),
        request("§8.3.1: a password in :authority", &all((":authority", "me:pw@gateway")), MALFORMED),
        with("§8.3.1: Host differs", &[("host", "elsewhere")], MALFORMED),
        with("§8.3.1: Host agrees", &[("host", "GATEWAY")], Nothing),
        with("§8.3: :method twice", &[method], MALFORMED),
        with("§8.3: :scheme twice", &[scheme], MALFORMED),
        with("§8.3: :path twice", &[path], MALFORMED),
        with("§8.3: :authority twice", &[authority], MALFORMED),
        with("§8.3: an unknown one", &[(":test", "ok")], MALFORMED),
        with("§8.3: an empty one", &[(":", "ok")], MALFORMED),
        with("§8.3: that of a response", &[(":status", "200")], MALFORMED),
        with("RFC 8441 §4: :protocol without CONNECT", &[(":protocol", "connect-udp")], MALFORMED),
        request("§8.3: after another field", &[&[("x-test", "ok")], &GET[..]].concat(), MALFORMED),
        request(
            "§8.3: one after another field",
            &of(&[method, scheme, path, ("a", "b"), authority]),
            MALFORMED,
        ),
        request("§8.3.1: an empty header block", &[], MALFORMED),
    ]);
}

#[test]
fn fields_of_requests() {
    check(vec![
        with("§8.2.1: capitals in a name", &[("X-TEST", "ok")], MALFORMED),
        with("§8.2.1: one capital", &[("x-tesT", "ok")], MALFORMED),
        with("§8.2.1: an empty name", &[("", "ok")], MALFORMED),
        with("§8.2.1: a space in a name", &[("x test", "ok")], MALFORMED),
        with("§8.2.1: a colon in a name", &[("x:test", "ok")], MALFORMED),
        with("§8.2.1: a line break in a value", &[("x-test", "a\r\nb: c")], MALFORMED),
        with("§8.2.1: NUL in a value", &[("x-test", "a\0b")], MALFORMED),
        with("§8.2.1: a space before a value", &[("x-test", " ok")], MALFORMED),
        with("§8.2.1: a tab after a value", &[("x-test", "ok\t")], MALFORMED),
        with("§8.2.1: a space within a value", &[("x-test", "o k")], Nothing),
        with("§8.2.1: an empty value", &[("x-test", "")], Nothing),
        with("§8.2.2: Connection", &[("connection", "keep-alive")], MALFORMED),
        with("§8.2.2: Keep-Alive", &[("keep-alive", "5")], MALFORMED),
        with("§8.2.2: Proxy-Connection", &[("proxy-connection", "close")], MALFORMED),
        with("§8.2.2: Transfer-Encoding", &[("transfer-encoding", "chunked")], MALFORMED),
        with("§8.2.2: Upgrade", &[("upgrade", "websocket")], MALFORMED),
        with("§8.2.2: TE: trailers", &[("te", "trailers")], Nothing),
        with("§8.2.2: TE with another value", &[("te", "trailers, deflate")], MALFORMED),
        with("§8.2.2: TE: gzip", &[("te", "gzip")], MALFORMED),
    ]);
}

#[test]
fn content_length() {
    let length = |value| frame(HEADERS, END_HEADERS, 1, &post(&[("content-length", value)]));
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let trailers = frame(HEADERS, WHOLE, 1, &block(&[("x-test", "ok")]));
    let connect = [&TUNNEL[..], &[("content-length", "3")]].concat();
    check(vec![
        case("§8.1.1: as many bytes", vec![length("4"), data(1, b"test")], Nothing),
        case("§8.1.1: in two frames", vec![length("8"), data(0, b"test"), data(1, b"test")], Nothing),
        case("§8.1.1: padding is not content", vec![length("1"), data(1 | PADDED, b"\x02a\0\0")], Nothing),
        case("§8.1.1: more bytes", vec![length("1"), data(1, b"test")], MALFORMED),
        case("§8.1.1: more before the end", vec![length("5"), data(0, b"test"), data(0, b"test")], MALFORMED),
        case("§8.1.1: fewer bytes", vec![length("5"), data(1, b"test")], MALFORMED),
        case(
            "§8.1.1: fewer before trailers",
            vec![length("5"), data(0, b"test"), trailers.clone()],
            MALFORMED,
        ),
        case("§8.1.1: enough before trailers", vec![length("4"), data(0, b"test"), trailers], Nothing),
        case("§8.1.1: an empty frame ends too early", vec![length("1"), data(1, b"")], MALFORMED),
        with("§8.1.1: a body was announced, and none is there", &[("content-length", "1")], MALFORMED),
        with("§8.1.1: no body was announced, and none is there", &[("content-length", "0")], Nothing),
        with("RFC 9110 §8.6: not a number", &[("content-length", "+0")], MALFORMED),
        with("RFC 9110 §8.6: empty", &[("content-length", "")], MALFORMED),
        with("RFC 9110 §8.6: too large", &[("content-length", "99999999999999999999")], MALFORMED),
        with(
            "RFC 9110 §8.6: two that differ",
            &[("content-length", "0"), ("content-length", "1")],
            MALFORMED,
        ),
        case(
            "RFC 9110 §9.3.6: CONNECT has no content",
            vec![frame(HEADERS, END_HEADERS, 1, &block(&connect)), data(1, b"test")],
            Nothing,
        ),
    ]);
}

#[test]
fn trailers() {
    let trailers = |flags, fields: &[(&str, &str)]| frame(HEADERS, flags, 1, &block(fields));
    let body = frame(DATA, 0, 1, b"test");
    let tunnel = frame(HEADERS, END_HEADERS, 1, &block(&TUNNEL));
    check(vec![
        case("§8.1: trailers", vec![opened(1), body.clone(), trailers(WHOLE, &[("x-test", "ok")])], Nothing),
        case("§8.1: without a body", vec![opened(1), trailers(WHOLE, &[("x-test", "ok")])], Nothing),
        case(
            "§8.1: not the end",
            vec![opened(1), body.clone(), trailers(END_HEADERS, &[("x-test", "ok")])],
            MALFORMED,
        ),
        case(
            "§8.1: a pseudo-field",
            vec![opened(1), body.clone(), trailers(WHOLE, &[(":method", "POST")])],
            MALFORMED,
        ),
        case(
            "§8.1: :status",
            vec![opened(1), body.clone(), trailers(WHOLE, &[(":status", "200")])],
            MALFORMED,
        ),
        case("§8.1: an unknown pseudo-field", vec![opened(1), trailers(WHOLE, &[(":x", "y")])], MALFORMED),
        case(
            "§8.2.1: a capital",
            vec![opened(1), body.clone(), trailers(WHOLE, &[("X-Test", "ok")])],
            MALFORMED,
        ),
        case(
            "§8.2.2: Connection",
            vec![opened(1), body, trailers(WHOLE, &[("connection", "close")])],
            MALFORMED,
        ),
        case("§8.5: of a tunnel", vec![tunnel.clone(), trailers(WHOLE, &[("x-test", "ok")])], MALFORMED),
        case(
            "§8.5: of an answered tunnel",
            vec![tunnel, Begin(1), trailers(WHOLE, &[("x-test", "ok")])],
            MALFORMED,
        ),
    ]);
}

#[test]
fn tunnels() {
    let [method, authority] = TUNNEL;
    let udp = [method, (":protocol", "connect-udp"), GET[1], GET[2], GET[3]];
    check(vec![
        request("§8.5: CONNECT", &TUNNEL, Nothing),
        request("§8.5: CONNECT with :scheme", &[method, GET[1], authority], MALFORMED),
        request("§8.5: CONNECT with :path", &[method, GET[2], authority], MALFORMED),
        request("§8.5: CONNECT without :authority", &[method], MALFORMED),
        request("§8.5: CONNECT with an empty :authority", &[method, (":authority", "")], MALFORMED),
        request("§8.5: CONNECT with Host alone", &[method, ("host", "server:80")], MALFORMED),
        request("RFC 8441 §4: extended CONNECT", &udp, Nothing),
        request("RFC 8441 §4: without :path", &[udp[0], udp[1], udp[2], udp[4]], MALFORMED),
        request("RFC 8441 §4: without :scheme", &[udp[0], udp[1], udp[3], udp[4]], MALFORMED),
        request("RFC 8441 §4: without :authority", &udp[..4], MALFORMED),
        request(
            "RFC 8441 §4: an empty :protocol",
            &[udp[0], (":protocol", ""), udp[2], udp[3], udp[4]],
            MALFORMED,
        ),
    ]);
}
