//! The server's name in the first bytes of an app: the same however they arrive, and a valid name.

use laneway::wire::first::{NameSearch, ServerName};
use laneway::wire::hello::ClientHello;
use laneway::wire::target::Host;

/// `data` is what an app sends first.
pub fn run(data: &[u8]) {
    let whole = NameSearch::default().search(data);
    let (mut read, mut search) = (Vec::new(), NameSearch::default());
    let mut outcomes = super::input::pieces(data).map(|piece| {
        read.extend_from_slice(piece);
        search.search(&read)
    });
    let first = outcomes.find(|outcome| *outcome != ServerName::Incomplete);
    assert_eq!(first.unwrap_or(ServerName::Incomplete), whole, "in pieces");
    if let ServerName::Found(name) = &whole {
        assert_eq!(Host::parse(name), Ok(Host::Name(name.clone())));
    }
    if let Ok(Some(hello)) = ClientHello::parse(data) {
        assert!(hello.length <= data.len());
        assert_eq!(ClientHello::parse(&data[..hello.length]), Ok(Some(hello.clone())));
        assert_eq!(ClientHello::parse(&data[..hello.length - 1]), Ok(None));
        // A name cannot be longer than the bytes it was found in.
        let text: Vec<u8> = hello.server_name.unwrap_or_default().into_bytes();
        assert!(text.len() <= data.len());
    }
}
