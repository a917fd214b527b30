use std::time::UNIX_EPOCH;

use super::*;
use crate::stored::tests::example;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW: u64 = 784_111_777;
const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn times() -> Times {
    Times { requested: at(NOW), received: at(NOW) }
}

fn target() -> Target {
    "h:80".parse().unwrap()
}

fn request(method: &str, fields: &str) -> RequestHead {
    RequestHead::parse(format!("{method} /d/f?q HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).unwrap()
}

fn response(status: u16, fields: &str) -> ResponseHead {
    ResponseHead::parse(format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes(), &Method::GET).unwrap()
}

fn stored(fields: &str) -> Stored {
    let response = response(200, fields);
    Stored { fields: response.end_to_end(), requested: at(NOW), received: at(NOW), ..example() }
}

/// RFC 9111 §3.
#[test]
fn only_what_is_for_everybody_and_may_be_used_again_is_stored() {
    let fresh = "Cache-Control: max-age=60\r\n";
    for (status, asked, fields, want) in [
        (200, "", fresh, true),
        (200, "", "Expires: Sun, 06 Nov 1994 09:49:37 GMT\r\n", true),
        (200, "", "ETag: \"a\"\r\n", true),
        (200, "", "Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\n", true),
        (404, "", "ETag: \"a\"\r\n", true),
        (599, "", fresh, true),
        (200, "", "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", true),
        (200, "", "Cache-Control: no-cache\r\nETag: \"a\"\r\n", true),
        (403, "", "Cache-Control: public\r\nETag: \"a\"\r\n", true),
        (200, "", "", false),
        (200, "", "Cache-Control: max-age=0\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nAge: 61\r\n", false),
        (403, "", "ETag: \"a\"\r\n", false),
        (206, "", "Cache-Control: max-age=60\r\nContent-Range: bytes 0-0/1\r\n", false),
        (304, "", fresh, false),
        (200, "", "Cache-Control: max-age=60, no-store\r\n", false),
        (200, "", "Cache-Control: max-age=60, private\r\n", false),
        (200, "", "Cache-Control: max-age=60, private=\"x\"\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nSet-Cookie2: a=b\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nVary: *\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nVary: accept, \"cookie\"\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nVary: cookie;q=1\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nVary: , accept\r\n", true),
        (200, "", "Cache-Control: max-age=60\r\nVary: accept\r\nVary: x, *\r\n", false),
        (200, "", "Cache-Control: max-age=60\r\nTransfer-Encoding: gzip, chunked\r\n", false),
        (200, "Authorization: Basic eDp5\r\n", "Cache-Control: max-age=60, public\r\n", false),
        (200, "Cache-Control: no-store\r\n", fresh, false),
        // Cache poisoning by a field that is not part of the key.
        (200, "X-Forwarded-Host: evil.example\r\n", fresh, false),
        (200, "x-forwarded-proto: https\r\n", fresh, false),
        (200, "Forwarded: host=evil.example\r\n", fresh, false),
        (200, "X-Original-URL: /other\r\n", fresh, false),
        (200, "X-HTTP-Method-Override: DELETE\r\n", fresh, false),
        (200, "Client-IP: 10.0.0.1\r\n", fresh, false),
        (200, "X-Backend-Host: evil.example\r\n", fresh, false),
        (200, "X-Envoy-Original-Path: /other\r\n", fresh, false),
        (200, "X-Proxy-Url: /other\r\n", fresh, false),
        (200, "Base-Url: http://evil.example/\r\n", fresh, false),
        (200, "X-Middleware-Subrequest: middleware\r\n", fresh, false),
        // Logins by other fields.
        (200, "X-Auth-Token: a\r\n", fresh, false),
        (200, "X-MS-Client-Principal: a\r\n", fresh, false),
        (200, "X-Account-Id: a\r\n", fresh, false),
        (200, "X-Userid: a\r\n", fresh, false),
        (200, "Private-Token: a\r\n", fresh, false),
        (200, "X-Api-Key: a\r\n", fresh, false),
        (200, "X-JFrog-Art-Api: a\r\n", fresh, false),
        (200, "Ocp-Apim-Subscription-Key: a\r\n", fresh, false),
        (200, "X-Jwt-Assertion: a\r\n", fresh, false),
        (200, "npm-otp: 123456\r\n", fresh, false),
        (200, "X-Script-Name: /other\r\n", fresh, false),
        (200, "Content_Length: 5\r\n", fresh, false),
        (200, &format!("X-{}: a\r\n", "a".repeat(63)), fresh, false),
        // Fields that the server is told to ignore.
        (200, "Connection: close, X-Forwarded-Proto\r\n", fresh, false),
        (200, "Upgrade: h2c\r\n", fresh, false),
        (200, "Expect: 200-ok\r\n", fresh, false),
        (200, "Connection: Keep-Alive,TE\r\nTE: trailers\r\n", fresh, true),
        (200, "Proxy-Connection: close\r\nSec-Fetch-Site: none\r\nnpm-session: 1\r\n", fresh, true),
        (200, "X-Forward: 1\r\nX-Requested-With: app\r\nTest-ID: 1\r\n", fresh, true),
        // §5.2.2.3: a status whose requirements are not known.
        (599, "", "Cache-Control: max-age=60, must-understand\r\n", false),
        (200, "", "Cache-Control: max-age=60, must-understand\r\n", true),
        (200, "", "Cache-Control: max-age=60, no-store, must-understand\r\n", true),
        (599, "", "Cache-Control: max-age=60, no-store, must-understand\r\n", false),
    ] {
        let may = may_store(&request("GET", asked), &response(status, fields), times(), false);
        assert_eq!(may, want, "{status} {asked} {fields}");
    }
    assert!(!may_store(&request("HEAD", ""), &response(200, fresh), times(), false));
    assert!(!may_store(&request("POST", ""), &response(200, fresh), times(), false));
}

/// RFC 9111 §4.2.1, §5.3.
#[test]
fn a_lifetime_is_what_the_server_states() {
    let seconds = |fields: &str| lifetime(&stored(fields).fields, times()).map(|lifetime| lifetime.as_secs());
    for (fields, want) in [
        ("Cache-Control: max-age=5", Some(5)),
        ("Cache-Control: s-maxage=6, max-age=5", Some(6)),
        ("Cache-Control: max-age=5\r\nExpires: Sun, 06 Nov 1994 09:49:37 GMT", Some(5)),
        ("Expires: Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
        ("Expires: Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
        ("Expires: Sun Nov  6 08:49:47 1994", Some(10)),
        ("Expires: SUN, 06 nov 1994 08:49:47 gmt", Some(10)),
        ("Expires: Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
        ("Expires: 0", Some(0)),
        ("Expires: Sun, 06 Nov 94 08:49:47 GMT", Some(0)),
        ("Expires: Sun 06 Nov 1994 08:49:47 GMT", Some(0)),
        ("Expires: Sun, 06-Nov-1994 08:49:47 GMT", Some(0)),
        ("Expires: Sun, 06 Nov 1994 08.49.47 GMT", Some(0)),
        ("Expires: Sun, 06 Nov 1994 8:49:47 GMT", Some(0)),
        ("Expires: Sun,  06  Nov 1994 08:49:47 GMT", Some(0)),
        ("Expires: Sun, 06 Nov 1994 08:49:47 UTC", Some(0)),
        ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\r\nExpires: Sun, 06 Nov 1994 08:49:47 GMT", Some(0)),
        ("Cache-Control: max-age=x\r\nExpires: Sun, 06 Nov 1994 09:49:37 GMT", Some(0)),
        ("Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT", None),
        ("Cache-Control: immutable", None),
    ] {
        assert_eq!(seconds(&format!("{DATE}{fields}\r\n")), want, "{fields}");
    }
}

/// RFC 9111 §4.2.3, §5.1.
#[test]
fn the_age_counts_from_the_server_and_through_other_caches() {
    let of = |fields: &str, delay: u64, resident: u64| {
        let mut stored = stored(fields);
        stored.requested = at(NOW - delay);
        age(&stored, at(NOW + resident)).map(|age| age.as_secs())
    };
    assert_eq!(of(DATE, 0, 0), Some(0));
    assert_eq!(of(DATE, 3, 10), Some(13));
    assert_eq!(of("Date: Sun, 06 Nov 1994 08:49:27 GMT\r\n", 3, 10), Some(20));
    assert_eq!(of(&format!("{DATE}Age: 100\r\n"), 3, 10), Some(113));
    for (value, want) in
        [("100, 5", 100), ("0, 100", 0), ("-7", 0), ("x", 0), ("7.5", 0), ("99999999999", 1 << 31)]
    {
        assert_eq!(of(&format!("{DATE}Age: {value}\r\n"), 0, 0), Some(want), "{value}");
    }
    assert_eq!(age(&stored(DATE), at(NOW - 1)), None, "the clock was set back");
}

/// RFC 9111 §4.2, §5.2.1, §5.2.2, §5.4. The response is 50 seconds old.
#[test]
fn it_is_used_without_asking_only_while_it_is_fresh_and_nobody_objects() {
    for (asked, fields, want) in [
        ("", "max-age=60", Use::Fresh),
        ("", "max-age=50", Use::Validate),
        ("", "max-age=60, no-cache", Use::Validate),
        ("", "max-age=60, no-cache=\"x\"", Use::Validate),
        ("", "max-age=60, must-revalidate", Use::Fresh),
        ("Cache-Control: no-cache", "max-age=60", Use::Validate),
        ("Cache-Control: max-age=50", "max-age=60", Use::Fresh),
        ("Cache-Control: max-age=49", "max-age=60", Use::Validate),
        ("Cache-Control: max-age=x", "max-age=60", Use::Validate),
        ("Cache-Control: min-fresh=9", "max-age=60", Use::Fresh),
        ("Cache-Control: min-fresh=10", "max-age=60", Use::Validate),
        ("Cache-Control: max-stale=10", "max-age=40", Use::Fresh),
        ("Cache-Control: max-stale", "max-age=1", Use::Fresh),
        ("Cache-Control: max-stale=9", "max-age=40", Use::Validate),
        ("Cache-Control: max-stale", "max-age=0", Use::Validate),
        ("Cache-Control: max-stale", "public", Use::Validate),
        ("Cache-Control: max-stale", "max-age=1, must-revalidate", Use::Validate),
        ("Cache-Control: max-stale", "max-age=1, proxy-revalidate", Use::Validate),
        ("Cache-Control: max-stale", "s-maxage=1", Use::Validate),
        ("Cache-Control: max-stale", "max-age=1, no-cache", Use::Validate),
        ("Pragma: no-cache", "max-age=60", Use::Validate),
        ("Pragma: no-cache\r\nCache-Control: x", "max-age=60", Use::Fresh),
        ("Pragma: x", "max-age=60", Use::Fresh),
        ("", "max-age=40, stale-while-revalidate=20", Use::WhileValidated),
        ("Cache-Control: x", "max-age=40, stale-while-revalidate=20", Use::WhileValidated),
        ("", "max-age=40, stale-while-revalidate=5", Use::Validate),
        ("", "max-age=40, stale-while-revalidate=20, must-revalidate", Use::Validate),
        ("Cache-Control: max-age=100", "max-age=40, stale-while-revalidate=20", Use::Validate),
        ("Cache-Control: no-cache", "max-age=40, stale-while-revalidate=20", Use::Validate),
    ] {
        let stored = stored(&format!("{DATE}Cache-Control: {fields}\r\n"));
        let asked = if asked.is_empty() { String::new() } else { format!("{asked}\r\n") };
        assert_eq!(usage(&request("GET", &asked), &stored, at(NOW + 50)), want, "{asked}: {fields}");
    }
}

/// RFC 9111 §4.1.
#[test]
fn a_request_selects_what_was_asked_for_with_the_same_fields() {
    let names = || ["accept".to_owned(), "accept-language".to_owned()].into_iter();
    let selected = selecting(&request("GET", "Accept: a,  b\r\nAccept-Language: DE\r\n"), names());
    for (fields, want) in [
        ("Accept: a, b\r\nAccept-Language: de\r\n", true),
        ("Accept: a\r\nAccept: b\r\naccept-language: de\r\nX: 1\r\n", true),
        ("Accept: b, a\r\nAccept-Language: de\r\n", false),
        ("Accept: a, b\r\n", false),
        ("Accept-Language: de\r\n", false),
    ] {
        assert_eq!(selects(&request("GET", fields), &selected, &Fields::default()), want, "{fields}");
    }
    assert!(!selects(
        &request("GET", "Accept: \r\n"),
        &selecting(&request("GET", ""), names()),
        &Fields::default()
    ));
}

/// RFC 9110 §12.5.4: the server has that language, and would send it.
#[test]
fn a_response_in_the_language_that_a_request_prefers_is_selected() {
    let selected =
        selecting(&request("GET", "Accept-Language: en, de\r\n"), ["accept-language".to_owned()].into_iter());
    let mut german = Fields::default();
    german.push("Content-Language", b"de").unwrap();
    for (asked, want) in [
        ("fr;q=0.5, de;q=1.0", true),
        ("DE", true),
        ("fr, de", false),
        ("de;q=0.5, fr", false),
        ("de;q=0", false),
        ("de;q=x, fr;q=0.1", false),
        ("*", false),
    ] {
        let request = request("GET", &format!("Accept-Language: {asked}\r\n"));
        assert_eq!(selects(&request, &selected, &german), want, "{asked}");
        assert!(!selects(&request, &selected, &Fields::default()), "{asked}: the language is not known");
    }
}

/// RFC 9111 §4.3.1.
#[test]
fn a_validation_asks_by_the_stored_validators_and_not_by_those_of_the_app() {
    let stored = stored("ETag: \"a\"\r\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\r\n");
    let asked =
        request("HEAD", "If-None-Match: \"x\"\r\nRange: bytes=1-\r\nIf-Range: \"x\"\r\nAccept: t/t\r\n");
    let sent = validation(&asked, &stored).unwrap();
    let lines: Vec<_> =
        sent.fields.iter().map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect();
    assert_eq!(
        (sent.method, lines),
        (Method::GET, ["Host", "Accept", "If-None-Match", "If-Modified-Since"].map(str::to_owned).to_vec())
    );
    assert_eq!(sent.fields.get("if-none-match"), Some(&b"\"a\""[..]));
    assert!(validation(&asked, &self::stored("")).is_none());
}

/// RFC 9111 §3.2, §4.3.4.
#[test]
fn a_304_replaces_fields_but_not_those_of_the_body() {
    let old = stored("ETag: \"a\"\r\nA: 1\r\nA: 2\r\nB: 3\r\nAge: 5\r\nContent-Type: t/t\r\n");
    let later = Times { requested: at(NOW + 7), received: at(NOW + 8) };
    let sent =
        "ETag: \"a\"\r\nA: 4\r\nA: 5\r\nC: 6\r\nContent-Type: x/x\r\nConnection: C\r\nContent-Length: 9\r\n";
    let freshened = |fields: &str| freshened(&old, &request("GET", ""), &response(304, fields), later);
    let fresh = freshened(sent).unwrap();
    let mut lines: Vec<_> = fresh
        .fields
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    lines.sort();
    let date = "Date=Sun, 06 Nov 1994 08:49:45 GMT";
    assert_eq!(lines, ["A=4", "A=5", "B=3", "Content-Type=t/t", date, "ETag=\"a\""]);
    assert_eq!((fresh.requested, fresh.received), (at(NOW + 7), at(NOW + 8)));
    assert!(freshened("").is_some());
    assert!(freshened("ETag: W/\"a\"\r\n").is_some());
    assert!(freshened("ETag: \"b\"\r\n").is_none());
}

/// The age was counted from the Date of the response stored first, so that it was never fresh again (RFC 9110 §6.6.1).
#[test]
fn a_304_without_a_date_is_of_the_time_at_which_it_came() {
    let later = Times { requested: at(NOW + 500), received: at(NOW + 500) };
    let old = stored(&format!("{DATE}ETag: \"a\"\r\nCache-Control: max-age=60\r\n"));
    let fresh = freshened(&old, &request("GET", ""), &response(304, ""), later).unwrap();
    assert_eq!(age(&fresh, at(NOW + 510)), Some(Duration::from_secs(10)));
}

/// The next one to ask got the cookie of the one for whom the response was validated.
#[test]
fn what_is_not_for_everybody_freshens_nothing() {
    let old = stored("ETag: \"a\"\r\nCache-Control: max-age=60\r\n");
    for (sent, is_for_everybody) in [
        ("Set-Cookie: a=b\r\n", false),
        ("Cache-Control: private\r\n", false),
        ("Cache-Control: no-store, max-age=60\r\n", false),
        ("Vary: *\r\n", false),
        ("Cache-Control: no-cache\r\n", true),
        ("Cache-Control: max-age=5\r\nVary: Accept\r\n", true),
    ] {
        for status in [304, 206] {
            let fresh = freshened(&old, &request("GET", ""), &response(status, sent), times());
            assert_eq!(fresh.is_some(), is_for_everybody, "{status} {sent}");
        }
    }
}

/// RFC 9111 §4.1. A response that had not depended on a field before was used whatever that field said.
#[test]
fn a_304_says_anew_what_selects_the_response() {
    let asked = request("GET", "Accept: a\r\nAccept-Language: de\r\n");
    let first = stored("ETag: \"a\"\r\nVary: Accept\r\n");
    let old = Stored { selecting: selecting(&asked, varying(&first.fields)), ..first };
    let validating = request("GET", "Accept: a\r\nAccept-Language: fr\r\n");
    let fresh = |fields: &str| freshened(&old, &validating, &response(304, fields), times()).unwrap();
    assert_eq!(fresh("").selecting, old.selecting);
    let now = fresh("Vary: Accept, Accept-Language\r\n");
    for (fields, want) in [
        ("Accept: a\r\nAccept-Language: fr\r\n", true),
        ("Accept: a\r\nAccept-Language: de\r\n", false),
        ("Accept: b\r\nAccept-Language: fr\r\n", false),
        ("Accept: a\r\n", false),
    ] {
        assert_eq!(selects(&request("GET", fields), &now.selecting, &now.fields), want, "{fields}");
    }
}

/// RFC 9111 §4.4.
#[test]
fn a_change_removes_what_it_names_at_its_own_origin() {
    let of = |method: &str, status: u16, fields: &str| {
        invalidated(plain(&target()), &request(method, ""), &response(status, fields))
    };
    for method in ["POST", "PUT", "DELETE", "M-SEARCH"] {
        assert_eq!(of(method, 200, ""), ["http://h:80/d/f?q"], "{method}");
    }
    assert!(of("GET", 200, "").is_empty() && of("OPTIONS", 200, "").is_empty());
    assert!(of("POST", 404, "").is_empty() && of("POST", 500, "").is_empty());
    for (named, want) in [
        ("/x", Some("http://h:80/x")),
        ("http://h/x", Some("http://h:80/x")),
        ("http://H:80/x#y", Some("http://h:80/x")),
        ("x?y", Some("http://h:80/d/x?y")),
        ("http://other/x", None),
        ("http://h:81/x", None),
        ("https://h/x", None),
        ("//other/x", None),
    ] {
        for field in ["Location", "Content-Location"] {
            let all = of("POST", 201, &format!("{field}: {named}\r\n"));
            assert_eq!(all.get(1).map(String::as_str), want, "{field}: {named}");
        }
    }
}

#[test]
fn each_request_of_a_connection_has_to_name_the_server_however_the_one_before_did() {
    let target = "h:80".parse().unwrap();
    let mut uris = Uris::new(plain(&target));
    for (host, want) in [
        ("", None),
        ("h", Some("http://h:80/f")),
        ("h", Some("http://h:80/f")),
        ("other", None),
        ("", None),
        ("H:80", Some("http://h:80/f")),
        ("h:81", None),
        ("H:80", Some("http://h:80/f")),
    ] {
        let head = format!("GET http://h/f HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let request = RequestHead::parse(head.as_bytes()).unwrap();
        assert_eq!(uris.of(plain(&target), &request).as_deref(), want, "{host}");
    }
}

fn plain(target: &Target) -> Origin<'_> {
    Origin { target, is_secure: false }
}

#[test]
fn a_response_over_tls_has_another_key_than_one_without() {
    let request = RequestHead::parse(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (secure, other) = ("h:443".parse().unwrap(), "h:80".parse().unwrap());
    let of = |target, is_secure| uri(Origin { target, is_secure }, &request);
    assert_eq!(of(&secure, true).as_deref(), Some("https://h:443/f"));
    assert_eq!(of(&other, false).as_deref(), Some("http://h:80/f"));
    assert_eq!(of(&other, true), None);
}

#[test]
fn a_request_for_a_very_long_path_has_no_key() {
    let of = |length: usize| {
        let head = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "p".repeat(length - 1));
        uri(plain(&"h:80".parse().unwrap()), &RequestHead::parse(head.as_bytes()).unwrap())
    };
    assert!(of(LONGEST).is_some() && of(LONGEST + 1).is_none());
}

/// The owner of one server must not store answers for another.
#[test]
fn a_request_for_another_host_than_the_one_it_is_sent_to_has_no_key() {
    let of = |host: &str, target: &str| {
        let head = format!("GET /f HTTP/1.1\r\nHost: {host}\r\n\r\n");
        uri(plain(&target.parse().unwrap()), &RequestHead::parse(head.as_bytes()).unwrap())
    };
    assert_eq!(of("h", "h:80").as_deref(), Some("http://h:80/f"));
    assert_eq!(of("H:80", "h:80").as_deref(), Some("http://h:80/f"));
    assert_eq!(of("h:8080", "h:8080").as_deref(), Some("http://h:8080/f"));
    assert_eq!(of("[::1]:8080", "[::1]:8080").as_deref(), Some("http://[::1]:8080/f"));
    for (host, target) in [("good", "evil:80"), ("h", "h:81"), ("h:81", "h:80")] {
        assert_eq!(of(host, target), None, "{host} at {target}");
    }
}
