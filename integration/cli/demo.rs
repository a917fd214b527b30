//! The demo is run for real: what it shows must not break unnoticed.

use crate::machine::Machine;

#[test]
fn the_demo_plays_to_its_end_and_every_download_is_right() {
    let machine = Machine::new();
    let output = machine.laneway(["demo", "--size", "24"]).success();
    assert_eq!(output.stderr, "", "{output}");
    let mut said = output.stdout.lines();
    for words in [
        "Four machines",
        "made by gateway-1; gateway-2 and the client joined it",
        "asks its LAN",
        "query sent by UDP broadcast",
        "offer from gateway-",
        "up: one TCP connection, TLS 1.3, HTTP/2",
        "HTTP proxy 25165824 bytes in",
        "SOCKS5     25165824 bytes in",
        "is killed (kill -9)",
        "first new request after the kill",
        "download   25165824 bytes in",
    ] {
        assert!(said.any(|line| line.contains(words)), "no {words:?} in its place: {output}");
    }
    assert_eq!(output.stdout.matches("SHA-256 is right").count(), 3, "{output}");
}
