//! What each fuzz target does with its bytes: parses them, and checks what must hold of the result.
//!
//! The fuzzers in `bin` and the test that replays `seeds` share these functions. A seed is read as the target
//! reads its input; its file name says what it shows.

pub mod access;
pub mod beacons;
pub mod capsule;
pub mod chunked;
pub mod configuration;
pub mod connect;
pub mod datagram;
pub mod dns;
pub mod first;
pub mod hpack;
pub mod http_request;
pub mod http_response;
mod input;
pub mod join_code;
pub mod proxy_status;
pub mod replay;
pub mod resume;
pub mod socks;
pub mod socks4;
pub mod socks_udp;

/// What one target does with its input.
pub type Run = fn(&[u8]);

/// Every target by its name, which is that of its fuzzer and of the directory of its seeds.
pub const ALL: [(&str, Run); 19] = [
    ("access", access::run),
    ("beacons", beacons::run),
    ("capsule", capsule::run),
    ("chunked", chunked::run),
    ("configuration", configuration::run),
    ("connect", connect::run),
    ("datagram", datagram::run),
    ("dns", dns::run),
    ("first", first::run),
    ("hpack", hpack::run),
    ("http_request", http_request::run),
    ("http_response", http_response::run),
    ("join_code", join_code::run),
    ("proxy_status", proxy_status::run),
    ("replay", replay::run),
    ("resume", resume::run),
    ("socks", socks::run),
    ("socks4", socks4::run),
    ("socks_udp", socks_udp::run),
];
