//! The fuzz targets: each parses its input, and checks what must hold of the result.
//!
//! The fuzzers in `bin` and the tests in `seeds.rs` share these functions. A file in `seeds/TARGET` is an input of that
//! target; its name says what it shows.

pub mod access;
pub mod beacons;
pub mod capsule;
pub mod chunked;
pub mod configuration;
pub mod connect;
pub mod datagram;
pub mod dns;
pub mod first;
pub mod h2;
pub mod h2_client;
pub mod h2_memory;
pub mod hpack;
pub mod http_request;
pub mod http_response;
pub mod index;
mod input;
pub mod join_code;
pub mod proxy_status;
pub mod records;
pub mod replay;
pub mod resume;
pub mod socks;
pub mod socks4;
pub mod socks_udp;
pub mod stored;

#[cfg(test)]
mod seeds;

/// Runs a target on one input; panics when something does not hold.
pub type Run = fn(&[u8]);

/// Every target with its name, which is also that of its fuzzer and of the directory of its seeds.
pub const ALL: [(&str, Run); 25] = [
    ("access", access::run),
    ("beacons", beacons::run),
    ("capsule", capsule::run),
    ("chunked", chunked::run),
    ("configuration", configuration::run),
    ("connect", connect::run),
    ("datagram", datagram::run),
    ("dns", dns::run),
    ("first", first::run),
    ("h2", h2::run),
    ("h2_client", h2_client::run),
    ("h2_memory", h2_memory::run),
    ("hpack", hpack::run),
    ("http_request", http_request::run),
    ("http_response", http_response::run),
    ("index", index::run),
    ("join_code", join_code::run),
    ("proxy_status", proxy_status::run),
    ("records", records::run),
    ("replay", replay::run),
    ("resume", resume::run),
    ("socks", socks::run),
    ("socks4", socks4::run),
    ("socks_udp", socks_udp::run),
    ("stored", stored::run),
];

/// The program of a target: a fuzzer under `cfg(fuzzing)`, else one that runs the files that are its arguments.
#[macro_export]
macro_rules! fuzzer {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$target::run(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::run_files($crate::$target::run)
        }
    };
}

/// Runs a target on each file that is an argument of this program.
///
/// # Errors
/// When a file cannot be read.
pub fn run_files(run: Run) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        run(&std::fs::read(path)?);
    }
    Ok(())
}
