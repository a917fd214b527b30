//! What happens to the body of a front's response on its way to the app: a file is checked against its digest, an index leads
//! back to the local port, and what it names is learnt.

use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::cache::digest::{Digest, Hasher};
use crate::fronts::json::Format;
use crate::fronts::kind::Kind;
use crate::fronts::known::Known;
use crate::fronts::place::Place;
use crate::fronts::url::Url;
use crate::fronts::{debian, html, json};
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::memory::{Account, Tally};
use crate::sys::blocking::{self, Running};
use crate::wire::http::{Fields, ResponseHead};

/// The largest index that is rewritten, in bytes, both unpacked and rewritten.
const LARGEST: u64 = 256 * 1024 * 1024;
const TOO_LARGE: &str = "the index is too large to be rewritten: it has, or becomes, more than 256 MiB";
/// How many bytes of an index are taken at a time: packed, of which the decoder unpacks what its buffer has room for, 32 KiB or
/// little more, and unpacked. About as many rewritten bytes come of that.
const PACKED_STEP: usize = 4 * 1024;
const STEP: usize = 32 * 1024;
/// What unpacking takes, in bytes: the window, the buffer of the decoder, and its tables.
const UNPACKER: usize = 80 * 1024;
/// How many files of an index are learnt at a time.
const LEARNT_STEP: usize = 256;
/// Unpacking an index may take one part in this many of the memory.
const UNPACKING_PART: usize = 4;
/// How many pieces of an index wait to be read.
const QUEUE: usize = 8;
/// How long reading an index may take after its last byte has come.
const READING: Duration = Duration::from_secs(30);

/// What is done to the body.
pub(super) struct Filter {
    place: Place,
    known: Arc<Known>,
    check: Option<(Digest, Hasher)>,
    rewrite: Option<Rewrite>,
    learn: Option<Learn>,
    /// Bytes of an index that were not read yet.
    unread: Bytes,
    /// The last bytes of a file that is not checked yet.
    held: Bytes,
    /// What all this takes, with the bytes that are being passed on.
    memory: Tally,
}

/// Why the body must not be passed on to its end.
pub(super) enum Wrong {
    /// It is not the file that the index names.
    Digest(String),
    /// It cannot be read.
    Malformed(&'static str),
}

/// An index that is changed.
struct Rewrite {
    unpack: Option<MultiGzDecoder<Vec<u8>>>,
    /// What is unpacked and not rewritten yet.
    unpacked: Bytes,
    text: Text,
    /// Bytes so far, unpacked and rewritten.
    lengths: (u64, u64),
}

enum Text {
    Html(html::Rewriter),
    Json(json::Rewriter),
}

/// An index that is read while it is passed on.
struct Learn {
    pieces: mpsc::Sender<Bytes>,
    reading: Running<io::Result<Vec<(Url, Digest)>>>,
}

impl Filter {
    /// The filter for a whole response at `place`, whose file is to have the digest `expected`; `None` if there is nothing to do.
    /// The local port is called `local`, `http://HOST:PORT`.
    pub(super) fn of(
        place: &Place,
        known: &Arc<Known>,
        expected: Option<Digest>,
        response: &ResponseHead,
        local: &str,
        account: &Arc<Account>,
    ) -> Option<Self> {
        if response.status != 200 {
            return None;
        }
        let rewrite = if expected.is_none() { Rewrite::of(place, known, response, local) } else { None };
        let is_learnt = place.kind == Kind::Apt && debian::is_index(&place.url);
        let learn = if is_learnt { Learn::begin(place.clone(), known, account) } else { None };
        if expected.is_none() && rewrite.is_none() && learn.is_none() {
            return None;
        }
        let check = expected.map(|digest| {
            let hasher = digest.hasher();
            (digest, hasher)
        });
        let memory = Tally::of(account);
        Some(Self {
            place: place.clone(),
            known: known.clone(),
            check,
            rewrite,
            learn,
            unread: Bytes::new(),
            held: Bytes::new(),
            memory,
        })
    }

    /// Whether the body gets another length.
    pub(super) fn rewrites(&self) -> bool {
        self.rewrite.is_some()
    }

    /// Whether the body is checked against a digest.
    pub(super) fn checks(&self) -> bool {
        self.check.is_some()
    }

    /// Takes bytes of the body, once all earlier ones have been read.
    pub(super) fn take(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// No more bytes of the body come: what was not unpacked yet can be read.
    pub(super) fn has_taken_all(&mut self) -> Result<(), Wrong> {
        self.rewrite.as_mut().map_or(Ok(()), Rewrite::finish_unpacking)
    }

    /// Reads some of what was taken, and returns the bytes that may be passed on now; `None` when all was read. Whoever wrote an
    /// index can make it cost and become much more than its size, so it is read in small steps, and other tasks of this thread
    /// run after each. The memory of a step counts until the next one, because the app may be slow.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Wrong> {
        let Some(rewrite) = &mut self.rewrite else {
            if self.unread.is_empty() {
                return Ok(None);
            }
            let bytes = std::mem::take(&mut self.unread);
            return self.pass(bytes).await.map(Some);
        };
        if self.unread.is_empty() && rewrite.unpacked.is_empty() {
            return Ok(None);
        }
        let out = rewrite.step(&mut self.unread)?;
        self.memory.set(rewrite.memory() + self.unread.len() + out.capacity());
        yield_now().await;
        Ok(Some(out.into()))
    }

    /// Passes bytes of a file or index that stays as it is, one piece behind.
    async fn pass(&mut self, bytes: Bytes) -> Result<Bytes, Wrong> {
        if let Some((_, hasher)) = &mut self.check {
            hasher.add(&bytes);
        }
        if let Some(learn) = &self.learn
            && learn.pieces.send(bytes.clone()).await.is_err()
        {
            // The reader has failed, or has read enough.
            tracing::debug!(url = %self.place.url, "no more of an index is read");
        }
        self.memory.set(bytes.len());
        Ok(std::mem::replace(&mut self.held, bytes))
    }

    /// The end of the body: returns the bytes that were held back, which are counted as long as the tally is kept.
    pub(super) async fn end(mut self) -> Result<(Bytes, Tally), Wrong> {
        if let Some((digest, hasher)) = self.check.take()
            && !digest.is_of(hasher)
        {
            self.known.was_wrong(&self.place.front, &self.place.url);
            let sentence =
                format!("{} is not the file that its index names, {}", self.place.url, digest.shown());
            return Err(Wrong::Digest(sentence));
        }
        // Before the app has the index, so that it asks for no file whose digest is not known yet.
        if let Some(learn) = self.learn.take() {
            learn.end(&self.place, &self.known).await;
        }
        let Some(rewrite) = self.rewrite.take() else { return Ok((self.held, self.memory)) };
        let (out, found) = rewrite.end(&self.place, &self.known);
        learn(&self.place, &self.known, found).await;
        self.memory.set(out.len());
        Ok((out, self.memory))
    }
}

/// Remembers the files that a whole index names, in steps between which other tasks run.
async fn learn(place: &Place, known: &Known, mut found: Vec<(Url, Digest)>) {
    while !found.is_empty() {
        let rest = found.len().saturating_sub(LEARNT_STEP);
        known.learn(&place.front, &place.url, found.split_off(rest));
        yield_now().await;
    }
    known.has_read(&place.front, &place.url);
}

impl Rewrite {
    fn of(place: &Place, known: &Known, response: &ResponseHead, local: &str) -> Option<Self> {
        let unpack = match response.fields.get("content-encoding").map(<[u8]>::to_ascii_lowercase).as_deref()
        {
            None | Some(b"identity" | b"") => None,
            Some(b"gzip" | b"x-gzip") => Some(MultiGzDecoder::new(Vec::new())),
            Some(_) => return None,
        };
        let json = |format| Some(Text::Json(json::Rewriter::new(format, place.clone(), local.to_owned())));
        let is_of = |text: &[u8]| {
            let kind = response.fields.get("content-type").unwrap_or_default().to_ascii_lowercase();
            kind.windows(text.len()).any(|part| part == text)
        };
        let rest = place.url.under(&place.base)?;
        let text = match place.kind {
            Kind::Pypi if is_of(b"html") => {
                Some(Text::Html(html::Rewriter::new(place.clone(), local.to_owned())))
            }
            Kind::Pypi if is_of(b"json") => json(Format::Simple),
            Kind::Npm if is_npm_index(rest) && (is_of(b"json") || is_of(b"text/plain")) => json(Format::Npm),
            Kind::Crates if rest == "config.json" => json(Format::CratesConfig),
            Kind::Crates if is_crate_index(rest) => {
                known.crates_at(&place.base).and_then(|template| json(Format::CratesIndex(template)))
            }
            _ => None,
        };
        text.map(|text| Self { unpack, unpacked: Bytes::new(), text, lengths: (0, 0) })
    }

    /// The memory that it takes, in bytes.
    fn memory(&self) -> usize {
        let unpacker = self.unpack.as_ref().map_or(0, |decoder| UNPACKER + decoder.get_ref().capacity());
        let text = match &self.text {
            Text::Html(html) => html.memory(),
            Text::Json(json) => json.memory(),
        };
        unpacker + self.unpacked.len() + text
    }

    /// Unpacks the first of these bytes, if all unpacked before are rewritten, and returns what the next become.
    fn step(&mut self, bytes: &mut Bytes) -> Result<Vec<u8>, Wrong> {
        if self.unpacked.is_empty() {
            self.unpacked = self.unpack(bytes)?;
            self.lengths.0 += self.unpacked.len() as u64;
        }
        let mut out = Vec::with_capacity(self.unpacked.len().min(STEP) + 256);
        let read = match &mut self.text {
            Text::Html(html) => html.feed(&self.unpacked, STEP, &mut out),
            Text::Json(json) => json.feed(&self.unpacked, STEP, &mut out),
        };
        self.unpacked.advance(read);
        self.lengths.1 += out.len() as u64;
        let is_too_large = self.lengths.0.max(self.lengths.1) > LARGEST;
        if is_too_large { Err(Wrong::Malformed(TOO_LARGE)) } else { Ok(out) }
    }

    /// Unpacks the first of these bytes.
    fn unpack(&mut self, bytes: &mut Bytes) -> Result<Bytes, Wrong> {
        let Some(decoder) = &mut self.unpack else { return Ok(bytes.split_to(STEP.min(bytes.len()))) };
        let malformed = |_error| Wrong::Malformed("its compression is malformed");
        // The decoder takes what it has room for.
        let taken = decoder.write(&bytes[..PACKED_STEP.min(bytes.len())]).map_err(malformed)?;
        if taken == 0 {
            return Err(Wrong::Malformed("its compression is malformed"));
        }
        bytes.advance(taken);
        Ok(std::mem::take(decoder.get_mut()).into())
    }

    /// Unpacks what the decoder has held back, which has room in its window and buffer.
    fn finish_unpacking(&mut self) -> Result<(), Wrong> {
        let Some(decoder) = self.unpack.take() else { return Ok(()) };
        let rest = decoder.finish().map_err(|_error| Wrong::Malformed("its compression is cut off"))?;
        self.lengths.0 += rest.len() as u64;
        self.unpacked = rest.into();
        Ok(())
    }

    /// The last bytes, of a string or tag that has no end, and what the index names.
    fn end(mut self, place: &Place, known: &Known) -> (Bytes, Vec<(Url, Digest)>) {
        let mut out = Vec::new();
        let found = match &mut self.text {
            Text::Html(html) => html.finish(&mut out),
            Text::Json(json) => {
                let (found, downloads) = json.finish(&mut out);
                if let Some(template) = downloads {
                    known.crates_are_at(&place.base, template);
                }
                found
            }
        };
        (out.into(), found)
    }
}

impl Learn {
    /// Begins to read the index at `place`; `None` when too many are being read.
    fn begin(place: Place, known: &Known, account: &Arc<Account>) -> Option<Self> {
        let Ok(turn) = known.reading.clone().try_acquire_owned() else {
            limited!(info, NOBODY, url = %place.url, "too many indexes are read at a time: the files of this one are not checked here");
            return None;
        };
        let (pieces, received) = mpsc::channel(QUEUE);
        let (mut held, most) = (Tally::of(account), account.limit() / UNPACKING_PART);
        let reading = blocking::run(move || {
            let _turn: OwnedSemaphorePermit = turn;
            debian::read(&place, Pieces { received, piece: Bytes::new() }, most, |bytes| held.set(bytes))
        });
        Some(Self { pieces, reading })
    }

    async fn end(self, place: &Place, known: &Known) {
        drop(self.pieces);
        match timeout(READING, self.reading).await {
            Ok(Ok(Ok(found))) => learn(place, known, found).await,
            Ok(Ok(Err(error))) => {
                limited!(info, NOBODY, url = %place.url, %error, "an index cannot be read: its files are not checked here");
            }
            Ok(Err(_)) | Err(_) => limited!(info, NOBODY, url = %place.url, "an index was not read in time"),
        }
    }
}

/// The pieces of an index, for a thread that reads it.
struct Pieces {
    received: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Whether this path below a registry of npm is the metadata of a package.
fn is_npm_index(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    !path.is_empty() && !path.starts_with("-/") && !path.contains("/-/")
}

/// Whether this path below a sparse index is the file of a crate.
fn is_crate_index(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    let mut segments = path.split('/');
    match segments.next() {
        Some("1" | "2") => segments.count() == 1,
        Some("3") => segments.count() == 2,
        Some(first) => {
            first.len() == 2
                && segments.next().is_some_and(|second| second.len() == 2)
                && segments.count() == 1
        }
        None => false,
    }
}

/// Whether `place` is an index of files with digests, as far as its path tells.
pub(super) fn is_index(place: &Place) -> bool {
    let Some(rest) = place.url.under(&place.base) else { return false };
    match place.kind {
        Kind::Apt => debian::is_index(&place.url),
        Kind::Pypi => rest.split('?').next().is_some_and(|path| path.ends_with('/') || path.is_empty()),
        Kind::Npm => is_npm_index(rest),
        Kind::Crates => rest == "config.json" || is_crate_index(rest),
        Kind::Oci => false,
    }
}

/// Removes the fields of a response that hold for what the registry has sent, and not for what the app gets.
pub(super) fn clean(fields: &mut Fields, rewrites: bool) {
    const NEVER: [&str; 7] = [
        "set-cookie",
        "strict-transport-security",
        "alt-svc",
        "clear-site-data",
        "access-control-allow-origin",
        "content-security-policy",
        "x-content-type-options",
    ];
    const OF_THE_BODY: [&str; 6] =
        ["content-encoding", "content-md5", "digest", "repr-digest", "content-digest", "accept-ranges"];
    let of_the_body = OF_THE_BODY.iter().filter(|_| rewrites);
    NEVER.iter().chain(of_the_body).for_each(|name| fields.remove(name));
    // The page of the node has the same origin: nothing that a registry sends may run there.
    let _ = fields.push("Content-Security-Policy", b"default-src 'none'; sandbox");
    let _ = fields.push("X-Content-Type-Options", b"nosniff");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use http::Method;

    use super::*;
    use crate::fronts::place::Fronts;
    use crate::memory::Budget;

    fn filter(path: &str, fields: &str) -> Filter {
        let fronts = Fronts::new(&[
            "npm=https://npm.example/".parse().unwrap(),
            "pypi=https://pypi.example/simple/".parse().unwrap(),
        ]);
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\n");
        let response = ResponseHead::parse(head.as_bytes(), &Method::GET).unwrap();
        let (place, account) = (fronts.place(path).unwrap(), Budget::new(1 << 30).account());
        let known = Arc::new(Known::default());
        Filter::of(&place, &known, None, &response, "http://127.0.0.1:1080", &account).unwrap()
    }

    fn packed(text: &[u8]) -> Bytes {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(text).unwrap();
        packed.finish().unwrap().into()
    }

    /// An index was unpacked at once: all apps of the node had to wait.
    #[tokio::test]
    async fn others_run_after_each_small_step_of_an_index_whatever_it_unpacks_to() {
        const SIZE: usize = 8 * 1024 * 1024;
        const LARGEST_STEP: usize = 128 * 1024;
        let json = [&b"{\"a\":\""[..], &vec![b'x'; SIZE], b"\"}"].concat();
        let html = vec![b'>'; SIZE];
        let gzip = "Content-Encoding: gzip\r\n";
        for (path, kind, coding, body) in [
            ("/npm/a", "application/json", gzip, packed(&json)),
            ("/pypi/a/", "text/html", gzip, packed(&html)),
            ("/npm/a", "application/json", "", json.into()),
        ] {
            let mut filter = filter(path, &format!("Content-Type: {kind}\r\n{coding}"));
            let turns = Arc::new(AtomicUsize::new(0));
            let counting = turns.clone();
            let others = tokio::spawn(async move {
                loop {
                    counting.fetch_add(1, Relaxed);
                    yield_now().await;
                }
            });
            let (mut length, mut steps) = (0, 0);
            filter.take(body);
            for is_end in [false, true] {
                while let Some(out) = filter.next().await.ok().unwrap() {
                    assert!(out.len() <= LARGEST_STEP, "{} bytes at once", out.len());
                    (length, steps) = (length + out.len(), steps + 1);
                }
                assert!(is_end || filter.has_taken_all().is_ok());
            }
            length += filter.end().await.ok().unwrap().0.len();
            others.abort();
            assert!(length >= SIZE && turns.load(Relaxed) >= steps, "{path}: {length} {steps} {turns:?}");
        }
    }

    /// A whole step was given at once, and not counted while the app was slow to take it.
    #[tokio::test]
    async fn what_an_index_becomes_is_little_at_a_time_and_counted_until_it_is_passed_on() {
        const LARGEST_STEP: usize = 64 * 1024;
        let html = format!("<base href=\"/{}/\">{}", "y".repeat(8000), "<a href=b>".repeat(1000));
        let json = format!("{{\"files\":[{}{{}}]}}", "{\"url\":\"a\"},".repeat(1000));
        let gzip = "Content-Encoding: gzip\r\n";
        let long = format!("/pypi/{}/", "y".repeat(8000));
        for (path, kind, coding, body) in [
            ("/pypi/a/", "text/html", "", html.clone().into()),
            ("/pypi/a/", "text/html", gzip, packed(html.as_bytes())),
            (&*long, "application/json", gzip, packed(json.as_bytes())),
        ] {
            let mut filter = filter(path, &format!("Content-Type: {kind}\r\n{coding}"));
            let account = filter.memory.account().unwrap().clone();
            let mut length = 0;
            filter.take(body);
            for is_end in [false, true] {
                while let Some(out) = filter.next().await.ok().unwrap() {
                    assert!(out.len() <= LARGEST_STEP, "{} bytes at once", out.len());
                    assert!(account.held() >= out.len() + filter.unread.len(), "{} bytes", account.held());
                    length += out.len();
                }
                assert!(is_end || filter.has_taken_all().is_ok());
            }
            let (last, held) = filter.end().await.ok().unwrap();
            assert!(length > 1000 * 8000 && held.bytes() >= last.len(), "{length}");
            drop(held);
            assert_eq!(account.held(), 0);
        }
    }

    /// Nobody needs 256 MiB of it, and 30 MB of text could become 25 GB.
    #[tokio::test]
    async fn an_index_that_becomes_too_much_ends() {
        const SO_FAR: u64 = LARGEST - 1024 * 1024;
        let html = format!("<base href=\"/{}/\">{}", "y".repeat(8000), "<a href=b>".repeat(1000));
        let mut filter = filter("/pypi/a/", "Content-Type: text/html\r\n");
        filter.rewrite.as_mut().unwrap().lengths = (0, SO_FAR);
        filter.take(html.into());
        let mut length = SO_FAR;
        let why = loop {
            match filter.next().await {
                Ok(Some(out)) => length += out.len() as u64,
                Ok(None) => panic!("all of it has become {length} bytes"),
                Err(Wrong::Malformed(why)) => break why,
                Err(Wrong::Digest(why)) => panic!("{why}"),
            }
        };
        assert!(length <= LARGEST && why.contains("256 MiB"), "{length} {why}");
    }

    #[tokio::test]
    async fn packed_indexes_that_are_damaged_or_followed_by_another_are_told_apart() {
        let fields = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
        let whole = [packed(b"{\"a\":"), packed(b"1}")].concat();
        for (body, want) in
            [(whole.clone(), Some(&b"{\"a\":1}"[..])), (vec![0; 100], None), (b"\x1f\x8bx".to_vec(), None)]
        {
            let mut filter = filter("/npm/a", fields);
            filter.take(body.into());
            let mut all = Vec::new();
            let read = async {
                while let Some(out) = filter.next().await? {
                    all.extend_from_slice(&out);
                }
                filter.has_taken_all()?;
                while let Some(out) = filter.next().await? {
                    all.extend_from_slice(&out);
                }
                all.extend_from_slice(&filter.end().await?.0);
                Ok::<_, Wrong>(all)
            };
            assert_eq!(read.await.ok().as_deref(), want);
        }
    }
}
