#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| laneway_fuzz::socks_udp::run(data));
