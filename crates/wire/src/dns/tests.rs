use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: u16) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), RecordType::from(kind)));
    message
}

fn asked(message: &Message) -> Query {
    match Decision::of(&message.to_vec().unwrap()) {
        Decision::Ask(query) => *query,
        other => panic!("{other:?}"),
    }
}

fn answered(message: &Message) -> Message {
    match Decision::of(&message.to_vec().unwrap()) {
        Decision::Answer(_, _, bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn with_edns(mut message: Message, payload: u16, version: u8, signatures: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version).set_dnssec_ok(signatures);
    message.set_edns(edns);
    message
}

fn addresses(name: &str, count: u8) -> Message {
    let mut message = question(name, 1).into_response();
    for last in 0..count {
        let data = RData::A(A::new(192, 0, 2, last));
        message.add_answer(Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data));
    }
    message
}

#[test]
fn what_is_no_query_is_not_answered() {
    let whole = question("example.org.", 1).to_vec().unwrap();
    for bytes in [&[] as &[u8], &whole[..11], &addresses("example.org.", 1).to_vec().unwrap()] {
        assert!(matches!(Decision::of(bytes), Decision::Ignore), "{bytes:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_own_id() {
    let whole = question("example.org.", 1).to_vec().unwrap();
    let (mut update, mut two, mut loops) = (whole.clone(), question("example.org.", 1), whole.clone());
    update[2] |= 5 << 3;
    two.add_query(two.queries[0].clone());
    loops[12..14].copy_from_slice(&[0xc0, 12]);
    for (bytes, code) in [
        (&whole[..12], 1),
        (&whole[..20], 1),
        (&two.to_vec().unwrap(), 1),
        (&loops, 1),
        (&update, 4),
        (&update[..12], 4),
    ] {
        let Decision::Answer(_, said, answer) = Decision::of(bytes) else { panic!("{bytes:?}") };
        assert_eq!(answer[..2], bytes[..2], "the id");
        assert_eq!((answer[2] & 0xf8, answer[3] & 0xf), (bytes[2] & 0x78 | 0x80, code), "{bytes:?}");
        assert_eq!((answer.len(), said.low()), (12, code));
    }
}

#[test]
fn what_is_not_asked_here_is_answered_at_once() {
    let mut chaos = question("version.bind.", 16);
    chaos.queries[0].set_query_class(DNSClass::CH);
    for (message, code) in [
        (chaos, ResponseCode::Refused),
        (question("example.org.", 252), ResponseCode::Refused),
        (question("example.org.", 41), ResponseCode::Refused),
        (with_edns(question("example.org.", 1), 1232, 1, false), ResponseCode::BADVERS),
        (question("a.invalid.", 1), ResponseCode::NXDomain),
        (question("abc.ONION.", 28), ResponseCode::NXDomain),
        (question("localhost.", 15), ResponseCode::NoError),
    ] {
        let answer = answered(&message);
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(code), "{message:?}");
        assert_eq!((answer.metadata.id, &answer.queries), (message.metadata.id, &message.queries));
        assert!(answer.answers.is_empty());
        assert_eq!(answer.edns.is_some(), message.edns.is_some(), "RFC 6891 §7");
    }
    let any = answered(&question("example.org.", 255));
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO, "RFC 8482 §4.2");
    for (kind, ip) in [(1, "127.0.0.1"), (28, "::1")] {
        let answer = answered(&question("app.LocalHost.", kind));
        assert_eq!(answer.answers[0].data.ip_addr(), ip.parse().ok());
    }
}

#[test]
fn an_answer_has_the_id_and_the_spelling_of_its_query() {
    let query = asked(&question("WwW.eXample.org.", 1));
    let answer = query.answer(&addresses("www.example.org.", 2));
    assert_eq!(answer.metadata.id, query.id);
    assert!(answer.queries[0].name().eq_case(&Name::from_ascii("WwW.eXample.org.").unwrap()));
    assert_eq!(answer.answers.len(), 2);
    assert!(
        answer.metadata.recursion_available && answer.metadata.recursion_desired && answer.edns.is_none()
    );
}

#[test]
fn an_answer_that_does_not_fit_says_so() {
    let many = addresses("example.org.", 100);
    for (payload, fits) in [(None, false), (Some(512), false), (Some(100), false), (Some(4096), true)] {
        let message = question("example.org.", 1);
        let message = payload.map_or(message.clone(), |payload| with_edns(message, payload, 0, false));
        let query = asked(&message);
        let bytes = encode_datagram(&query.answer(&many), query.payload());
        assert!(bytes.len() <= query.payload());
        let read = Message::from_vec(&bytes).unwrap();
        assert_eq!((read.metadata.truncation, read.answers.len()), (!fits, if fits { 100 } else { 0 }));
        assert_eq!(read.edns.is_some(), payload.is_some());
    }
}

#[test]
fn what_an_answer_does_not_need_is_left_out_before_it_is_truncated() {
    let records = |name: &str, count| addresses(name, count).answers;
    let sizes = |message: &Message, signatures| {
        let query = asked(&with_edns(question("example.org.", 1), 512, 0, signatures));
        let bytes = encode_datagram(&query.answer(message), query.payload());
        assert!(bytes.len() <= 512);
        let read = Message::from_vec(&bytes).unwrap();
        (read.metadata.truncation, read.answers.len(), read.authorities.len(), read.additionals.len())
    };
    let mut message = addresses("example.org.", 20);
    message.additionals = records("glue.example.org.", 20);
    assert_eq!(sizes(&message, false), (false, 20, 0, 0), "RFC 2181 §9");
    message.authorities = records("ns.example.org.", 5);
    assert_eq!(sizes(&message, false), (false, 20, 5, 0));
    message.authorities = records("ns.example.org.", 20);
    assert_eq!(sizes(&message, false), (false, 20, 0, 0));
    assert_eq!(sizes(&message, true), (true, 0, 0, 0), "they may be the proofs of a wildcard");
    // Without an answer the authority section is the answer (RFC 2308 §2).
    message.answers.clear();
    assert_eq!(sizes(&message, false), (false, 0, 20, 0));
    message.authorities = records("ns.example.org.", 50);
    assert_eq!(sizes(&message, false), (true, 0, 0, 0));
}

#[test]
fn an_answer_that_exceeds_any_message_is_a_failure_and_not_truncated_for_ever() {
    let mut huge = addresses("example.org.", 1);
    huge.answers = std::iter::repeat_n(huge.answers[0].clone(), 5000).collect();
    for payload in [None, Some(1232)] {
        let message = question("example.org.", 1);
        let message = payload.map_or(message.clone(), |payload| with_edns(message, payload, 0, false));
        let query = asked(&message);
        let by_tcp = Message::from_vec(&encode(&query.answer(&huge))).unwrap();
        assert_eq!(by_tcp.metadata.response_code, ResponseCode::ServFail);
        assert_eq!((by_tcp.metadata.id, by_tcp.metadata.truncation), (message.metadata.id, false));
        assert_eq!((&by_tcp.queries, by_tcp.edns.is_some()), (&message.queries, payload.is_some()));
        // By UDP the peer is sent to TCP, which says why it fails.
        let by_udp = Message::from_vec(&encode_datagram(&query.answer(&huge), query.payload())).unwrap();
        assert!(by_udp.metadata.truncation && by_udp.answers.is_empty());
    }
}

#[test]
fn what_explains_a_failure_reaches_who_understands_it() {
    let failed = failure(ResponseCode::ServFail, Reason::NoReachableAuthority, "no gateway");
    let answer = asked(&with_edns(question("example.org.", 1), 1232, 0, false)).answer(&failed);
    let option = answer.edns.as_ref().unwrap().option(EdnsCode::from(EXTENDED_ERROR)).unwrap();
    assert_eq!(*option, EdnsOption::Unknown(15, b"\0\x16no gateway".to_vec()));
    assert!(asked(&question("example.org.", 1)).answer(&failed).edns.is_none());
}

#[test]
fn what_name_servers_that_are_silent_lead_to_is_known_from_all_other_failures() {
    let answered = |reason, edns: bool| {
        let question = question("example.org.", 1);
        let question = if edns { with_edns(question, 1232, 0, false) } else { question };
        let answer = asked(&question).answer(&failure(ResponseCode::ServFail, reason, "they did not answer"));
        network_error(&Message::from_vec(&encode(&answer)).unwrap())
    };
    assert_eq!(answered(Reason::NetworkError, true).as_deref(), Some("they did not answer"));
    assert_eq!((answered(Reason::Other, true), answered(Reason::NetworkError, false)), (None, None));
}

#[test]
fn the_same_answer_is_for_the_same_question_only() {
    let key = |message: &Message| asked(message).key();
    let plain = key(&question("example.org.", 1));
    assert_eq!(plain, key(&question("EXAMPLE.org.", 1)));
    assert_eq!(plain, key(&with_edns(question("example.org.", 1), 4096, 0, false)));
    let mut unchecked = question("example.org.", 1);
    unchecked.metadata.checking_disabled = true;
    for other in [
        question("example.org.", 28),
        question("www.example.org.", 1),
        with_edns(question("example.org.", 1), 1232, 0, true),
        unchecked,
    ] {
        assert_ne!(plain, key(&other));
    }
}

#[test]
fn the_rules_judge_what_a_question_is_about() {
    for (name, subject) in [
        ("Www.Example.org.", "www.example.org"),
        ("_https._tcp.example.org.", "example.org"),
        ("1.0.0.10.in-addr.arpa.", "10.0.0.1"),
        ("0.0.10.in-addr.arpa.", "0.0.10.in-addr.arpa"),
        ("evil\\.example.org.", "evil?example.org"),
    ] {
        assert_eq!(asked(&question(name, 12)).subject().to_string(), subject, "{name}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        if let Decision::Answer(_, _, answer) = Decision::of(&bytes) {
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }
}
