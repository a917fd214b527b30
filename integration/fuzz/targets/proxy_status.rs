//! A gateway's message about a failure: bounded, printable, and unchanged when written again.

use laneway::failure::Failure;

/// `data` is the value of a Proxy-Status field.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some(failure) = Failure::from_proxy_status(text) else { return };
    assert!(failure.sentence.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    assert!(failure.sentence.len() <= 400);
    assert!((400..600).contains(&failure.http_status()) && (1..=8).contains(&failure.socks5_reply()));
    let said = failure.proxy_status("laneway");
    assert!(http::HeaderValue::from_str(&said).is_ok());
    assert_eq!(Failure::from_proxy_status(&said), Some(failure));
}
