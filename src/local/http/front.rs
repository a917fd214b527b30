//! A request to a front: the URL of the registry that its path stands for is fetched over a gateway that speaks TLS with the
//! registry, and the response leads back here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answers::{plain, reason_of};
use super::exchange::Exchange;
use super::filter;
use super::forward::{self, Done};
use super::fronted::Fronted;
use super::kept::IdleConnections;
use crate::cache::digest::Digest;
use crate::failure::{Failure, Kind, Side};
use crate::fronts::kind::Kind as FrontKind;
use crate::fronts::known::Known;
use crate::fronts::place::{Fronts, Nowhere, Place};
use crate::fronts::url::Url;
use crate::link::request::Transport;
use crate::local::context::Local;
use crate::local::endpoint::AppPeer;
use crate::local::page::{Stranger, check_origin};
use crate::memory::Account;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::http::{
    ANONYMOUS, BodyLength, ChunkedDecoder, DIGEST, DISCARD, MAX_HEAD, RequestHead, RequestTarget,
    ResponseHead, Step, head_end, simple_response,
};

/// How long asking for a token may take.
const TOKEN: Duration = Duration::from_secs(20);
/// The largest answer with a token, in bytes.
const MAX_TOKEN: usize = 256 * 1024;

/// Whether this request, in origin form, is for a front and not for the page.
pub(super) fn is_for_front(path: &[u8]) -> bool {
    str::from_utf8(path).is_ok_and(Fronts::is_front)
}

/// Answers a request to a front.
pub(super) async fn answer(
    local: &Local,
    (socket, account): (&TcpStream, &Arc<Account>),
    buffer: &mut BytesMut,
    request: RequestHead,
    kept: &mut IdleConnections,
    peer: AppPeer,
) -> Done {
    let refuse = |reason: RefusalReason, answer: Bytes| {
        local.telemetry.refused.one(("front", reason));
        Done::Close(answer)
    };
    match check_origin(&request.fields) {
        Ok(()) => {}
        Err(Stranger::Host) => {
            return refuse(
                RefusalReason::Destination,
                plain(421, "fronts are called by 127.0.0.1 or localhost"),
            );
        }
        Err(Stranger::Site) => {
            return refuse(RefusalReason::Destination, plain(403, "fronts are not for other sites"));
        }
    }
    if local.logins.are_needed() {
        let sentence =
            "fronts do not serve a local port that asks for a login (--proxy-login, --proxy-logins)";
        return refuse(
            RefusalReason::NoLogin,
            said(&request, 403, sentence, "start a node without logins for fronts"),
        );
    }
    if matches!(request.method, Method::CONNECT | Method::TRACE | Method::OPTIONS) {
        return refuse(
            RefusalReason::Unsupported,
            said(&request, 405, "a front takes the requests of its registry alone", ""),
        );
    }
    let RequestTarget::Origin { path } = &request.target else { return Done::Reset };
    let fronts = local.fronts.configured.borrow().clone();
    let place = match fronts.place(str::from_utf8(path).unwrap_or_default()) {
        Ok(place) => place,
        Err(nowhere) => {
            let status = if matches!(nowhere, Nowhere::NotConfigured(_)) { 404 } else { 400 };
            let answer = said(&request, status, &nowhere.to_string(), &nowhere.hint());
            return refuse(RefusalReason::Destination, answer);
        }
    };
    let id = local.next_id();
    let mut record = Record::of_app(&local.telemetry, id, "front", peer.to_string());
    record.aims_at(&place.url.target);
    let result =
        Box::pin(fetch(local, (socket, account), buffer, (&request, place), (kept, &mut record), id)).await;
    match result {
        Ok(done) => done,
        Err(failure) => {
            record.failed(&failure);
            Done::Close(failed(&request, &failure, &local.name))
        }
    }
}

async fn fetch(
    local: &Local,
    (socket, account): (&TcpStream, &Arc<Account>),
    buffer: &mut BytesMut,
    (request, place): (&RequestHead, Place),
    (kept, record): (&mut IdleConnections, &mut Record),
    id: u64,
) -> Result<Done, Failure> {
    if request.via_names(&local.name) {
        let sentence = format!("the request for {} came back to the proxy that sent it", place.url);
        return Err(Failure::new(Kind::Loop, Side::Local, sentence));
    }
    let known = local.fronts.known.clone();
    let is_get = request.method == Method::GET;
    let named = place.digest().or_else(|| known.digest(&place.front, &place.url));
    let (is_named, expected) = (named.is_some(), named.filter(|_| is_get));
    let mut asked = translated(request, &place, &known, (is_named, expected.as_ref()));
    // A token is for the registry, as a login is, and nobody else may ask for one.
    let may_challenge = place.kind == FrontKind::Oci
        && is_own(&place)
        && matches!(request.method, Method::GET | Method::HEAD)
        && request.body == BodyLength::None
        && asked.fields.get("authorization").is_none();
    let token_of = repository(&place);
    if let Some(token) = known.tokens.get(&token_of).filter(|_| may_challenge) {
        let _ = asked.fields.push(ANONYMOUS, format!("Bearer {token}").as_bytes());
    }
    let mut front = Fronted {
        local: format!(
            "http://{}",
            String::from_utf8_lossy(request.fields.get("host").unwrap_or(b"localhost"))
        ),
        place,
        expected,
        is_named,
        known: known.clone(),
        may_challenge,
        challenge: Mutex::default(),
    };
    let target = front.place.url.target.clone();
    let done = {
        let exchange = Exchange::of_front(local, (socket, account), &asked, &target, id, &front);
        forward::forward(&exchange, buffer, kept, record).await?
    };
    let Done::Challenged(challenge) = done else { return Ok(done) };
    known.tokens.forget(&token_of);
    asked.fields.remove(ANONYMOUS);
    let answer = timeout(TOKEN, small(local, &challenge.url(), account, id)).await.map_err(|_late| {
        let sentence = format!("no token from {} within {} s", challenge.realm, TOKEN.as_secs());
        Failure::new(Kind::ConnectTimeout, Side::Server, sentence)
    })??;
    if let Some(token) = known.tokens.take(&token_of, &answer) {
        let _ = asked.fields.push(ANONYMOUS, format!("Bearer {token}").as_bytes());
    }
    front.may_challenge = false;
    let exchange = Exchange::of_front(local, (socket, account), &asked, &target, id, &front);
    forward::forward(&exchange, buffer, kept, record).await
}

/// What a token is good for: one repository of one registry.
fn repository(place: &Place) -> String {
    let path = place.url.path.split('?').next().unwrap_or_default();
    let end = ["/blobs/", "/manifests/", "/tags/", "/referrers/"].iter().find_map(|part| path.find(part));
    format!("{} {}", place.base, &path[..end.unwrap_or(path.len())])
}

/// Whether this is at the registry itself.
fn is_own(place: &Place) -> bool {
    place.url.target.is_same(&place.base.target) && place.url.is_secure == place.base.is_secure
}

/// The request as the registry gets it. Its file has a known digest if it `is_named`, and is checked against the `expected` one.
fn translated(
    request: &RequestHead,
    place: &Place,
    known: &Known,
    (is_named, expected): (bool, Option<&Digest>),
) -> RequestHead {
    let mut asked = request.clone();
    let (url, authority) = (&place.url, place.url.authority());
    let host = url.target.host.to_string();
    asked.target = RequestTarget::Absolute {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.target.port,
        authority: authority.clone(),
        path_and_query: Bytes::copy_from_slice(url.path.as_bytes()),
    };
    asked.upgrade = None;
    let fields = &mut asked.fields;
    let of_this_hop = ["host", "accept-encoding", "cookie", "referer", "origin"];
    of_this_hop.into_iter().for_each(|name| fields.remove(name));
    // Some servers build their links from these, and all members would get them.
    fields.remove_beginning("x-");
    ["forwarded", "front-end-https", "true-client-ip", "cf-connecting-ip"]
        .into_iter()
        .for_each(|name| fields.remove(name));
    // A login is for the registry, and not for wherever its files are.
    if !is_own(place) {
        fields.remove("authorization");
    }
    let index = filter::is_index(place);
    let codings: &[u8] = if index && place.kind != FrontKind::Apt { b"gzip" } else { b"identity" };
    // Values of our own are valid.
    let _ = fields.push("Host", authority.as_bytes());
    let _ = fields.push("Accept-Encoding", codings);
    if index || is_named {
        // A part can be neither rewritten nor checked. Whoever asks for one may get the whole (RFC 9110 §14.2); a HEAD says what
        // a GET would bring.
        ["range", "if-range"].into_iter().for_each(|name| fields.remove(name));
    }
    if index && !known.has_learnt(&place.front, url) {
        // What the app has kept from before names files that this node knows nothing of.
        ["if-none-match", "if-modified-since"].into_iter().for_each(|name| fields.remove(name));
    }
    if let Some(digest) = expected.filter(|digest| digest.is_strong()) {
        let _ = fields.push(DIGEST, digest.shown().as_bytes());
    }
    if known.take_wrong(&place.front, url) {
        let _ = fields.push(DISCARD, b"?1");
    }
    asked
}

/// Fetches something small, beside what an app asks for.
async fn small(local: &Local, url: &Url, account: &Arc<Account>, id: u64) -> Result<Bytes, Failure> {
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n\r\n",
        url.path,
        url.authority()
    );
    let transport = if url.is_secure { Transport::Https } else { Transport::Http };
    let bad =
        |why: &str| Failure::new(Kind::BadResponse, Side::Server, format!("no token from {url}: {why}"));
    let mut server = local.routes.open_by(transport, &url.target, id, head.into(), true, account).await?;
    let (_, mut from) = server.halves();
    let (mut buffer, mut searched) = (BytesMut::new(), 0);
    let response = loop {
        if let Some(end) = head_end(&buffer, searched) {
            let response = ResponseHead::parse(&buffer.split_to(end), &Method::GET);
            match response.map_err(|malformed| bad(&malformed.to_string()))? {
                response if response.is_interim() => searched = 0,
                response => break response,
            }
            continue;
        }
        searched = buffer.len();
        match from.next().await {
            Ok(Some(bytes)) if searched < MAX_HEAD => buffer.extend_from_slice(&bytes),
            _ => return Err(bad("the answer is cut off")),
        }
    };
    if response.status != 200 {
        return Err(bad(&format!("status {}", response.status)));
    }
    let (mut body, mut decoder) = (BytesMut::new(), ChunkedDecoder::of_response());
    loop {
        match response.body {
            BodyLength::None => return Ok(Bytes::new()),
            BodyLength::Exact(length) if buffer.len() as u64 >= length => return Ok(buffer.freeze()),
            BodyLength::Chunked => loop {
                match decoder.decode(&mut buffer) {
                    Ok(Step::Data(data)) => body.extend_from_slice(&data),
                    Ok(Step::Done) => return Ok(body.freeze()),
                    Ok(Step::NeedMore) => break,
                    Err(malformed) => return Err(bad(&malformed.to_string())),
                }
            },
            BodyLength::Exact(_) | BodyLength::UntilClose => {}
        }
        if buffer.len() + body.len() > MAX_TOKEN {
            return Err(bad("the answer is too large"));
        }
        match from.next().await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) if response.body == BodyLength::UntilClose => return Ok(buffer.freeze()),
            Ok(None) | Err(_) => return Err(bad("the answer is cut off")),
        }
    }
}

/// The answer that says why the registry gave none. Many tools show the reason phrase and nothing else.
fn failed(request: &RequestHead, failure: &Failure, name: &str) -> Bytes {
    let status = failure.http_status();
    let proxy_status = failure.proxy_status(name);
    let mut fields = vec![("Proxy-Status", proxy_status.as_str())];
    if status == 503 {
        fields.push(("Retry-After", "5"));
    }
    let body = body(request, &failure.sentence, "'laneway doctor' checks the way to the registry");
    simple_response(status, &failure.sentence, &fields, &body, false)
}

/// An answer of our own.
fn said(request: &RequestHead, status: u16, sentence: &str, hint: &str) -> Bytes {
    let reason = if sentence.is_ascii() { sentence } else { reason_of(status) };
    simple_response(status, reason, &[], &body(request, sentence, hint), false)
}

fn body(request: &RequestHead, sentence: &str, hint: &str) -> String {
    if request.method == Method::HEAD {
        return String::new();
    }
    let accepts = request.fields.get("accept").unwrap_or_default();
    let wants_json =
        accepts.windows(4).any(|part| part == b"json") && !accepts.windows(4).any(|part| part == b"html");
    if wants_json {
        let errors = [serde_json::json!({"code": "UNAVAILABLE", "message": sentence, "detail": hint})];
        return format!("{}\n", serde_json::json!({"error": sentence, "hint": hint, "errors": errors}));
    }
    let hint = if hint.is_empty() { String::new() } else { format!("hint: {hint}\n") };
    format!("error: {sentence}\n{hint}")
}
