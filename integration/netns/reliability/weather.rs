//! Bad networks: downloads arrive complete, however long they take.

use super::apps;
use super::report::Report;
use crate::lab::fleet::QUIET;
use crate::lab::group::START;
use crate::lab::origin::noise;
use crate::lab::process::Process;
use crate::lab::web::{self, BLOCK, numbered};
use crate::lab::{Host, Lab};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A download without progress for this long has failed.
const SILENCE: Duration = Duration::from_secs(120);

/// Makes the LAN interface of the client, or of the gateway, a bad one.
type Spoil = fn(&Lab, &Host, &Host) -> Option<Process>;

/// Each network with the fraction of the bytes that it gets, as one in so many: with 20% loss TCP carries a third of a Mbit/s.
const NETWORKS: [(&str, usize, Spoil); 6] = [
    ("5% loss", 1, |_, client, gateway| lose(client, gateway, "numgen random mod 100 < 5")),
    ("20% loss", 100, |_, client, gateway| lose(client, gateway, "numgen random mod 100 < 20")),
    ("50 ± 20 ms, out of order", 1, |lab, client, _| Some(lab.delay(client, 50, 20))),
    ("MTU 1280", 1, |_, client, _| {
        client.ip("link set lan mtu 1280");
        None
    }),
    ("PMTU hole at 1280", 1, |_, client, gateway| lose(client, gateway, "meta length > 1280")),
    ("20 Mbit/s", 1, |_, client, gateway| {
        for host in [client, gateway] {
            let mut tc = host.command("tc");
            tc.args("qdisc add dev lan root tbf rate 20mbit burst 32kbit latency 100ms".split(' '));
            host.output(tc).success();
        }
        None
    }),
];

fn lose(client: &Host, gateway: &Host, what: &str) -> Option<Process> {
    for host in [client, gateway] {
        // Without segmentation offload, packets are counted as a wire would carry them.
        host.ip("link set lan gso_max_segs 1");
        host.filter(&format!("iif lan {what} drop"));
    }
    None
}

pub(super) fn bad_networks(_: &Lab, report: &mut Report) {
    let (most, times) = (report.count(100), if report.scale < 1.0 { 2 } else { 10 });
    report.figure("MiB each, times each", format_args!("{most}, {times}"));
    for (name, one_in, spoil) in NETWORKS {
        let blocks = (most / one_in).max(1);
        let lab = Lab::new();
        let block = noise(6, BLOCK);
        let content = block.clone();
        let web = lab.web(move |asked, stream| web::blocks(asked, stream, &content, blocks));
        let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
        let group = lab.group(&[&g1, &c1], &QUIET);
        let _relay = spoil(&lab, &c1, &g1);
        let mut node = group.up(&c1, &QUIET);
        node.wait_for_line("link up", START * 6);
        let started = Instant::now();
        let wrong = apps::run(&c1, async || {
            let mut wrong = Vec::new();
            for _ in 0..times {
                if let Err(error) = download(&block, blocks).await {
                    wrong.push(error);
                }
            }
            wrong
        });
        let megabits = (times * blocks * BLOCK * 8) as f64 / 1e6 / started.elapsed().as_secs_f64();
        report.figure(&format!("{name}: Mbit/s"), format_args!("{megabits:.1}"));
        report.figure(&format!("{name}: resumed"), web.asked("/large").len() - times);
        if let Some(error) = wrong.first() {
            report.figure(&format!("{name}: the first error"), error);
        }
        report.none(&format!("{name}: not byte-exact"), wrong.len());
    }
}

async fn download(block: &[u8], blocks: usize) -> io::Result<()> {
    let mut stream = apps::proxy().await?;
    let request = b"GET http://10.88.0.100/large HTTP/1.1\r\nHost: 10.88.0.100\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SILENCE, stream.read_u8()).await??);
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(head.escape_ascii().to_string()));
    }
    let mut received = vec![0; BLOCK];
    for number in 0..blocks {
        let mut filled = 0;
        while filled < BLOCK {
            match timeout(SILENCE, stream.read(&mut received[filled..])).await?? {
                0 => return Err(io::Error::other(format!("ends in block {number}"))),
                length => filled += length,
            }
        }
        if received != numbered(block, number) {
            return Err(io::Error::other(format!("block {number} is another")));
        }
    }
    match stream.read(&mut received).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than there is")),
    }
}
