//! Runs one probe of `--probe`, and judges its answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::exchange::empty_line;
use super::subject::{Expected, Probe};
use crate::failure::printable;
use crate::gateway::dialer::Dialer;
use crate::gateway::silence::NOTHING;

/// The deadline of one probe, from the connection to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Why a probe failed that had no answer.
pub(super) const LATE: &str = "no answer in time";
/// Maximum number of bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// Runs one probe. Without `expected`, a URL must answer with a status of 2xx. `for_data` an address must acknowledge an empty
/// line.
/// empty line.
///
/// # Errors
/// Why it proves nothing, as a sentence.
pub(super) async fn run(
    probe: &Probe,
    dialer: &Dialer,
    expected: Option<&Expected>,
    for_data: bool,
) -> Result<(), String> {
    let (Probe::Url { target, .. } | Probe::Connect(target)) = probe else {
        return Err("nothing is to be asked".into());
    };
    let started = Instant::now();
    let stream = timeout(DEADLINE, dialer.dial_unjudged(target, DEADLINE)).await;
    let late = |_| dialer.why_silent(target).unwrap_or_else(|| LATE.to_owned());
    let stream = stream.map_err(late)?.map_err(|failure| failure.said_here())?.stream;
    let Probe::Url { host, path, .. } = probe else {
        return if for_data { empty_line(stream, true).await } else { Ok(()) };
    };
    let answered = ask(stream, host, path, expected);
    timeout(DEADLINE.saturating_sub(started.elapsed()), answered)
        .await
        .unwrap_or_else(|_late| Err(NOTHING.into()))
}

/// Sends the request, and judges its answer.
async fn ask(
    mut stream: TcpStream,
    host: &str,
    path: &str,
    expected: Option<&Expected>,
) -> Result<(), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    loop {
        if let Some(verdict) = judge(&answer, expected) {
            return verdict;
        }
        let room = MAX_ANSWER.saturating_sub(answer.len());
        let read = (&mut stream).take(room as u64).read_buf(&mut answer).await;
        if read.map_err(|error| error.to_string())? == 0 {
            return Err("its answer is not the expected one".into());
        }
    }
}

/// Whether what has been received so far decides.
fn judge(answer: &[u8], expected: Option<&Expected>) -> Option<Result<(), String>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    // Too many fields for this table is an answer like any other: the status line has been parsed.
    if let Err(error) = head.parse(answer)
        && error != httparse::Error::TooManyHeaders
    {
        return Some(Err(format!("its answer is not HTTP: {error}")));
    }
    let status = head.code?;
    match expected {
        None if (200..=299).contains(&status) => Some(Ok(())),
        Some(Expected::Status(wanted)) if *wanted == status => Some(Ok(())),
        Some(Expected::Text(text)) => {
            answer.windows(text.len()).any(|window| window == text.as_bytes()).then_some(Ok(()))
        }
        _ => Some(Err(format!("it answered {status} {}", printable(head.reason.unwrap_or_default())))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_of_a_captive_portal_proves_nothing() {
        let portal = b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n";
        assert!(judge(portal, None).unwrap().is_err());
        assert!(judge(portal, Some(&Expected::Status(302))).unwrap().is_ok());
        assert!(judge(b"HTTP/1.1 204 No Content\r\n\r\n", None).unwrap().is_ok());
        assert!(judge(b"SSH-2.0-x\r\n", None).unwrap().is_err());
        assert!(judge(b"HTTP/1.1 20", None).is_none());
        let text = Some(Expected::Text("alive".into()));
        assert!(judge(b"HTTP/1.1 200 OK\r\n\r\nhello", text.as_ref()).is_none());
        assert!(judge(b"HTTP/1.1 200 OK\r\n\r\nI am alive", text.as_ref()).unwrap().is_ok());
    }
}
