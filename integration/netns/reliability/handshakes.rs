//! Incomplete handshakes do not block others, and are closed.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, Servers};
use crate::lab::dialect::PROXY;
use crate::lab::fleet::QUIET;
use crate::lab::web::who;
use crate::lab::{Host, Lab, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is sent before the silence: nothing, or the beginning of a TLS record.
const AT_THE_LINK: [&[u8]; 3] = [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"];
/// Nothing, or the beginning of SOCKS5 and HTTP.
const AT_THE_PROXY: [&[u8]; 4] =
    [b"", b"\x05", b"\x05\x01\x00\x05\x01", b"GET http://10.88.0.100/ HTTP/1.1\r\nHost: "];

pub(super) fn half_made(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let options = [&["--allow", "10.88.0.0/24"], &QUIET[..]].concat();
    let group = lab.group(&[&g1, &c1, &c3], &options);
    let _node = group.client(&c1, &QUIET);
    apps::many_sockets();
    let _servers = Servers::start(lab);
    let count = report.count(1000);

    let made = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let link = SocketAddr::from((g1.address(), 7420));
    let attacks = [
        ("at the link port", begin(&c2, link, &AT_THE_LINK, count, &made)),
        ("at the local port", begin(&c1, PROXY, &AT_THE_PROXY, count, &made)),
    ];
    wait_until("the handshakes to be begun", || made.load(Ordering::Relaxed) == 2 * count);
    report.figure("half-made handshakes, at each port", count);
    report.figure("begun within, ms", begun.elapsed().as_millis());

    let started = Instant::now();
    let mut client = group.up(&c3, &QUIET);
    client.wait_for_line("link up", Duration::from_secs(30));
    report.within("a new client is linked after", started.elapsed(), Duration::from_secs(1));
    let started = Instant::now();
    let served = apps::run(&c1, async || apps::echo(&mut apps::tunnel(ECHO).await?, b"served?").await);
    report.none("new apps not served", usize::from(served.is_err()));
    report.within("a new app is served after", started.elapsed(), Duration::from_secs(1));

    for (name, attack) in attacks {
        let closed = attack.join().unwrap();
        report.none(&format!("{name}, still open"), closed.iter().filter(|closed| closed.is_none()).count());
        let last = closed.into_iter().flatten().max().unwrap_or_default();
        report.within(&format!("{name}, the last one closed after"), last, Duration::from_secs(15));
    }
}

/// Begins `count` handshakes; returns how long each was left open.
fn begin(
    from: &Host,
    to: SocketAddr,
    beginnings: &'static [&[u8]],
    count: usize,
    made: &Arc<AtomicUsize>,
) -> JoinHandle<Vec<Option<Duration>>> {
    let made = made.clone();
    from.thread(move || {
        apps::runtime().block_on(async {
            let made = &made;
            let all = (0..count).map(|number| async move {
                let connected = TcpStream::connect(to).await;
                let started = Instant::now();
                made.fetch_add(1, Ordering::Relaxed);
                // Refused at once, which counts as closed.
                let Ok(mut stream) = connected else { return Some(Duration::ZERO) };
                let sent = stream.write_all(beginnings[number % beginnings.len()]).await;
                let end = async { while let Ok(1..) = stream.read(&mut [0; 64]).await {} };
                let closed = sent.is_err() || timeout(Duration::from_secs(30), end).await.is_ok();
                closed.then(|| started.elapsed())
            });
            futures_util::future::join_all(all).await
        })
    })
}
