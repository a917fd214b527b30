//! The name in the first bytes of an app: known as soon as it is certain, and a name.

use laneway::wire::first::{Named, named};
use laneway::wire::hello::ClientHello;
use laneway::wire::target::Host;

/// `data` is what an app sends first.
pub fn run(data: &[u8]) {
    let whole = named(data);
    let mut read = Vec::new();
    let pieces = super::input::pieces(data).map(|piece| {
        read.extend_from_slice(piece);
        named(&read)
    });
    let first = pieces.into_iter().find(|known| *known != Named::Unfinished);
    assert_eq!(first.unwrap_or(Named::Unfinished), whole, "in pieces");
    if let Named::Name(name) = &whole {
        assert_eq!(Host::parse(name), Ok(Host::Name(name.clone())));
    }
    if let Ok(Some(hello)) = ClientHello::parse(data) {
        assert!(hello.length <= data.len());
        assert_eq!(ClientHello::parse(&data[..hello.length]), Ok(Some(hello.clone())));
        assert_eq!(ClientHello::parse(&data[..hello.length - 1]), Ok(None));
        // A name that is found is there, however the records are cut.
        let text: Vec<u8> = hello.server_name.unwrap_or_default().into_bytes();
        assert!(text.len() <= data.len());
    }
}
