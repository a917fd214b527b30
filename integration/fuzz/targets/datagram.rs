//! Discovery datagrams: from an arbitrary sender, and from one that has the group's key.

use std::net::SocketAddr;
use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use aws_lc_rs::{hkdf, hmac};
use laneway::wire::datagram::{
    Datagram, DatagramSigner, Keys, Message, Received, SIZE, Way, invite_asked_for,
};
use laneway::wire::id::GroupId;

const GROUP: GroupId = GroupId(*b"fuzzing!");
const DISCOVERY_KEY: [u8; 32] = [7; 32];
const LABELS: [&str; 5] = ["query", "offer", "beacon", "join query", "join offer"];
const TAG: usize = SIZE - 16;
const SIGNATURE: usize = TAG - 64;
const SEED: [u8; 32] = [5; 32];

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(&DISCOVERY_KEY));
static OWN_KEYS: LazyLock<[hmac::Key; 5]> = LazyLock::new(|| LABELS.map(own_key));
static WAY: LazyLock<Way> = LazyLock::new(|| Way {
    from: "10.0.0.8:7420".parse().expect("an address"),
    to: "10.0.0.9:7420".parse().expect("an address"),
});

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&SEED).expect("any 32 bytes are a seed"));

/// `data` is a datagram. What follows its magic, version, type and group is also used as the rest of an
/// authentic one, whose zero padding, signature and tag may be missing.
pub fn run(data: &[u8]) {
    check(data);
    for signs in [false, true] {
        if let Some(authentic) = authentic(data, signs) {
            check(&authentic);
        }
    }
}

fn check(data: &[u8]) {
    assert!(invite_asked_for(data).is_none() || data.len() == SIZE);
    let public_key: &[u8; 32] = KEY.public_key().as_ref().try_into().expect("32 bytes");
    let (datagram, signer) = match Datagram::decode(data, GROUP, &KEYS, *WAY) {
        Err(_) => return,
        Ok(Received::Unsigned(datagram)) => (datagram, None),
        Ok(Received::Signed(unverified)) => {
            let statement = *unverified.statement();
            let (sequence, name) = (unverified.sequence(), unverified.name(&KEYS));
            let Ok(datagram) = unverified.verify(public_key) else { return };
            let (Message::Offer { sequence: said, .. } | Message::Beacon { sequence: said, .. }) =
                &datagram.message
            else {
                panic!("a signed {datagram:?}")
            };
            assert_eq!(sequence, *said);
            let pkcs8 = KEY.to_pkcs8v1().expect("it can be written");
            (datagram, Some(DatagramSigner::new(pkcs8.as_ref(), statement, name).expect("a key")))
        }
    };
    assert_eq!(datagram.encode(&KEYS, *WAY, signer.as_ref())[..], *data, "two datagrams that say the same");
    if let Message::JoinQuery { invite, .. } = &datagram.message {
        assert_eq!(invite_asked_for(data), Some(*invite));
    }
    let elsewhere = Way { from: "10.0.0.7:7420".parse().expect("an address"), ..*WAY };
    assert!(Datagram::decode(data, GROUP, &KEYS, elsewhere).is_err());
    let mut forged = data.to_vec();
    forged[usize::from(data[24]) + 200] ^= 1;
    assert!(Datagram::decode(&forged, GROUP, &KEYS, *WAY).is_err(), "one bit changed");
}

/// The same datagram with a valid header and tag, and with a valid signature if it `signs`.
fn authentic(data: &[u8], signs: bool) -> Option<Vec<u8>> {
    let mut bytes = data.get(..data.len().min(TAG))?.to_vec();
    bytes.resize(TAG, 0);
    let kind = usize::from(bytes[5] % 5);
    bytes[..4].copy_from_slice(b"LANE");
    (bytes[4], bytes[5]) = (2, u8::try_from(kind).expect("below 5") + 1);
    bytes[8..16].copy_from_slice(&GROUP.0);
    let covered: &[SocketAddr] = match LABELS[kind] {
        "offer" | "join offer" => &[WAY.from, WAY.to],
        _ => &[WAY.from],
    };
    let mut way = Vec::new();
    for address in covered {
        let SocketAddr::V4(address) = address else { return None };
        way.extend(address.ip().to_ipv6_mapped().octets());
        way.extend(address.port().to_be_bytes());
    }
    if signs {
        if !matches!(LABELS[kind], "offer" | "beacon") {
            return None;
        }
        let label = format!("laneway {} 2\0", LABELS[kind]);
        let signed = [label.as_bytes(), &bytes[..SIGNATURE], &way].concat();
        bytes[SIGNATURE..].copy_from_slice(KEY.sign(&signed).as_ref());
    }
    let mut signing = hmac::Context::with_key(&OWN_KEYS[kind]);
    signing.update(&bytes);
    signing.update(&way);
    bytes.extend_from_slice(&signing.sign().as_ref()[..16]);
    Some(bytes)
}

/// The key of one type, derived independently of the implementation.
fn own_key(label: &str) -> hmac::Key {
    let info = [label.as_bytes()];
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"laneway discovery 2").extract(&DISCOVERY_KEY);
    let mut key = [0; 32];
    let derived = salt.expand(&info, hmac::HMAC_SHA256).and_then(|okm| okm.fill(&mut key));
    derived.expect("HKDF-SHA256 gives 32 bytes");
    hmac::Key::new(hmac::HMAC_SHA256, &key)
}
