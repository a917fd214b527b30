//! A web server on s1 whose files may be stored, which counts what crosses the line.

use super::Lab;
use super::origin::noise;
use super::web::{Request, Web};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How much is written at a time, in bytes.
const STEP: usize = 64 * 1024;

/// The server; dropping it closes its port.
pub(crate) struct Files {
    web: Web,
    sent: Arc<AtomicU64>,
    made: Arc<Made>,
}

/// The contents that were made so far. Making one again for each request would take longer than sending it.
struct Made {
    length: usize,
    by_number: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
}

impl Made {
    fn content(&self, number: u64) -> Arc<Vec<u8>> {
        let mut made = self.by_number.lock().unwrap();
        made.entry(number).or_insert_with(|| Arc::new(noise(number + 1, self.length))).clone()
    }
}

impl Lab {
    /// Serves `/f/NUMBER` for every number, each `length` bytes of its own with a strong validator, fresh for an hour. Ranges are
    /// served, too.
    pub(crate) fn files(&self, length: usize) -> Files {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let made = Arc::new(Made { length, by_number: Mutex::default() });
        let serving = made.clone();
        let web = self.web(move |asked, stream| {
            let number = asked.path.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(1);
            send(asked, stream, &serving.content(number), &counted)
        });
        Files { web, sent, made }
    }
}

impl Files {
    /// The bytes of bodies that were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The content of one file. Making it takes seconds on a busy machine, so call this before it is asked for: then the server
    /// answers at once, and nobody loses patience with a request that is to be shared.
    pub(crate) fn content(&self, number: u64) -> Arc<Vec<u8>> {
        self.made.content(number)
    }

    /// The requests for this file so far.
    pub(crate) fn asked(&self, number: u64) -> Vec<Request> {
        self.web.asked(&format!("/f/{number}"))
    }
}

fn send(asked: &Request, stream: &mut TcpStream, content: &[u8], sent: &AtomicU64) -> io::Result<()> {
    let length = content.len();
    let (start, end) = range(asked, length).unwrap_or((0, length));
    let status = match asked.field("range") {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}", end - 1),
        None => "200 OK".into(),
    };
    let tag = asked.path.rsplit('/').next().unwrap_or_default();
    let count = end - start;
    stream.write_all(
        format!(
            "HTTP/1.1 {status}\r\nETag: \"{tag}\"\r\nCache-Control: max-age=3600\r\nContent-Length: {count}\r\n\
             Accept-Ranges: bytes\r\n\
             Connection: close\r\n\r\n"
        )
        .as_bytes(),
    )?;
    for piece in content[start..end].chunks(STEP) {
        stream.write_all(piece)?;
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn range(asked: &Request, length: usize) -> Option<(usize, usize)> {
    let (start, last) = asked.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let last = last.parse().map_or(length, |last: usize| last + 1);
    Some((start.parse().ok()?, last.min(length)))
}
