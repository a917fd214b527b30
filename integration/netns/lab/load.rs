//! An app that makes new requests many times a second, in every dialect, and records the result of each.

use super::Host;
use super::dialect::PROXY;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

/// Longer than a node holds a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests until they are stopped. The server has to answer as [`super::web::who`] does.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicUsize,
    done: Mutex<Vec<Done>>,
}

/// A completed request.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) number: usize,
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    /// The gateway that served it, or the error.
    pub(crate) result: Result<Ipv4Addr, String>,
}

/// The results of the requests.
pub(crate) struct Report {
    pub(crate) done: Vec<Done>,
}

impl Load {
    /// Starts making `per_second` new requests a second from `host`.
    pub(crate) fn start(host: &Host, per_second: u32) -> Load {
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let thread = host.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(ask_until_stopped(&ours, per_second));
        });
        Load { shared, thread: Some(thread) }
    }

    /// Waits until `count` requests have succeeded that began after this was called.
    pub(crate) fn wait_for_new(&self, count: usize) {
        let first = self.shared.begun.load(Ordering::Relaxed);
        let what = format!("{count} new requests to succeed");
        super::wait_until(&what, || {
            let done = self.shared.done.lock().unwrap();
            done.iter().filter(|done| done.number >= first && done.result.is_ok()).count() >= count
        });
    }

    /// Waits until the last `count` requests, in the order of their beginning, were served by `gateway`.
    pub(crate) fn wait_for_service_by(&self, gateway: Ipv4Addr, count: usize) {
        super::wait_until(&format!("{gateway} to serve"), || {
            let mut done = self.shared.done.lock().unwrap().clone();
            done.sort_by_key(|done| done.number);
            done.len() >= count
                && done.iter().rev().take(count).all(|done| done.result.as_ref() == Ok(&gateway))
        });
    }

    /// Stops making requests, waits for those that have begun, and returns the results of all.
    pub(crate) fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("only taken here").join().unwrap();
        let mut done = std::mem::take(&mut *self.shared.done.lock().unwrap());
        done.sort_by_key(|done| done.number);
        Report { done }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Report {
    /// Fails the trial when a request has failed.
    #[track_caller]
    pub(crate) fn no_failure(&self) {
        assert!(!self.done.is_empty());
        let failed = self.failed();
        let first: Vec<_> = failed.iter().take(5).map(|done| (done.number, &done.result)).collect();
        assert!(failed.is_empty(), "{self}; the first ones: {first:?}");
    }

    pub(crate) fn failed(&self) -> Vec<&Done> {
        self.done.iter().filter(|done| done.result.is_err()).collect()
    }

    /// The duration of the slowest successful request.
    pub(crate) fn longest(&self) -> Duration {
        self.done.iter().filter(|done| done.result.is_ok()).map(|done| done.took).max().unwrap_or_default()
    }

    /// Only the requests that began after `instant`.
    pub(crate) fn since(&self, instant: Instant) -> Report {
        Report { done: self.done.iter().filter(|done| done.started >= instant).cloned().collect() }
    }

    /// The addresses that served requests, each with its number of requests.
    pub(crate) fn gateways(&self) -> BTreeMap<Ipv4Addr, usize> {
        let mut gateways = BTreeMap::new();
        for gateway in self.done.iter().filter_map(|done| done.result.as_ref().ok()) {
            *gateways.entry(*gateway).or_default() += 1;
        }
        gateways
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, failed, longest) = (self.done.len(), self.failed().len(), self.longest().as_millis());
        write!(f, "{all} requests, {failed} failed, longest {longest} ms, served by {:?}", self.gateways())
    }
}

async fn ask_until_stopped(shared: &Arc<Shared>, per_second: u32) {
    let mut tick = interval(Duration::from_secs(1) / per_second);
    let mut requests = tokio::task::JoinSet::new();
    while !shared.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        requests.spawn(async move {
            let started = Instant::now();
            let asked = timeout(PATIENCE, ask(number)).await;
            let result = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let result = result.map_err(|error| error.to_string());
            let done = Done { number, started, took: started.elapsed(), result };
            shared.done.lock().unwrap().push(done);
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

/// Makes one request and returns the gateway that served it; the answer must be complete and match the request.
async fn ask(number: usize) -> io::Result<Ipv4Addr> {
    let mut stream = TcpStream::connect(PROXY).await?;
    let host = "10.88.0.100";
    let target = match number % 3 {
        0 => format!("http://{host}/who/{number}"),
        1 => {
            let connect = format!("CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n");
            stream.write_all(connect.as_bytes()).await?;
            let head = read_until(&mut stream, |bytes| bytes.ends_with(b"\r\n\r\n")).await?;
            check(head.starts_with(b"HTTP/1.1 200 "), &head)?;
            format!("/who/{number}")
        }
        _ => {
            // The greeting and the request (RFC 1928 §3, §4), one after the other, as most apps do.
            stream.write_all(&[5, 1, 0]).await?;
            let mut method = [0; 2];
            stream.read_exact(&mut method).await?;
            check(method == [5, 0], &method)?;
            stream.write_all(&[5, 1, 0, 1, 10, 88, 0, 100, 0, 80]).await?;
            let mut reply = [0; 10];
            stream.read_exact(&mut reply).await?;
            check(reply[..2] == [5, 0], &reply)?;
            format!("/who/{number}")
        }
    };
    let get = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await?;
    let response = read_until(&mut stream, |bytes| body(bytes).is_some()).await?;
    check(response.starts_with(b"HTTP/1.1 200 "), &response)?;
    let served = body(&response).and_then(|body| {
        let (gateway, path) = std::str::from_utf8(body).ok()?.split_once(' ')?;
        (path == format!("/who/{number}")).then(|| gateway.parse().ok())?
    });
    served.ok_or_else(|| io::Error::other(format!("another body: {}", String::from_utf8_lossy(&response))))
}

/// The complete body of a response.
fn body(response: &[u8]) -> Option<&[u8]> {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&response[..end]).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let length: usize = length.trim().parse().ok()?;
    (response.len() - end == length).then(|| &response[end..])
}

async fn read_until(stream: &mut TcpStream, whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !whole(&bytes) {
        if stream.read_buf(&mut bytes).await? == 0 {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("cut off after {text:?}")));
        }
    }
    Ok(bytes)
}

fn check(good: bool, bytes: &[u8]) -> io::Result<()> {
    if good { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(bytes).into_owned())) }
}
