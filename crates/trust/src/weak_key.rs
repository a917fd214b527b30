//! Public keys for which anybody can sign: points of small order, which RFC 8032 leaves to protocols that need more
//! than a signature.

/// The y-coordinates of the eight points of small order (five, as two points share most of them), and those of them that
/// have a second form, which is not reduced modulo 2^255 - 19.
const SMALL_ORDER: [[u8; 32]; 7] = [
    filled(0, 0, 0),
    filled(1, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    filled(0xec, 0xff, 0x7f),
    filled(0xed, 0xff, 0x7f),
    filled(0xee, 0xff, 0x7f),
];

const fn filled(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    (bytes[0], bytes[31]) = (first, last);
    bytes
}

/// Whether this raw Ed25519 public key is a point of small order. No private key belongs to it, and signatures that anybody
/// can make verify with it.
pub(super) fn is_weak(public_key: &[u8; 32]) -> bool {
    let mut y = *public_key;
    // The highest bit is the sign of x.
    y[31] &= 0x7f;
    SMALL_ORDER.contains(&y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{new_key, raw_public_key};

    #[test]
    fn points_of_small_order_are_weak_with_either_sign_and_keys_are_not() {
        for mut point in SMALL_ORDER {
            assert!(is_weak(&point));
            point[31] |= 0x80;
            assert!(is_weak(&point));
        }
        assert!((0..10).all(|_| !is_weak(&raw_public_key(&new_key().unwrap()))));
    }
}
