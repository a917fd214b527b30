//! A link is measured: what it can carry, and no more than the client may have.

use std::time::{Duration, Instant};

use laneway::failure::{Kind, Side};
use laneway::link::client::Link;
use laneway::link::gateway_info;
use laneway::link::speed::{Direction, Measured, measure};
use laneway::link::tls::link_client;
use laneway::trust::certificate::Role;
use laneway::trust::membership::Membership;

use crate::lab::Lab;
use crate::peer::{DEADLINE, within};
use crate::raw::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PING, Raw, RawGateway, established, frame, reset,
};

const TIME: Duration = Duration::from_millis(300);

#[tokio::test]
async fn both_directions_are_measured_and_the_link_is_as_good_as_before() {
    let lab = Lab::new().await;
    let link = lab.link().await;
    for direction in [Direction::Down, Direction::Up] {
        let mut time = TIME;
        loop {
            let mut last = 0;
            let measured = within(measure(&link, direction, time, |bytes| {
                assert!(bytes > last, "it goes on");
                last = bytes;
            }));
            let Measured { bytes, .. } = measured.await.unwrap();
            assert!(last >= bytes, "what arrived was sent");
            // Far more than the windows at the start, so they were given back. A busy machine needs longer for it.
            if bytes > 8 << 20 {
                break;
            }
            time *= 2;
            assert!(time < DEADLINE, "{direction:?}: only {bytes} bytes");
        }
    }
    within(gateway_info::fetch(&link)).await.unwrap();
    assert!(link.is_usable());
}

#[tokio::test]
async fn a_measurement_keeps_the_pace_of_its_client() {
    const RATE: u64 = 2_000_000;
    let lab = Lab::with_limits(&format!("client-rate = '{RATE}'")).await;
    let link = lab.link().await;
    for direction in [Direction::Down, Direction::Up] {
        let start = Instant::now();
        let measured = within(measure(&link, direction, TIME, |_| {})).await.unwrap();
        // What may run ahead is a quarter of a second and two pieces.
        let most = RATE as f64 * (start.elapsed().as_secs_f64() + 0.25) + (2 * 128 * 1024) as f64;
        assert!(measured.bytes as f64 <= most, "{direction:?}: {measured:?}");
    }
}

#[tokio::test]
async fn a_measurement_is_one_of_the_tunnels_that_a_client_may_have() {
    let lab = Lab::with_limits("client-tunnels = 0").await;
    let link = lab.link().await;
    let refused = within(measure(&link, Direction::Down, TIME, |_| {})).await.unwrap_err();
    assert_eq!((refused.kind, refused.side), (Kind::LimitReached, Side::Gateway));
    assert!(link.is_usable());
}

/// GET or POST of the path of measurements, in literals of HPACK without the table (RFC 7541 §6.2.2).
fn ask(stream: u32, method: u8) -> Vec<u8> {
    const PATH: &[u8] = b"/laneway/speed";
    // :method by the static table, :scheme https, then :path and :authority.
    let head = [method, 0x87, 0x04, u8::try_from(PATH.len()).unwrap()];
    frame(HEADERS, END_HEADERS, stream, &[&head[..], PATH, b"\x01\x01g"].concat())
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

#[tokio::test]
async fn members_that_stall_in_a_measurement_hold_up_nobody_and_not_the_end_either() {
    let lab = Lab::new().await;
    let mut raw = Raw::connect(&lab, &lab.client).await;
    for (number, method) in [GET, POST].into_iter().cycle().take(64).enumerate() {
        raw.output.say(ask(2 * u32::try_from(number).unwrap() + 1, method)).await;
    }
    raw.ping().await;
    let other = lab.link_of(&lab.member(Role::Client).await).await;
    assert!(within(measure(&other, Direction::Down, TIME, |_| {})).await.is_ok());
    raw.ping().await;
    // In order, and yet at once: no connection to a server is cut off.
    lab.drain.cancel();
    while let Some(Frame { kind, payload, .. }) = raw.input.frame().await {
        if kind == PING {
            raw.output.try_say(frame(PING, ACK, 0, &payload)).await;
        }
    }
}

#[tokio::test]
async fn a_member_that_begins_measurements_and_gives_them_up_keeps_its_link() {
    let lab = Lab::new().await;
    let mut raw = Raw::connect(&lab, &lab.client).await;
    for number in 0..500 {
        let method = if number % 2 == 0 { GET } else { POST };
        raw.output.say([ask(2 * number + 1, method), reset(2 * number + 1)].concat()).await;
        if number % 50 == 0 {
            raw.ping().await;
        }
    }
    raw.ping().await;
}

#[tokio::test]
async fn a_gateway_that_answers_nonsense_is_an_error_and_nothing_worse() {
    let lab = Lab::new().await;
    let answers: [&[u8]; 5] = [b"", b"-1", b"many", &[0xff; 12], &[b'9'; 30]];
    for answer in answers {
        let gateway = RawGateway::new(&lab.gateway);
        let membership = Membership::new(lab.client.clone());
        let config = link_client(&lab.client).unwrap();
        let dial = Link::dial(gateway.address, Some(lab.gateway.node.id), config, membership, &lab.tasks);
        let (link, raw) = tokio::join!(within(dial), within(gateway.accept()));
        let (link, Raw { mut input, mut output }) = (link.unwrap(), raw);
        let measured = tokio::spawn(async move {
            let (time, none) = (Duration::from_millis(1), |_| {});
            (measure(&link, Direction::Up, time, none).await, gateway_info::fetch(&link).await)
        });
        for _ in 0..2 {
            let stream = input.next(HEADERS).await.stream;
            output.say([established(stream), frame(DATA, END_STREAM, stream, answer)].concat()).await;
        }
        let (measured, about) = within(measured).await.unwrap();
        assert!(measured.is_err() && about.is_err(), "{answer:?}: {measured:?}, {about:?}");
    }
}
