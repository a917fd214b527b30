use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const GROUP: GroupId = GroupId([7; 8]);

fn way() -> Way {
    Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() }
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Standby), Just(State::Active), Just(State::Draining), Just(State::Withdrawn)]
}

fn peer() -> impl Strategy<Value = Peer> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<u64>()
            .prop_map(|host| { IpAddr::from(Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(host))) })
    ];
    (any::<[u8; 16]>(), ip, 1..=u16::MAX, state()).prop_map(|(id, ip, port, state)| Peer {
        id: NodeId(id),
        link: SocketAddr::new(ip, port),
        state,
    })
}

fn standing() -> impl Strategy<Value = Standing> {
    let policy = prop_oneof![
        Just(Policy::Strongest),
        Just(Policy::LeastBusy),
        Just(Policy::Random),
        Just(Policy::RoundRobin)
    ];
    let named = || proptest::option::of((1..=u128::MAX).prop_map(|id| NodeId(id.to_be_bytes())));
    let interval = 0..=MAX_LEADING_INTERVAL_MILLIS;
    let numbers = (any::<u8>(), any::<bool>(), interval, any::<u32>(), any::<u32>());
    (policy, numbers, named(), named()).prop_map(
        |(policy, (active, preparing, interval, claim, round), yields_to, replaces)| Standing {
            policy,
            active,
            preparing,
            interval,
            claim,
            round,
            yields_to,
            replaces,
        },
    )
}

fn advert() -> impl Strategy<Value = Advert> {
    let reach = prop_oneof![Just(Reach::Unknown), Just(Reach::Reachable), Just(Reach::Unreachable)];
    let numbers = (1..=u16::MAX, any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>());
    (state(), reach, numbers, standing(), proptest::collection::vec(peer(), 0..=MOST_PEERS)).prop_map(
        |(state, reach, (link_port, weight, load, capacity, tunnels), standing, peers)| Advert {
            state,
            reach,
            link_port,
            weight,
            load,
            capacity,
            tunnels,
            standing,
            peers,
        },
    )
}

fn sequence() -> impl Strategy<Value = Sequence> {
    (any::<u64>(), any::<u64>()).prop_map(|(boot, counter)| Sequence { boot, counter })
}

fn announcement() -> impl Strategy<Value = Message> {
    let offer = (any::<[u8; 16]>(), sequence(), advert());
    prop_oneof![
        offer.prop_map(|(nonce, sequence, advert)| Message::Offer { nonce, sequence, advert }),
        (sequence(), advert()).prop_map(|(sequence, advert)| Message::Beacon { sequence, advert }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|nonce| Message::Query { nonce }),
        announcement(),
        (any::<[u8; 16]>(), any::<[u8; 8]>())
            .prop_map(|(nonce, invite)| Message::JoinQuery { nonce, invite }),
        (any::<[u8; 16]>(), 1..=u16::MAX)
            .prop_map(|(nonce, link_port)| Message::JoinOffer { nonce, link_port }),
    ]
}

fn from(message: impl Strategy<Value = Message>) -> impl Strategy<Value = Datagram> {
    (any::<u64>(), any::<[u8; 16]>(), message).prop_map(|(epoch, sender, message)| Datagram {
        group: GROUP,
        epoch,
        sender: NodeId(sender),
        message,
    })
}

/// A node's signer, and its public key.
fn signer() -> (DatagramSigner, [u8; 32]) {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
    let public = pair.public_key().as_ref().try_into().unwrap();
    (DatagramSigner::new(key.as_ref(), [9; STATEMENT_SIZE], AnnouncedName::new("mill-7")).unwrap(), public)
}

fn decode(bytes: &[u8], keys: &Keys, way: Way, public_key: &[u8; 32]) -> Result<Datagram, Dropped> {
    match Datagram::decode(bytes, GROUP, keys, way)? {
        Received::Unsigned(datagram) => Ok(datagram),
        Received::Signed(unverified) => unverified.verify(public_key),
    }
}

/// The datagram with a tag that is right for its bytes, as somebody with the group's key makes it.
fn tagged(mut bytes: [u8; SIZE], keys: &Keys, way: Way) -> [u8; SIZE] {
    if let Some(kind) = Type::read(bytes[5]) {
        let tag = keys.tag(kind, &bytes[..TAG], way);
        bytes[TAG..].copy_from_slice(&tag);
    }
    bytes
}

fn beacon() -> Datagram {
    let standing = Standing { interval: 500, claim: 3, ..Standing::default() };
    let peer = Peer { id: NodeId([4; 16]), link: "10.0.0.7:7420".parse().unwrap(), state: State::Standby };
    let advert = Advert {
        state: State::Active,
        reach: Reach::Reachable,
        link_port: 7420,
        weight: 100,
        load: 10,
        capacity: 1000,
        tunnels: 3,
        standing,
        peers: vec![peer; 2],
    };
    let message = Message::Beacon { sequence: Sequence { boot: 5, counter: 6 }, advert };
    Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message }
}

proptest! {
    #[test]
    fn a_datagram_reads_back(datagram in from(message()), key: [u8; 32]) {
        let (keys, (signer, public)) = (Keys::new(&key), signer());
        let bytes = datagram.encode(&keys, way(), Some(&signer));
        prop_assert_eq!(epoch_named(&bytes), Some(datagram.epoch));
        let received = Datagram::decode(&bytes, GROUP, &keys, way()).unwrap();
        prop_assert_eq!(received.sender(), datagram.sender);
        if let Received::Signed(unverified) = &received {
            prop_assert_eq!(unverified.statement(), &[9; STATEMENT_SIZE]);
            let (sequence, answers) = match &datagram.message {
                Message::Offer { nonce, sequence, .. } => (*sequence, Some(*nonce)),
                Message::Beacon { sequence, .. } => (*sequence, None),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!((unverified.sequence(), unverified.answers()), (sequence, answers));
        }
        prop_assert_eq!(decode(&bytes, &keys, way(), &public), Ok(datagram));
    }

    #[test]
    fn one_changed_bit_is_noticed(datagram in from(message()), bit in 0..SIZE * 8) {
        let (keys, (signer, public)) = (Keys::new(&[1; 32]), signer());
        let mut bytes = datagram.encode(&keys, way(), Some(&signer));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes, &keys, way(), &public).is_err());
    }

    #[test]
    fn an_announcement_without_its_senders_signature_is_dropped(datagram in from(announcement())) {
        let (keys, (own, _), (_, public)) = (Keys::new(&[1; 32]), signer(), signer());
        for signer in [None, Some(&own)] {
            let bytes = datagram.encode(&keys, way(), signer);
            prop_assert_eq!(decode(&bytes, &keys, way(), &public), Err(Dropped::Signature));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let keys = Keys::new(&[1; 32]);
        prop_assert!(Datagram::decode(&bytes, GROUP, &keys, way()).is_err());
        let _ = (invite_asked_for(&bytes), epoch_named(&bytes));
    }

    #[test]
    fn arbitrary_bodies_with_a_right_tag_never_panic(kind in 1_u8..=5, body in proptest::collection::vec(any::<u8>(), TAG - BODY)) {
        let keys = Keys::new(&[1; 32]);
        let query = Datagram { group: GROUP, epoch: 1, sender: NodeId([0; 16]), message: Message::Query { nonce: [0; 16] } };
        let mut bytes = query.encode(&keys, way(), None);
        bytes[5] = kind;
        bytes[BODY..TAG].copy_from_slice(&body);
        let _ = decode(&tagged(bytes, &keys, way()), &keys, way(), &[1; 32]);
    }
}

#[test]
fn a_member_that_changes_any_bit_of_a_signed_datagram_and_tags_it_again_is_noticed() {
    let (keys, (signer, public)) = (Keys::new(&[1; 32]), signer());
    let Datagram { group, epoch, sender, message } = beacon();
    let Message::Beacon { sequence, advert } = message.clone() else { unreachable!() };
    let offer = Message::Offer { nonce: [3; 16], sequence, advert };
    for message in [message, offer] {
        let datagram = Datagram { group, epoch, sender, message };
        let whole = datagram.encode(&keys, way(), Some(&signer));
        assert_eq!(decode(&whole, &keys, way(), &public), Ok(datagram));
        for bit in 0..SIZE * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, &keys, way(), &public).is_err(), "bit {bit}");
            if bit < TAG * 8 {
                let outcome = decode(&tagged(bytes, &keys, way()), &keys, way(), &public);
                // A changed type makes an unsigned datagram of it, but only one whose unused bytes are zero is read.
                assert!(outcome.is_err(), "bit {bit}, tagged again: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_signature_is_for_one_way_only() {
    let (keys, (signer, public)) = (Keys::new(&[1; 32]), signer());
    let whole = beacon().encode(&keys, way(), Some(&signer));
    let elsewhere = "10.0.0.7:7420".parse().unwrap();
    let from_elsewhere = Way { from: elsewhere, ..way() };
    let moved = tagged(whole, &keys, from_elsewhere);
    assert_eq!(decode(&moved, &keys, from_elsewhere, &public), Err(Dropped::Signature));
    // A beacon is for everybody.
    assert!(decode(&whole, &keys, Way { to: elsewhere, ..way() }, &public).is_ok());
}

#[test]
fn an_interval_longer_than_the_maximum_is_malformed() {
    let (keys, (signer, public)) = (Keys::new(&[1; 32]), signer());
    for (state, preparing, longest) in [
        (State::Active, false, MAX_LEADING_INTERVAL_MILLIS),
        (State::Draining, false, MAX_LEADING_INTERVAL_MILLIS),
        (State::Standby, true, MAX_LEADING_INTERVAL_MILLIS),
        (State::Standby, false, MAX_INTERVAL_MILLIS),
        (State::Withdrawn, false, MAX_INTERVAL_MILLIS),
    ] {
        for (interval, fits) in [(longest, true), (longest + 1, false), (u16::MAX, false)] {
            let mut datagram = beacon();
            let Message::Beacon { advert, .. } = &mut datagram.message else { unreachable!() };
            (advert.state, advert.standing.preparing, advert.standing.interval) =
                (state, preparing, interval);
            let bytes = datagram.encode(&keys, way(), Some(&signer));
            let expected = if fits { Ok(datagram) } else { Err(Dropped::Form) };
            assert_eq!(decode(&bytes, &keys, way(), &public), expected, "{state:?} {interval}");
        }
    }
}

#[test]
fn an_offer_to_another_address_another_group_and_another_key_are_dropped() {
    let keys = Keys::new(&[1; 32]);
    let offer = Message::JoinOffer { nonce: [3; 16], link_port: 7420 };
    let datagram = Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message: offer };
    let bytes = datagram.encode(&keys, way(), None);
    let elsewhere = "10.0.0.7:7420".parse().unwrap();
    let decode = |bytes: &[u8], group, keys: &Keys, way| Datagram::decode(bytes, group, keys, way).map(drop);
    for way in [Way { to: elsewhere, ..way() }, Way { from: elsewhere, ..way() }] {
        assert_eq!(decode(&bytes, GROUP, &keys, way), Err(Dropped::Forged));
    }
    assert_eq!(decode(&bytes, GroupId([8; 8]), &keys, way()), Err(Dropped::Group));
    assert_eq!(decode(&bytes, GROUP, &Keys::new(&[2; 32]), way()), Err(Dropped::Forged));
    assert_eq!(decode(&bytes[1..], GROUP, &keys, way()), Err(Dropped::Form));
}

#[test]
fn a_captured_query_sent_from_another_address_is_dropped() {
    let keys = Keys::new(&[1; 32]);
    let nonce = [3; 16];
    for message in [Message::Query { nonce }, Message::JoinQuery { nonce, invite: [4; 8] }] {
        let datagram = Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message };
        let bytes = datagram.encode(&keys, way(), None);
        let elsewhere = Way { from: "10.0.0.7:7420".parse().unwrap(), ..way() };
        assert_eq!(Datagram::decode(&bytes, GROUP, &keys, elsewhere).map(drop), Err(Dropped::Forged));
        assert!(Datagram::decode(&bytes, GROUP, &keys, way()).is_ok());
    }
}

#[test]
fn a_query_and_its_type_cannot_be_swapped() {
    let keys = Keys::new(&[1; 32]);
    let query = Message::Query { nonce: [3; 16] };
    let datagram = Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message: query };
    let mut bytes = datagram.encode(&keys, way(), None);
    bytes[5] = Type::JoinQuery as u8;
    assert_eq!(Datagram::decode(&bytes, GROUP, &keys, way()).map(drop), Err(Dropped::Forged));
}
