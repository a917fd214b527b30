//! What the signatures of beacons and offers cost a node.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use laneway::wire::datagram::{
    Advert, AnnouncedName, Datagram, DatagramSigner, Keys, Message, Reach, Received, STATEMENT_SIZE,
    Sequence, Standing, State, Way,
};
use laneway::wire::id::{GroupId, NodeId};

/// The time to check a beacon's HMAC and signature on this machine: the fastest of some rounds, since other programs
/// run beside this one.
pub(crate) fn cost() -> Duration {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
    let public_key: &[u8; 32] = pair.public_key().as_ref().try_into().unwrap();
    let signer =
        DatagramSigner::new(key.as_ref(), [0; STATEMENT_SIZE], AnnouncedName::new("mill-7")).unwrap();
    let (group, keys) = (GroupId([1; 8]), Keys::new(&[2; 32]));
    let way = Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() };
    let advert = Advert {
        state: State::Active,
        reach: Reach::Reachable,
        link_port: 7420,
        weight: 100,
        load: 10,
        capacity: 1000,
        tunnels: 3,
        standing: Standing::default(),
        peers: vec![],
    };
    let message = Message::Beacon { sequence: Sequence { boot: 1, counter: 1 }, advert };
    let datagram = Datagram { group, epoch: 1, sender: NodeId([3; 16]), message };
    let bytes = datagram.encode(&keys, way, Some(&signer));
    let verify = || {
        let Ok(Received::Signed(beacon)) = Datagram::decode(black_box(&bytes), group, &keys, way) else {
            panic!("not a beacon");
        };
        beacon.verify(public_key).unwrap();
    };
    let round = || {
        let start = Instant::now();
        (0..50).for_each(|_| verify());
        start.elapsed() / 50
    };
    (0..50).map(|_| round()).min().unwrap()
}
