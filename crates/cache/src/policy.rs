//! The rules of a shared cache (RFC 9111): what is stored, when it is used without asking the server, how it is validated
//! and what removes it. Pure functions of messages and times.
//!
//! Stricter than the RFC in what it stores, because a wrong answer is worse than a second fetch: nothing that was asked for
//! with a login, nothing that sets a cookie, and no freshness that the server has not stated (§4.2.2 is not used).

use std::time::{Duration, SystemTime};

use http::{HeaderName, Method};
use laneway_wire::http::{BodyLength, Fields, RequestHead, RequestTarget, ResponseHead};
use laneway_wire::target::Target;

use crate::control::{CacheControl, Seconds, delta_seconds};
use crate::partial;
use crate::stored::{Stored, Times};

/// Statuses that may be stored without a stated lifetime (RFC 9110 §15.1), except 206.
const STORED_BY_DEFAULT: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Statuses whose caching requirements are known here (RFC 9111 §5.2.2.3).
const UNDERSTOOD: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// The longest path and query that the cache handles, in bytes: what every recipient should support (RFC 9110 §4.1). Each
/// longer one would make the gateway hold several copies of it.
const LONGEST: usize = 8 * 1024;

/// Fields that a 304, or a 206 for another part, does not change: they describe the body that is stored (RFC 9111 §3.2), or what
/// came with that response (RFC 9530 §2).
const OF_THE_BODY: [&str; 6] =
    ["content-digest", "content-encoding", "content-length", "content-md5", "content-range", "content-type"];

/// What a stored response is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It may be used without asking the server.
    Fresh,
    /// It may be used while the server is asked whether it is still valid (RFC 5861 §3).
    WhileValidated,
    /// It may be used after the server has validated it.
    Validate,
}

/// The server of requests and how it is reached: the beginning of their URIs.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The server.
    pub target: &'a Target,
    /// Whether it is spoken to over TLS.
    pub is_secure: bool,
}

impl Origin<'_> {
    /// The scheme and the server.
    fn prefix(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.target)
    }
}

/// The URI of a request that is sent to `origin`, in absolute form: the primary key of what is stored (RFC 9111 §2). `None`
/// when the request names another host than the one it is sent to: no server may answer for another.
#[must_use]
pub fn uri(origin: Origin<'_>, request: &RequestHead) -> Option<String> {
    Uris::new(origin).of(origin, request)
}

/// The URIs of requests to one server. An app names it in the same way each time, so the common beginning is made and
/// checked once.
#[derive(Debug)]
pub struct Uris {
    prefix: String,
    /// The last value of `Host` that names the server.
    host: Option<Vec<u8>>,
}

impl Uris {
    /// The URIs of requests to `origin`.
    #[must_use]
    pub fn new(origin: Origin<'_>) -> Self {
        Self { prefix: origin.prefix(), host: None }
    }

    /// The URI of `request`, as [`uri`] gives it, for the same origin as before; `None` also if it is too long for a cache.
    pub fn of(&mut self, origin: Origin<'_>, request: &RequestHead) -> Option<String> {
        let received = request.fields.get("host")?;
        if self.host.as_deref() != Some(received) {
            let (host, port) = request.host_and_port(if origin.is_secure { 443 } else { 80 })?;
            if Target::new(host, port).ok().as_ref() != Some(origin.target) {
                return None;
            }
            self.host = Some(received.to_vec());
        }
        let path = match &request.target {
            RequestTarget::Origin { path } => path,
            RequestTarget::Absolute { path_and_query, .. } => path_and_query,
            RequestTarget::Authority { .. } | RequestTarget::Asterisk => return None,
        };
        let path = str::from_utf8(path).ok().filter(|path| path.len() <= LONGEST)?;
        let mut uri = String::with_capacity(self.prefix.len() + path.len());
        uri.push_str(&self.prefix);
        uri.push_str(path);
        Some(uri)
    }
}

/// Whether a cache may take part in this request at all. A request for more than a GET or HEAD of a representation goes to the
/// server unchanged: preconditions that the server has to evaluate (RFC 9110 §13.1.1, §13.1.4), logins of all kinds, bodies,
/// several ranges, and fields that speak for another client or URL.
#[must_use]
pub fn concerns_cache(request: &RequestHead) -> bool {
    let has = |name: &str| request.fields.get(name).is_some();
    matches!(request.method, Method::GET | Method::HEAD)
        && matches!(request.body, BodyLength::None | BodyLength::Exact(0))
        && request.upgrade.is_none()
        && !["upgrade", "expect", "trailer"].iter().any(|name| has(name))
        && request.fields.all("connection").all(names_usual_options)
        && !has("authorization")
        && !has("if-match")
        && !has("if-unmodified-since")
        && !request.fields.iter().any(|(name, _)| speaks_for_another(name))
        && !partial::is_for_server(request)
        && !CacheControl::of(&request.fields).has("no-store")
}

/// Whether the options of a connection are those that every client has. Others are names of fields that the next recipient
/// removes (RFC 9110 §7.6.1), which may change what it answers.
fn names_usual_options(options: &[u8]) -> bool {
    options.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(|option| {
        [&b""[..], b"close", b"keep-alive", b"te"].iter().any(|usual| option.eq_ignore_ascii_case(usual))
    })
}

/// The longest field name that is searched for the parts below, in bytes; a request with a longer one bypasses the cache.
/// Otherwise each name of 60 KiB would be searched for all parts.
const LONGEST_NAME: usize = 64;

/// Parts of the names of fields that tell some servers another URL, method or client than the request has, such as
/// `X-Forwarded-Host`, `X-Original-URL` and `Client-IP`. Their answers depend on these fields without a Vary that says so, and
/// a member must not choose what the others get.
const SPEAKING_FOR_ANOTHER: [&str; 36] = [
    // Some servers read an underscore as a hyphen, but a proxy before them does not.
    "_",
    "domain",
    "-port",
    "script-name",
    "server-name",
    "visitor",
    "-ssl",
    "-proto",
    "-site",
    "prefix",
    "-target",
    "-verb",
    "translate",
    "forwarded",
    "original",
    "rewrite",
    "override",
    "-method",
    "host",
    "-ip",
    "url",
    "uri",
    "path",
    "scheme",
    "https",
    "proxy",
    "backend",
    "upstream",
    "destination",
    "middleware",
    "invoke-",
    "envoy",
    "outside-",
    "artifactory",
    "wap-profile",
    "tenant",
];
/// Parts of the names of fields by which users log in where the server does not use `Authorization`.
const LOGIN: [&str; 28] = [
    "auth",
    "token",
    "-key",
    "apikey",
    "art-api",
    "session",
    "secret",
    "passw",
    "credential",
    "bearer",
    "ticket",
    "jwt",
    "assertion",
    "remote-user",
    "vault",
    "-otp",
    "login",
    "-user",
    "macaroon",
    "signature",
    "x-api",
    // Names of the user, from proxies that have checked a login or a certificate.
    "account",
    "client-cert",
    "email",
    "identity",
    "on-behalf",
    "principal",
    "userid",
];

/// Whether this field lets the request speak for another client or URL, or logs it in.
fn speaks_for_another(name: &[u8]) -> bool {
    name.len() > LONGEST_NAME
        || name.eq_ignore_ascii_case(b"npm-otp")
        || !is_impersonal(name)
            && SPEAKING_FOR_ANOTHER.iter().chain(&LOGIN).any(|part| {
                name.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
            })
}

/// Fields by which a server does not tell one user from another, besides those that begin as in [`IMPERSONAL_BEGINNINGS`].
const IMPERSONAL: [&str; 26] = [
    "cache-control",
    "connection",
    "content-length",
    "date",
    "dnt",
    "git-protocol",
    "host",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "proxy-connection",
    "range",
    "referer",
    "save-data",
    "sec-gpc",
    "te",
    "traceparent",
    "tracestate",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
];
/// How the names of further impersonal fields begin: content negotiation, a browser's context of a request, and npm's command.
const IMPERSONAL_BEGINNINGS: [&str; 5] = ["accept", "sec-fetch-", "sec-ch-", "npm-", "pacote-"];

fn is_impersonal(name: &[u8]) -> bool {
    let begins = |beginning: &&str| {
        name.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning.as_bytes()))
    };
    IMPERSONAL.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
        || IMPERSONAL_BEGINNINGS.iter().any(begins)
}

/// The fields of `request` by which its server may tell who asks, such as a cookie.
pub fn personal(request: &RequestHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    request.fields.iter().filter(|(name, _)| !is_impersonal(name))
}

/// Whether a response to another request also answers `request`, which the server has not seen: it may be used without asking
/// the server, or the server cannot tell the two requests apart (`is_same_asker`). A response with `no-cache` is for nobody
/// before the server has validated it (RFC 9111 §4, §5.2.2.4).
#[must_use]
pub fn may_share(request: &RequestHead, stored: &Stored, is_same_asker: bool, now: SystemTime) -> bool {
    usage(request, stored, now) == Use::Fresh
        || is_same_asker && !CacheControl::of(&stored.fields).has("no-cache")
}

/// Whether a request to a registry has private fields (`X-…`), which a node omits from its own requests there. An answer that
/// depends on them is for nobody else.
#[must_use]
pub fn has_private_fields(request: &RequestHead) -> bool {
    request.fields.iter().any(|(name, _)| matches!(name, [b'x' | b'X', b'-', ..]))
}

/// Whether the server must not be asked (RFC 9111 §5.2.1.7).
#[must_use]
pub fn is_for_cache_alone(request: &RequestHead) -> bool {
    CacheControl::of(&request.fields).has("only-if-cached")
}

/// Whether the response to `request` may be stored, and is worth it: it is fresh, or can be validated (RFC 9111 §3), or its
/// content `is_named` by a digest, by which alone it can be used.
#[must_use]
pub fn may_store(request: &RequestHead, response: &ResponseHead, times: Times, is_named: bool) -> bool {
    let is_named = is_named && response.status == 200;
    !matches!(response.status, 206 | 304) && may_keep(request, response, response.status, times, is_named)
}

/// Whether the 206 `response`, a part of what `request` asks for, may be stored: if the whole might (RFC 9111 §3.3).
#[must_use]
pub fn may_store_part(request: &RequestHead, response: &ResponseHead, times: Times) -> bool {
    response.status == 206 && may_keep(request, response, 200, times, false)
}

fn may_keep(
    request: &RequestHead,
    response: &ResponseHead,
    status: u16,
    times: Times,
    is_named: bool,
) -> bool {
    let (control, fields) = (CacheControl::of(&response.fields), &response.fields);
    if request.method != Method::GET || !concerns_cache(request) {
        return false;
    }
    if !(200..1000).contains(&status) || response.has_codings() || !is_for_everybody(fields, status) {
        return false;
    }
    let lifetime = lifetime(fields, times);
    let is_allowed = lifetime.is_some() || control.has("public") || STORED_BY_DEFAULT.contains(&status);
    let can_be_validated = fields.get("etag").is_some() || fields.get("last-modified").is_some();
    is_allowed
        && (is_named
            || can_be_validated
            || lifetime.is_some_and(|lifetime| lifetime > initial_age(fields, times)))
}

/// Whether a response with this status and these fields may be given to others than the one who asked for it (RFC 9111 §5.2.2).
fn is_for_everybody(fields: &Fields, status: u16) -> bool {
    let control = CacheControl::of(fields);
    // RFC 9111 §5.2.2.3: for a cache that knows the status, must-understand overrides no-store.
    let (must_understand, is_understood) = (control.has("must-understand"), UNDERSTOOD.contains(&status));
    let may_be_stored = if must_understand { is_understood } else { !control.has("no-store") };
    let sets_cookie = fields.get("set-cookie").or_else(|| fields.get("set-cookie2")).is_some();
    may_be_stored && !control.has("private") && !sets_cookie && !varies_always(fields)
}

/// What the cache may do with `stored` for `request`, which selects it.
#[must_use]
pub fn usage(request: &RequestHead, stored: &Stored, now: SystemTime) -> Use {
    let asked = CacheControl::of(&request.fields);
    let control = CacheControl::of(&stored.fields);
    // RFC 9111 §5.4: Pragma counts where there is no Cache-Control.
    let pragma = asked.is_empty()
        && request
            .fields
            .all("pragma")
            .any(|value| value.to_ascii_lowercase().windows(8).any(|part| part == b"no-cache"));
    if pragma || asked.has("no-cache") || control.has("no-cache") {
        return Use::Validate;
    }
    let Some(age) = age(stored, now) else { return Use::Validate };
    let lifetime = lifetime(&stored.fields, stored.times()).unwrap_or_default();
    let too_old = match asked.seconds("max-age") {
        Seconds::Of(seconds) => age > Duration::from_secs(seconds),
        Seconds::Absent => false,
        Seconds::Invalid => true,
    };
    let reserve = match asked.seconds("min-fresh") {
        Seconds::Of(seconds) => Duration::from_secs(seconds),
        Seconds::Absent => Duration::ZERO,
        Seconds::Invalid => Duration::MAX,
    };
    let stale = age.saturating_sub(lifetime);
    if too_old {
        Use::Validate
    } else if lifetime > age.saturating_add(reserve)
        || !lifetime.is_zero() && may_be_stale(&asked, &control, stale)
    {
        Use::Fresh
    } else if !asks_for_freshness(&asked) && may_be_validated_later(&control, stale) {
        Use::WhileValidated
    } else {
        Use::Validate
    }
}

/// Whether the request says how fresh a response has to be.
fn asks_for_freshness(asked: &CacheControl) -> bool {
    ["max-age", "min-fresh"].iter().any(|name| asked.has(name))
}

/// Whether a response that has been stale for `stale` may be used once more while it is validated.
fn may_be_validated_later(control: &CacheControl, stale: Duration) -> bool {
    let allowed = match control.seconds("stale-while-revalidate") {
        Seconds::Of(seconds) => stale <= Duration::from_secs(seconds),
        Seconds::Absent | Seconds::Invalid => false,
    };
    allowed && !forbids_stale(control)
}

fn forbids_stale(control: &CacheControl) -> bool {
    ["must-revalidate", "proxy-revalidate", "s-maxage"].iter().any(|name| control.has(name))
}

/// Whether the request accepts a response that has been stale for `stale`, and the response does not forbid it (RFC 9111
/// §4.2.4, §5.2.1.2). A response that was never fresh does not count: servers send pages for one user with nothing but an
/// `ETag`, and a request that accepts stale ones would get another user's.
fn may_be_stale(asked: &CacheControl, control: &CacheControl, stale: Duration) -> bool {
    let accepted = match asked.seconds("max-stale") {
        Seconds::Of(seconds) => stale <= Duration::from_secs(seconds),
        Seconds::Absent => false,
        Seconds::Invalid => asked.has_plain("max-stale"),
    };
    accepted && !forbids_stale(control)
}

/// How long a response is fresh, if it says so (RFC 9111 §4.2.1). An invalid statement makes it stale.
#[must_use]
pub fn lifetime(fields: &Fields, times: Times) -> Option<Duration> {
    let control = CacheControl::of(fields);
    for name in ["s-maxage", "max-age"] {
        match control.seconds(name) {
            Seconds::Of(seconds) => return Some(Duration::from_secs(seconds)),
            Seconds::Invalid => return Some(Duration::ZERO),
            Seconds::Absent => {}
        }
    }
    let mut expires = fields.all("expires");
    let first = expires.next()?;
    let date = fields.get("date").and_then(date).unwrap_or(times.received);
    let until = date_of_one(first, expires.next());
    Some(until.and_then(|until| until.duration_since(date).ok()).unwrap_or_default())
}

fn date_of_one(first: &[u8], second: Option<&[u8]>) -> Option<SystemTime> {
    if second.is_some() { None } else { date(first) }
}

/// Reads a date of HTTP (RFC 9110 §5.6.7), whatever the case of its letters.
#[must_use]
pub fn date(text: &[u8]) -> Option<SystemTime> {
    let text = str::from_utf8(text).ok()?;
    let mut canonical = String::with_capacity(text.len());
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            canonical.push(' ');
        }
        if word.eq_ignore_ascii_case("gmt") {
            canonical.push_str("GMT");
            continue;
        }
        let mut in_word = false;
        for letter in word.chars() {
            canonical.push(if in_word { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() });
            in_word = letter.is_ascii_alphabetic();
        }
    }
    let parsed = httpdate::parse_http_date(&canonical).ok()?;
    // httpdate is lenient about spaces; a date has exactly one form.
    let is_fixed = canonical.len() != 29 || httpdate::fmt_http_date(parsed) == canonical;
    is_fixed.then_some(parsed)
}

/// The age of a response when it arrived (RFC 9111 §4.2.3).
fn initial_age(fields: &Fields, times: Times) -> Duration {
    let date = fields.get("date").and_then(date).unwrap_or(times.received);
    let apparent = times.received.duration_since(date).unwrap_or_default();
    let delay = times.received.duration_since(times.requested).unwrap_or_default();
    apparent.max(stated_age(fields).saturating_add(delay))
}

/// The first member of the first Age field; a value that is not a number is ignored (RFC 9111 §5.1).
fn stated_age(fields: &Fields) -> Duration {
    let first = fields.get("age").and_then(|value| str::from_utf8(value).ok());
    let member = first.and_then(|value| value.split(',').next()).map(str::trim);
    member.and_then(delta_seconds).map(Duration::from_secs).unwrap_or_default()
}

/// The age of a stored response (RFC 9111 §4.2.3); `None` when the clock was set back since, so that it is not known.
#[must_use]
pub fn age(stored: &Stored, now: SystemTime) -> Option<Duration> {
    let resident = now.duration_since(stored.received).ok()?;
    Some(initial_age(&stored.fields, stored.times()).saturating_add(resident))
}

/// How long a stored response stays fresh; zero when it is stale.
#[must_use]
pub fn remaining(stored: &Stored, now: SystemTime) -> Duration {
    let lifetime = lifetime(&stored.fields, stored.times()).unwrap_or_default();
    age(stored, now).map_or(Duration::ZERO, |age| lifetime.saturating_sub(age))
}

/// The request fields that Vary names, in lower case.
pub fn varying(fields: &Fields) -> impl Iterator<Item = String> {
    fields.all("vary").flat_map(|value| value.split(|&byte| byte == b',')).filter_map(|name| {
        let name = String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase();
        (!name.is_empty()).then_some(name)
    })
}

/// Whether a response depends on more than fields of the request (RFC 9110 §12.5.5). A member of Vary that is no field
/// name may mean anything.
fn varies_always(fields: &Fields) -> bool {
    varying(fields).any(|name| name == "*" || HeaderName::from_bytes(name.as_bytes()).is_err())
}

/// The values of the fields `names` in `request`, normalised for comparison.
#[must_use]
pub fn selecting(
    request: &RequestHead,
    names: impl Iterator<Item = String>,
) -> Vec<(String, Option<Vec<u8>>)> {
    names.map(|name| (normalised(request, &name), name)).map(|(value, name)| (name, value)).collect()
}

/// Whether `request` selects what is stored (RFC 9111 §4.1). A response that says its language is also selected by a request that
/// prefers this language to every other one: the server has it, and would send it.
#[must_use]
pub fn selects(request: &RequestHead, selecting: &[(String, Option<Vec<u8>>)], stored: &Fields) -> bool {
    selecting.iter().all(|(name, value)| {
        normalised(request, name) == *value
            || name == "accept-language" && favourite(request).is_some_and(|tag| is_in(stored, &tag))
    })
}

/// The language that `request` prefers to all others (RFC 9110 §12.5.4), in lower case.
fn favourite(request: &RequestHead) -> Option<String> {
    let value = String::from_utf8(normalised(request, "accept-language")?).ok()?;
    let mut ranked: Vec<(f32, &str)> = Vec::new();
    for member in value.split(',') {
        let (tag, quality) = match member.split_once(';') {
            Some((tag, quality)) => (tag, quality.trim().strip_prefix("q=")?.trim().parse().ok()?),
            None => (member, 1.0),
        };
        ranked.push((quality, tag.trim()));
    }
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let (best, tag) = *ranked.first()?;
    let is_alone = ranked.get(1).is_none_or(|second| second.0 < best);
    (is_alone && best > 0.0 && tag != "*").then(|| tag.to_owned())
}

/// Whether a response is in this language alone (RFC 9110 §8.5).
fn is_in(fields: &Fields, tag: &str) -> bool {
    let mut all = fields.all("content-language");
    all.next().is_some_and(|own| own.eq_ignore_ascii_case(tag.as_bytes())) && all.next().is_none()
}

/// The value of all fields called `name` together, without the insignificant white space of a list.
fn normalised(request: &RequestHead, name: &str) -> Option<Vec<u8>> {
    let mut all = request.fields.all(name).peekable();
    all.peek()?;
    let members = all.flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let joined = members.collect::<Vec<_>>().join(&b","[..]);
    // RFC 9110 §12.5.3, §12.5.4: codings and language tags are compared without regard to case.
    let is_caseless = name == "accept-language" || name == "accept-encoding";
    Some(if is_caseless { joined.to_ascii_lowercase() } else { joined })
}

/// The request without what is for this cache or this app alone: conditions and ranges, which are evaluated here.
#[must_use]
pub fn for_server(request: &RequestHead) -> RequestHead {
    let mut request = request.clone();
    for name in ["if-none-match", "if-modified-since", "range", "if-range"] {
        request.fields.remove(name);
    }
    request.method = Method::GET;
    request
}

/// As [`for_server`], on condition that the server has another response than `stored` (RFC 9111 §4.3.1). `None` when
/// `stored` has no validator.
#[must_use]
pub fn validation(request: &RequestHead, stored: &Stored) -> Option<RequestHead> {
    let mut request = for_server(request);
    let tag = stored.fields.get("etag");
    let modified = stored.fields.get("last-modified");
    if let Some(tag) = tag {
        request.fields.push("If-None-Match", tag).ok()?;
    }
    if let Some(modified) = modified {
        request.fields.push("If-Modified-Since", modified).ok()?;
    }
    (tag.is_some() || modified.is_some()).then_some(request)
}

/// `stored`, updated by `response`: a 304 to its validation by `request`, or a 206 with parts that it lacks (RFC 9111 §3.2,
/// §3.4, §4.3.4); `None` when `response` is about another response, or not for everybody.
#[must_use]
pub fn freshened(
    stored: &Stored,
    request: &RequestHead,
    response: &ResponseHead,
    times: Times,
) -> Option<Stored> {
    let differs = |name: &str| {
        let theirs = response.fields.get(name);
        theirs.is_some() && theirs.map(opaque) != stored.fields.get(name).map(opaque)
    };
    if differs("etag") || (response.fields.get("etag").is_none() && differs("last-modified")) {
        return None;
    }
    let fields = response.end_to_end();
    let mut fresh = stored.clone();
    let mut replaced: Vec<Vec<u8>> = Vec::new();
    // The old Age would be added to that of the new response, and the old Date would make it old.
    fresh.fields.remove("age");
    fresh.fields.remove("date");
    for (name, value) in fields.iter() {
        let name = str::from_utf8(name).ok()?;
        if OF_THE_BODY.iter().any(|kept| kept.eq_ignore_ascii_case(name)) {
            continue;
        }
        let lower = name.to_ascii_lowercase().into_bytes();
        if !replaced.contains(&lower) {
            fresh.fields.remove(name);
            replaced.push(lower);
        }
        fresh.fields.push(name, value).ok()?;
    }
    date_from(&mut fresh.fields, times.received);
    fresh.selecting = selecting(request, varying(&fresh.fields));
    for (name, value) in &mut fresh.selecting {
        // If `stored` did not depend on a field before, the value of this request counts.
        if let Some((_, before)) = stored.selecting.iter().find(|(known, _)| known == name) {
            value.clone_from(before);
        }
    }
    (fresh.requested, fresh.received) = (times.requested, times.received);
    is_for_everybody(&fresh.fields, stored.status).then_some(fresh)
}

/// Adds the time at which a response was `received` if it has no Date (RFC 9110 §6.6.1).
pub fn date_from(fields: &mut Fields, received: SystemTime) {
    if fields.get("date").is_none() {
        // A date is a valid value.
        let _ = fields.push("Date", httpdate::fmt_http_date(received).as_bytes());
    }
}

/// An entity tag for the weak comparison (RFC 9110 §8.8.3.2).
pub(crate) fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The URIs whose responses are removed after this exchange (RFC 9111 §4.4): that of an unsafe request that was not an error,
/// and those of the same origin that the response names.
#[must_use]
pub fn invalidated(origin: Origin<'_>, request: &RequestHead, response: &ResponseHead) -> Vec<String> {
    let is_safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    if is_safe || !(200..400).contains(&response.status) {
        return Vec::new();
    }
    let Some(uri) = uri(origin, request) else { return Vec::new() };
    let scheme = if origin.is_secure { "https://" } else { "http://" };
    let (whose, origin) = (origin, format!("{}/", origin.prefix()));
    let mut all = vec![uri.clone()];
    for name in ["location", "content-location"] {
        let Some(value) = response.fields.get(name).and_then(|value| str::from_utf8(value).ok()) else {
            continue;
        };
        let value = value.split('#').next().unwrap_or_default();
        let directory =
            uri.split('?').next().and_then(|path| path.rfind('/')).map_or(&*origin, |at| &uri[..=at]);
        let named = match value.strip_prefix(scheme) {
            Some(rest) => {
                rest.split_once('/').and_then(|(authority, path)| same_origin(whose, authority, path))
            }
            None if value.starts_with("//") || value.contains("://") => None,
            None if value.starts_with('/') => Some(format!("{origin}{}", &value[1..])),
            None => Some(format!("{directory}{value}")),
        };
        all.extend(named);
    }
    all
}

/// Whether the response to a HEAD shows that `stored` is not what a GET would bring now (RFC 9111 §4.3.5).
#[must_use]
pub fn is_outdated_by(stored: &Stored, response: &ResponseHead) -> bool {
    let differs = |name: &str, stored: Option<&[u8]>| {
        response.fields.get(name).is_some_and(|value| stored.is_some_and(|stored| stored != value))
    };
    let length = stored.total.to_string();
    response.status == 200
        && (["etag", "last-modified"].iter().any(|name| differs(name, stored.fields.get(name)))
            || stored.status == 200 && differs("content-length", Some(length.as_bytes())))
}

/// The URI of `path` if `authority` is that of `origin`: a server cannot remove responses of another origin.
fn same_origin(origin: Origin<'_>, authority: &str, path: &str) -> Option<String> {
    let default = if origin.is_secure { 443 } else { 80 };
    let with_port = authority.parse::<Target>().or_else(|_no_port| Target::new(authority, default));
    (with_port.ok().as_ref() == Some(origin.target)).then(|| format!("{}/{path}", origin.prefix()))
}

#[cfg(test)]
mod tests;
