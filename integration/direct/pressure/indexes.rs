//! Indexes of registries that name as much as they can, and packed ones that become many times as much.

use std::io::Write as _;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{MIB, Victim};
use crate::peer::{Origin, Peer, within};

/// Any digest.
const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A gateway whose own apps use fronts of a registry at `origin`.
async fn with_fronts(address: &str, origin: &Origin) -> Victim {
    let fronts = ["pypi", "apt/a"].map(|front| format!("{front}=http://{}/{front}/", origin.address));
    Victim::start(address, &fronts.map(|front| ["--front".to_owned(), front]).concat()).await
}

/// An app gets this path, for which the registry sends these parts of a body, each so many times.
async fn gets(victim: &Victim, origin: &Origin, path: &str, kind: &str, parts: &[(Vec<u8>, usize)]) {
    let mut app = within(TcpStream::connect(victim.proxy)).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", victim.proxy);
    within(app.write_all(request.as_bytes())).await.unwrap();
    let mut server = origin.accept().await;
    server.head().await;
    server.say(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n")).await;
    let reading = tokio::spawn(async move {
        let mut room = vec![0; 1 << 18];
        while within(app.read(&mut room)).await.is_ok_and(|count| count > 0) {}
    });
    'sending: for (part, times) in parts {
        for _ in 0..*times {
            if !server.try_say(part).await {
                break 'sending;
            }
        }
    }
    drop(server);
    reading.await.unwrap();
    victim.has_kept_memory();
}

#[tokio::test]
async fn indexes_of_any_size_do_not_fill_the_nodes_memory() {
    let origin = Origin::new();
    let victim = with_fronts("127.0.0.84", &origin).await;
    let name = "y".repeat(2000);
    let anchor = format!("<a href=\"{name}#sha256={HEX}\">a</a>\n").repeat(32).into_bytes();
    gets(&victim, &origin, "/pypi/page/", "text/html", &[(anchor, 1500)]).await;
    let file = format!("{{\"url\":\"{name}\",\"hashes\":{{\"sha256\":\"{HEX}\"}}}},").repeat(32).into_bytes();
    let json = [(b"{\"files\":[".to_vec(), 1), (file, 1500), (b"{}]}".to_vec(), 1)];
    gets(&victim, &origin, "/pypi/json/", "application/vnd.pypi.simple.v1+json", &json).await;
}

impl Victim {
    /// What its connections hold, as it says itself, in bytes.
    async fn held(&self) -> u64 {
        let text = self.page("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix("laneway_memory_used_bytes "));
        line.unwrap_or_else(|| panic!("no metric: {text}")).parse().unwrap()
    }
}

/// Ten bytes become 8 KB. For each of these indexes 25 MB were held that nothing counted.
#[tokio::test]
async fn indexes_that_become_many_times_as_much_for_apps_that_read_nothing_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let origin = Origin::new();
    let victim = with_fronts("127.0.0.93", &origin).await;
    let before = victim.held().await;
    let packed = |text: String| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let name = "y".repeat(7900);
    let page = packed(format!("<base href=\"/{name}/\">{}", "<a href=b>".repeat(300_000)));
    let json = packed(format!("{{\"files\":[{}{{}}]}}", "{\"url\":\"a\"},".repeat(250_000)));
    let of_json = "application/vnd.pypi.simple.v1+json";
    let (mut held, mut refused) = (Vec::new(), 0);
    for number in 0..75 {
        for (name, kind, body) in [("page", "text/html", &page), (&*name, of_json, &json)] {
            let mut app = Peer::connect(victim.proxy).await;
            let host = victim.proxy;
            app.say(format!("GET /pypi/{name}/?{number} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            let mut server = tokio::select! {
                server = origin.accept() => server,
                // The node has taken as many indexes as its memory allows.
                _ = app.stream.readable() => {
                    refused += 1;
                    continue;
                }
            };
            server.head().await;
            let fields = "Content-Encoding: gzip\r\nCache-Control: no-store\r\nConnection: close\r\n";
            let head = format!("Content-Type: {kind}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
            server.say([b"HTTP/1.1 200 OK\r\n", head.as_bytes(), body].concat()).await;
            // Once the first bytes have come, the rest waits for the app.
            within(app.stream.readable()).await.unwrap();
            held.push((app, server));
            victim.has_kept_memory();
        }
    }
    assert!(refused > 0 && held.len() > 10, "{} are served, {refused} refused", held.len());
    drop(held);
    within(async { while victim.held().await > before + MIB {} }).await;
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn packed_lists_that_become_a_thousand_times_as_much_do_not_fill_the_nodes_memory() {
    let origin = Origin::new();
    let victim = with_fronts("127.0.0.85", &origin).await;
    let name = "y".repeat(2000);
    let packed = |begin: &str, text: &str| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(begin.as_bytes()).unwrap();
        (0..60_000).for_each(|_| packed.write_all(text.as_bytes()).unwrap());
        packed.finish().unwrap()
    };
    for (file, begin, text) in [
        ("Packages.gz", "", format!("Filename: {name}\nSHA256: {HEX}\n\n")),
        ("Sources.gz", "Checksums-Sha256:\n", format!(" {HEX} 1 {name}\n")),
    ] {
        let list = packed(begin, &text);
        gets(&victim, &origin, &format!("/apt/a/dists/s/{file}"), "text/plain", &[(list, 1)]).await;
    }
}
