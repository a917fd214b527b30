//! The demo is run for real: what it shows must not break unnoticed.

use crate::machine::Machine;

#[test]
fn the_demo_plays_to_its_end_and_every_download_is_right() {
    let machine = Machine::new();
    let output = machine.laneway(["demo", "--size", "96"]).success();
    assert_eq!(output.stderr, "", "{output}");
    let mut said = output.stdout.lines();
    for words in [
        "Four machines",
        "made by gateway-1; gateway-2 and the client joined it",
        "asks its LAN",
        "query sent by UDP broadcast",
        "offer from gateway-",
        "up: one TCP connection, TLS 1.3, HTTP/2",
        "HTTP proxy 100663296 bytes in",
        "SOCKS5     100663296 bytes in",
        "is killed (kill -9)",
        "download resumed on the next gateway, from byte ",
        "first new request after the kill",
        "over both gateways; SHA-256",
    ] {
        assert!(said.any(|line| line.contains(words)), "no {words:?} in its place: {output}");
    }
    assert_eq!(output.stdout.matches("SHA-256 is right").count(), 3, "{output}");
}
