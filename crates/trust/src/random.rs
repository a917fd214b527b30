//! Random bytes from the operating system.

/// `N` random bytes for keys, secrets, ids, nonces and serial numbers.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system's random generator cannot fail once it is initialised");
    bytes
}
