//! What RFC 9110 and RFC 9112 say that a proxy, an intermediary or a recipient MUST do, walked through in their order.
//!
//! [`RULES`] is the table. A rule is shown by an exchange right here, by a refusal, or by the test that it names. Rules for
//! roles that a forwarding proxy does not have (cache, origin server, user agent, HTTP-to-HTTP gateway) are named with the
//! reason once, where a reader might look for them. To an app the proxy is a server, to a server it is a client.

use tokio::io::AsyncReadExt as _;

use super::{Pair, has_line};
use crate::peer::within;

/// One rule.
struct Rule {
    /// RFC and section.
    section: &'static str,
    /// What is required, shortened.
    must: &'static str,
    shown: Shown,
}

/// What shows that the rule is kept.
enum Shown {
    /// A request, and the response to it.
    Forwarded(Forwarded),
    /// These requests get this status, and nothing is sent to a server.
    Refused(u16, &'static [&'static str]),
    /// These responses get this status from the proxy.
    BadResponse(u16, &'static [&'static str]),
    /// The test of this name.
    Test(&'static str),
    /// The rule is for another role, or for what does not happen here.
    NotOurs(&'static str),
}

/// `AT` stands for the server's address. `server` and `app` are lines of the heads that these receive; a line that begins
/// with `!` must not be there, and one that ends with `*` is a beginning.
struct Forwarded {
    /// Method and path.
    line: &'static str,
    fields: &'static str,
    server: &'static [&'static str],
    answer: &'static str,
    app: &'static [&'static str],
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A rule about requests.
const fn request(line: &'static str, fields: &'static str, server: &'static [&'static str]) -> Shown {
    Shown::Forwarded(Forwarded { line, fields, server, answer: OK, app: &["HTTP/1.1 200 OK"] })
}

/// A rule about responses.
const fn response(answer: &'static str, app: &'static [&'static str]) -> Shown {
    Shown::Forwarded(Forwarded { line: "GET /", fields: "", server: &[], answer, app })
}

const RULES: &[Rule] = &[
    // RFC 9110, HTTP Semantics.
    Rule {
        section: "RFC 9110 §2.2",
        must: "a sender generates only what the grammar allows",
        shown: Shown::Test("responses_that_browsers_accept_are_passed_on_cleanly"),
    },
    Rule {
        section: "RFC 9110 §2.3",
        must: "a recipient can process lengths that it generates itself",
        shown: Shown::Test("many_short_fields_pass_in_requests_responses_and_trailers"),
    },
    Rule {
        section: "RFC 9110 §3.3",
        must: "two requests on a connection are not assumed to be of one user",
        shown: Shown::Test("a_login_is_never_shared_with_another_connection_of_an_app"),
    },
    Rule {
        section: "RFC 9110 §4.2.1",
        must: "an http URI with an empty host is rejected",
        shown: Shown::Refused(
            400,
            &["GET http:///x HTTP/1.1\r\nHost:\r\n\r\n", "GET http://:80/ HTTP/1.1\r\nHost:\r\n\r\n"],
        ),
    },
    Rule {
        section: "RFC 9110 §4.2.2",
        must: "requests for https are secured",
        shown: Shown::Refused(400, &["GET https://AT/ HTTP/1.1\r\nHost: AT\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9110 §4.2.4",
        must: "a sender generates no userinfo in a target",
        shown: Shown::Test("targets_and_hosts_are_passed_as_they_were_written"),
    },
    Rule {
        section: "RFC 9110 §5.1",
        must: "a proxy forwards unrecognized fields",
        shown: Shown::Forwarded(Forwarded {
            line: "GET /",
            fields: "X-Unknown: 1\r\n",
            server: &["X-Unknown: 1"],
            answer: "HTTP/1.1 200 OK\r\nX-Other: 2\r\nContent-Length: 0\r\n\r\n",
            app: &["X-Other: 2"],
        }),
    },
    Rule {
        section: "RFC 9110 §5.3",
        must: "a proxy does not change the order of lines with the same name",
        shown: Shown::Test("fields_keep_their_order_spelling_and_bytes"),
    },
    Rule {
        section: "RFC 9110 §5.4",
        must: "larger fields than a server processes get a 4xx",
        shown: Shown::Test("a_head_without_an_end_is_refused_at_its_limit"),
    },
    Rule {
        section: "RFC 9110 §5.5",
        must: "white space around a value is excluded",
        shown: request("GET /", "X:  \t a b \t\r\n", &["X: a b"]),
    },
    Rule {
        section: "RFC 9110 §5.5",
        must: "CR, LF or NUL in a value is rejected",
        shown: Shown::Refused(400, &["GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX: a\0b\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9110 §5.5",
        must: "CR, LF or NUL in a value is rejected or replaced by SP",
        shown: response("HTTP/1.1 200 OK\r\nX: a\0b\rc\r\nContent-Length: 0\r\n\r\n", &["X: a b c"]),
    },
    Rule {
        section: "RFC 9110 §5.6.1.2",
        must: "a recipient ignores some empty list elements",
        shown: request("GET /", "Connection: , X-A,,X-B ,\r\nX-A: 1\r\nX-B: 1\r\n", &["!X-A*", "!X-B*"]),
    },
    Rule {
        section: "RFC 9110 §5.6.3",
        must: "a recipient parses bad white space and removes it",
        shown: Shown::Test("responses_that_browsers_accept_are_passed_on_cleanly"),
    },
    Rule {
        section: "RFC 9110 §5.6.7",
        must: "a recipient of a timestamp accepts all three formats",
        shown: Shown::Test("dates_of_all_three_formats_identify_content"),
    },
    Rule {
        section: "RFC 9110 §2.5",
        must: "a later minor version is processed as the highest one that is known",
        shown: Shown::Test("a_request_of_a_later_minor_version_is_served"),
    },
    Rule {
        section: "RFC 9110 §6.2",
        must: "no version is sent that the sender does not conform to",
        shown: Shown::Refused(505, &["GET http://AT/ HTTP/2.0\r\nHost: AT\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9110 §6.5.1",
        must: "a recipient does not merge trailers into the header section unless it knows the field",
        shown: Shown::Test("bodies_are_chunked_both_ways"),
    },
    Rule {
        section: "RFC 9110 §6.6.1",
        must: "a recipient with a clock adds Date to a forwarded response that lacks it",
        shown: response("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", &["Date: *"]),
    },
    Rule {
        section: "RFC 9110 §6.6.1",
        must: "and to none that has it",
        shown: response(
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n",
            &["Date: Sun, 06 Nov 1994 08:49:37 GMT"],
        ),
    },
    Rule {
        section: "RFC 9110 §7.1",
        must: "the forms of CONNECT and OPTIONS are used with no other method",
        shown: Shown::Refused(
            400,
            &["GET AT HTTP/1.1\r\nHost: AT\r\n\r\n", "GET * HTTP/1.1\r\nHost: AT\r\n\r\n"],
        ),
    },
    Rule {
        section: "RFC 9110 §7.2",
        must: "a request has a Host",
        shown: Shown::Test("an_app_of_http_1_0_gets_a_plain_body_and_the_end"),
    },
    Rule {
        section: "RFC 9110 §7.6",
        must: "an intermediary does not forward a message to itself without protection from a loop",
        shown: Shown::Test("a_request_that_comes_back_is_a_loop"),
    },
    Rule {
        section: "RFC 9110 §7.6.1",
        must: "an intermediary removes Connection and the fields that it names, in requests",
        shown: request(
            "GET /",
            "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nx-mine: 2\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nTE: trailers\r\nX-Kept: 1\r\n",
            &["!Connection*", "!X-Mine*", "!Keep-Alive*", "!Proxy-Connection*", "!TE*", "X-Kept: 1"],
        ),
    },
    Rule {
        section: "RFC 9110 §7.6.1",
        must: "and in responses",
        shown: response(
            "HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
            &["!Connection*", "!X-Mine*", "!Keep-Alive*", "X-Kept: 1"],
        ),
    },
    Rule {
        section: "RFC 9110 §7.6.2",
        must: "Max-Forwards of OPTIONS and TRACE is checked and updated",
        shown: request("OPTIONS /", "Max-Forwards: 3\r\n", &["Max-Forwards: 2"]),
    },
    Rule {
        section: "RFC 9110 §7.6.2",
        must: "at 0 the intermediary responds itself",
        shown: Shown::Test("a_request_that_may_go_no_further_is_answered_here"),
    },
    Rule {
        section: "RFC 9110 §7.6.3",
        must: "a proxy sends Via in each message, with the received version",
        shown: Shown::Forwarded(Forwarded {
            line: "GET /",
            fields: "Via: 1.0 fred\r\n",
            server: &["Via: 1.0 fred", "Via: 1.1 laneway-test"],
            answer: "HTTP/1.0 200 OK\r\nVia: 1.1 other\r\nContent-Length: 0\r\n\r\n",
            app: &["Via: 1.1 other", "Via: 1.0 laneway-test"],
        }),
    },
    Rule {
        section: "RFC 9110 §7.7",
        must: "a proxy does not change a host name that is fully qualified, nor the path and query",
        shown: Shown::Test("targets_and_hosts_are_passed_as_they_were_written"),
    },
    Rule {
        section: "RFC 9110 §7.7",
        must: "a proxy does not transform content with no-transform (nor any other, here)",
        shown: Shown::Forwarded(Forwarded {
            line: "GET /",
            fields: "Accept-Encoding: gzip, br;q=0.5\r\n",
            server: &["Accept-Encoding: gzip, br;q=0.5"],
            answer: "HTTP/1.1 200 OK\r\nCache-Control: no-transform\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
            app: &["Cache-Control: no-transform", "Content-Encoding: gzip", "!Warning*"],
        }),
    },
    Rule {
        section: "RFC 9110 §7.8",
        must: "a sender of Upgrade names it in Connection, and a server does not switch to what was not asked for",
        shown: Shown::Test("a_websocket_passes"),
    },
    Rule {
        section: "RFC 9110 §7.8",
        must: "a server does not switch to a protocol that was not asked for",
        shown: Shown::BadResponse(
            502,
            &["HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
        ),
    },
    Rule {
        section: "RFC 9110 §7.8",
        must: "Upgrade in an HTTP/1.0 request is ignored",
        shown: Shown::Test("an_upgrade_in_http10_is_ignored"),
    },
    Rule {
        section: "RFC 9110 §8.6",
        must: "no Content-Length in a 1xx or 204",
        shown: response("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", &["!Content-Length*"]),
    },
    Rule {
        section: "RFC 9110 §8.6",
        must: "large lengths do not overflow",
        shown: Shown::BadResponse(502, &["HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9110 §8.6",
        must: "no length is forwarded that is wrong, and a repeated one only once",
        shown: response("HTTP/1.1 304 No\r\nContent-Length: 7, 7\r\n\r\n", &["Content-Length: 7"]),
    },
    Rule {
        section: "RFC 9110 §9.1",
        must: "methods are tokens, and unknown ones are forwarded",
        shown: request("BREW-it! /", "", &["BREW-it! / HTTP/1.1"]),
    },
    Rule {
        section: "RFC 9110 §9.2.2",
        must: "a proxy does not retry non-idempotent requests",
        shown: Shown::Test("a_post_is_never_sent_twice"),
    },
    Rule {
        section: "RFC 9110 §9.3.2",
        must: "no content follows the response to HEAD",
        shown: Shown::Test("responses_without_a_body_leave_the_connection_usable"),
    },
    Rule {
        section: "RFC 9110 §9.3.6",
        must: "a CONNECT with an empty or invalid port is rejected",
        shown: Shown::Refused(
            400,
            &[
                "CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n",
                "CONNECT h: HTTP/1.1\r\nHost: h\r\n\r\n",
                "CONNECT h:0 HTTP/1.1\r\nHost: h\r\n\r\n",
                "CONNECT h:65536 HTTP/1.1\r\nHost: h\r\n\r\n",
            ],
        ),
    },
    Rule {
        section: "RFC 9110 §9.3.6",
        must: "no framing fields in a 2xx to CONNECT",
        shown: Shown::Test("a_connect_tunnel_passes_on_what_the_app_sent_without_waiting"),
    },
    Rule {
        section: "RFC 9110 §9.3.6",
        must: "when a side closes its connection, its outstanding data is sent and both connections are closed",
        shown: Shown::Test("an_upload_arrives_whole_although_the_app_closes_its_socket_after_it"),
    },
    Rule {
        section: "RFC 9110 §9.3.7",
        must: "a proxy generates no Max-Forwards",
        shown: request("OPTIONS /", "", &["!Max-Forwards*"]),
    },
    Rule {
        section: "RFC 9110 §10.1.1",
        must: "a proxy forwards an expectation with the head of its request at once",
        shown: Shown::Test("an_upload_waits_for_100_continue"),
    },
    Rule {
        section: "RFC 9110 §10.1.1",
        must: "100-continue in an HTTP/1.0 request is ignored",
        shown: Shown::Test("forwards_http10_as_http11"),
    },
    Rule {
        section: "RFC 9110 §10.2.1, §11.6.1",
        must: "a proxy does not modify Allow and WWW-Authenticate",
        shown: response(
            "HTTP/1.1 401 No\r\nConnection: Allow, WWW-Authenticate\r\nAllow: GET,  BREW\r\nWWW-Authenticate: Basic realm=\"a\" , X\r\nWWW-Authenticate: Y\r\nContent-Length: 0\r\n\r\n",
            &["Allow: GET,  BREW", "WWW-Authenticate: Basic realm=\"a\" , X", "WWW-Authenticate: Y"],
        ),
    },
    Rule {
        section: "RFC 9110 §11.6.2",
        must: "a proxy does not modify Authorization",
        shown: request(
            "GET /",
            "Connection: Authorization\r\nAuthorization: Basic  eDp5\r\n",
            &["Authorization: Basic  eDp5"],
        ),
    },
    Rule {
        section: "RFC 9110 §11.7.1, §15.5.8",
        must: "a proxy sends Proxy-Authenticate in a 407 of its own",
        shown: Shown::Test("missing_and_wrong_logins_are_counted_separately"),
    },
    Rule {
        section: "RFC 9110 §13.2.1",
        must: "who is neither origin nor cache forwards preconditions and does not evaluate them",
        shown: Shown::Forwarded(Forwarded {
            line: "GET /",
            fields: "If-None-Match: \"a\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\nIf-Range: \"a\"\r\nRange: lines=1-2\r\n",
            server: &[
                "If-None-Match: \"a\"",
                "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
                "If-Range: \"a\"",
                "Range: lines=1-2",
            ],
            answer: "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 0\r\n\r\n",
            app: &["HTTP/1.1 200 OK"],
        }),
    },
    Rule {
        section: "RFC 9110 §14.4, §15.3.7",
        must: "content is only put together from ranges that are valid and of the same content",
        shown: Shown::Test("only_exactly_the_rest_of_the_same_content_is_accepted"),
    },
    Rule {
        section: "RFC 9110 §15",
        must: "an unknown status is understood by its class",
        shown: response("HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", &["HTTP/1.1 799 Odd"]),
    },
    Rule {
        section: "RFC 9110 §15.2",
        must: "a proxy forwards 1xx responses, but not to HTTP/1.0",
        shown: Shown::Test("interim_responses_are_for_http11_clients"),
    },
    Rule {
        section: "RFC 9110 §15.2",
        must: "a proxy forwards 1xx responses that nobody expected",
        shown: Shown::Test("many_short_fields_pass_in_requests_responses_and_trailers"),
    },
    Rule {
        section: "RFC 9110 §15.5.22",
        must: "a 426 says to which protocol, if the server does",
        shown: response(
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
            &["Upgrade: websocket", "Connection: Upgrade"],
        ),
    },
    Rule {
        section: "RFC 9110 §15.5.20",
        must: "a proxy generates no 421",
        shown: Shown::NotOurs("only the node's own page sends it, which is an origin server"),
    },
    // RFC 9112, HTTP/1.1.
    Rule {
        section: "RFC 9112 §2.2",
        must: "a message is parsed as octets",
        shown: Shown::Test("bytes_above_ascii_are_passed_in_the_target_alone"),
    },
    Rule {
        section: "RFC 9112 §2.2",
        must: "a bare CR is invalid, or replaced by SP",
        shown: Shown::Refused(400, &["GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX: a\rb\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9112 §2.2",
        must: "white space before the first field is rejected, or its line ignored",
        shown: Shown::Refused(400, &["GET http://AT/ HTTP/1.1\r\n Host: AT\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9112 §2.2",
        must: "white space before the first field is rejected, or its line ignored with those that continue it",
        shown: response(
            "HTTP/1.1 200 OK\r\n X-A: 1\r\n\tX-B: 2\r\nContent-Length: 0\r\n\r\n",
            &["!X-A*", "!X-B*", "Content-Length: 0"],
        ),
    },
    Rule {
        section: "RFC 9112 §2.3",
        must: "an intermediary sends its own version",
        shown: response("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", &["HTTP/1.1 200 OK"]),
    },
    Rule {
        section: "RFC 9112 §3",
        must: "a target longer than any that is parsed gets 414",
        shown: Shown::Test("a_target_without_an_end_is_refused_at_its_limit"),
    },
    Rule {
        section: "RFC 9112 §3.2",
        must: "400 for a missing, repeated or invalid Host",
        shown: Shown::Refused(
            400,
            &[
                "GET http://AT/ HTTP/1.1\r\n\r\n",
                "GET http://AT/ HTTP/1.1\r\nHost: AT\r\nHost: AT\r\n\r\n",
                "GET http://AT/ HTTP/1.1\r\nHost: a b\r\n\r\n",
            ],
        ),
    },
    Rule {
        section: "RFC 9112 §3.2.1",
        must: "a request to the server has the path, or / for an empty one",
        shown: Shown::Test("targets_and_hosts_are_passed_as_they_were_written"),
    },
    Rule {
        section: "RFC 9112 §3.2.2",
        must: "a proxy generates Host from the target and ignores the received one",
        shown: Shown::Test("a_target_wins_over_a_host_that_differs_from_it"),
    },
    Rule {
        section: "RFC 9112 §3.2.4",
        must: "the last proxy sends OPTIONS of a target without path as *",
        shown: request("OPTIONS ", "", &["OPTIONS * HTTP/1.1"]),
    },
    Rule {
        section: "RFC 9112 §4",
        must: "the space before an empty reason is sent",
        shown: response("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", &["HTTP/1.1 200 "]),
    },
    Rule {
        section: "RFC 9112 §5.1",
        must: "400 for white space before a colon in a request",
        shown: Shown::Refused(400, &["GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX : 1\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9112 §5.1",
        must: "a proxy removes it from a response",
        shown: response("HTTP/1.1 200 OK\r\nX \t: 1\r\nContent-Length: 0\r\n\r\n", &["X: 1"]),
    },
    Rule {
        section: "RFC 9112 §5.2",
        must: "a folded line in a request is rejected or unfolded",
        shown: Shown::Refused(400, &["GET http://AT/ HTTP/1.1\r\nHost: AT\r\nX: 1\r\n 2\r\n\r\n"]),
    },
    Rule {
        section: "RFC 9112 §5.2",
        must: "a proxy unfolds it in a response, or answers 502",
        shown: response("HTTP/1.1 200 OK\r\nX: 1\r\n\t 2\r\nContent-Length: 0\r\n\r\n", &["X: 1 2"]),
    },
    Rule {
        section: "RFC 9112 §6.1",
        must: "a recipient can parse chunked, and a sender applies it once",
        shown: Shown::Test("bodies_are_chunked_both_ways"),
    },
    Rule {
        section: "RFC 9112 §6.1",
        must: "no Transfer-Encoding in a 1xx or 204, nor to HTTP/1.0",
        shown: response("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", &["!Transfer-Encoding*"]),
    },
    Rule {
        section: "RFC 9112 §6.1",
        must: "after Transfer-Encoding with Content-Length, or in HTTP/1.0, the connection is closed",
        shown: Shown::Test("requests_that_could_smuggle_are_refused_and_nothing_is_sent"),
    },
    Rule {
        section: "RFC 9112 §6.1, §6.3",
        must: "the same of a response, from which the Content-Length is removed",
        shown: Shown::Test("responses_that_browsers_accept_are_passed_on_cleanly"),
    },
    Rule {
        section: "RFC 9112 §6.3",
        must: "a request whose last coding is not chunked gets an error and the connection ends",
        shown: Shown::Refused(
            501,
            &["POST http://AT/ HTTP/1.1\r\nHost: AT\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"],
        ),
    },
    Rule {
        section: "RFC 9112 §6.3",
        must: "an invalid Content-Length is an unrecoverable error: 400 for a request",
        shown: Shown::Refused(
            400,
            &[
                "POST http://AT/ HTTP/1.1\r\nHost: AT\r\nContent-Length: x\r\n\r\n",
                "POST http://AT/ HTTP/1.1\r\nHost: AT\r\nContent-Length: 1, 2\r\n\r\n",
            ],
        ),
    },
    Rule {
        section: "RFC 9112 §6.3",
        must: "502 for a response, which a proxy discards",
        shown: Shown::BadResponse(
            502,
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            ],
        ),
    },
    Rule {
        section: "RFC 9112 §6.3",
        must: "a body that ends too early is incomplete",
        shown: Shown::Test("a_truncated_response_ends_with_a_reset"),
    },
    Rule {
        section: "RFC 9112 §6.3, §9.2",
        must: "data after a response is no other response",
        shown: Shown::Test("responses_that_browsers_accept_are_passed_on_cleanly"),
    },
    Rule {
        section: "RFC 9112 §7.1",
        must: "large chunk sizes do not overflow",
        shown: Shown::Test("the_largest_chunk_size_neither_overflows_nor_allocates"),
    },
    Rule {
        section: "RFC 9112 §7.1.1",
        must: "unrecognized chunk extensions are ignored",
        shown: Shown::Test("bodies_are_chunked_both_ways"),
    },
    Rule {
        section: "RFC 9112 §7.1.2",
        must: "trailers are not merged into the header section",
        shown: Shown::Test("bodies_are_chunked_both_ways"),
    },
    Rule {
        section: "RFC 9112 §7.4",
        must: "TE is for the next connection only",
        shown: request("GET /", "Connection: TE\r\nTE: gzip, trailers\r\n", &["!TE*", "!Connection*"]),
    },
    Rule {
        section: "RFC 9112 §8",
        must: "an incomplete response is recorded as such: the app sees a reset",
        shown: Shown::Test("a_truncated_response_over_a_link_ends_with_a_reset"),
    },
    Rule {
        section: "RFC 9112 §9.2",
        must: "each response belongs to the first request without one",
        shown: Shown::Test("pipelined_requests_are_answered_in_their_order_over_one_connection"),
    },
    Rule {
        section: "RFC 9112 §9.2",
        must: "data without a request is no response",
        shown: Shown::Test("what_a_server_says_unasked_is_never_an_answer"),
    },
    Rule {
        section: "RFC 9112 §9.3",
        must: "the whole body of a request is read, or the connection closed after the response",
        shown: Shown::Test("a_refused_upload_is_answered_without_its_body"),
    },
    Rule {
        section: "RFC 9112 §9.3",
        must: "a proxy does not persist with an HTTP/1.0 client",
        shown: Shown::Test("an_app_of_http_1_0_gets_a_plain_body_and_the_end"),
    },
    Rule {
        section: "RFC 9112 §9.3.2",
        must: "responses to pipelined requests are sent in their order",
        shown: Shown::Test("pipelined_requests_are_answered_in_their_order_over_one_connection"),
    },
    Rule {
        section: "RFC 9112 §9.6",
        must: "after close the connection is closed, and no request on it is processed",
        shown: Shown::Test("nothing_after_a_request_that_says_close_is_processed"),
    },
    Rule {
        section: "RFC 9112 §9.6",
        must: "who ends the connection after a response says close in it",
        shown: Shown::Test("an_answer_before_the_end_of_an_upload_says_that_the_connection_ends"),
    },
    Rule {
        section: "RFC 9112 §9.6",
        must: "no request is sent on a connection whose server said close",
        shown: Shown::Test("a_connection_that_the_server_will_close_is_not_used_again"),
    },
    Rule {
        section: "RFC 9112 §9.7, §9.8",
        must: "TLS is closed with an alert",
        shown: Shown::NotOurs("TLS between app and server passes through a tunnel untouched"),
    },
    Rule {
        section: "RFC 9110 §15.4.5, §13.2.2, RFC 9111",
        must: "rules for caches",
        shown: Shown::NotOurs("nothing is stored"),
    },
];

/// The sources in which a named test may be.
const TESTS: [&str; 11] = [
    include_str!("../http.rs"),
    include_str!("leaving.rs"),
    include_str!("login.rs"),
    include_str!("requests.rs"),
    include_str!("responses.rs"),
    include_str!("rules.rs"),
    include_str!("../refusals.rs"),
    include_str!("../../../crates/wire/src/http/request.rs"),
    include_str!("../../../crates/wire/src/http/response.rs"),
    include_str!("../../../crates/wire/src/http/chunked.rs"),
    include_str!("../../../crates/wire/src/resume.rs"),
];

#[tokio::test]
async fn what_the_rfcs_say_that_a_proxy_must_do_is_done() {
    for Rule { section, must, shown } in RULES {
        let rule = format!("{section}: {must}");
        match shown {
            Shown::Forwarded(exchange) => check_exchange(&rule, exchange).await,
            Shown::Refused(status, requests) => {
                for request in *requests {
                    let mut pair = Pair::new().await;
                    pair.app.say(request.replace("AT", &pair.origin.address.to_string())).await;
                    let answer = pair.app.head().await;
                    assert!(
                        answer.starts_with(&format!("HTTP/1.1 {status} ")),
                        "{rule}: {request:?}: {answer}"
                    );
                    assert!(has_line(&answer, "Connection: close"), "{rule}: {request:?}: {answer}");
                    assert_eq!(pair.proxy.dials(), 0, "{rule}: {request:?}");
                }
            }
            Shown::BadResponse(status, responses) => {
                for response in *responses {
                    let mut pair = Pair::new().await;
                    let (mut server, _) = pair.ask("GET /", "").await;
                    server.say(response).await;
                    let answer = pair.app.head().await;
                    assert!(
                        answer.starts_with(&format!("HTTP/1.1 {status} ")),
                        "{rule}: {response:?}: {answer}"
                    );
                }
            }
            Shown::Test(name) => {
                let function = format!("fn {name}(");
                assert!(
                    TESTS.iter().any(|source| source.contains(&function)),
                    "{rule}: there is no test {name}"
                );
            }
            Shown::NotOurs(reason) => assert!(!reason.is_empty(), "{rule}"),
        }
    }
}

async fn check_exchange(rule: &str, exchange: &Forwarded) {
    let mut pair = Pair::new().await;
    let (mut server, head) = pair.ask(exchange.line, exchange.fields).await;
    check_lines(rule, &head, exchange.server);
    server.say(exchange.answer).await;
    check_lines(rule, &pair.app.head().await, exchange.app);
}

fn check_lines(rule: &str, head: &str, lines: &[&str]) {
    for line in lines {
        let (wanted, line) = line.strip_prefix('!').map_or((true, *line), |line| (false, line));
        let found = match line.strip_suffix('*') {
            Some(start) => {
                let start = start.to_ascii_lowercase();
                head.split("\r\n").any(|own| own.to_ascii_lowercase().starts_with(&start))
            }
            None => head.split("\r\n").any(|own| own == line),
        };
        assert_eq!(found, wanted, "{rule}: {line:?} in {head}");
    }
}

#[tokio::test]
async fn a_target_without_an_end_is_refused_at_its_limit() {
    let mut pair = Pair::new().await;
    pair.app.say(format!("GET http://{}/{}", pair.origin.address, "x".repeat(70_000))).await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 414 "));
    assert_eq!(pair.proxy.dials(), 0);
}

#[tokio::test]
async fn what_a_server_says_unasked_is_never_an_answer() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /1", "").await;
    server.say(OK).await;
    pair.app.head().await;
    server.say("HTTP/1.1 200 OK\r\nX-Unasked: 1\r\nContent-Length: 0\r\n\r\n").await;
    // The proxy closes the connection when it sees that, with an end or, because of the unread bytes, with a reset.
    assert!(within(server.stream.read(&mut [0])).await.map_or(true, |count| count == 0));
    let (mut server, _) = pair.ask("GET /2", "").await;
    server.say(OK).await;
    assert!(!pair.app.head().await.contains("X-Unasked"));
}

#[tokio::test]
async fn nothing_after_a_request_that_says_close_is_processed() {
    let mut pair = Pair::new().await;
    let both = pair.request("GET /1", "Connection: close\r\n") + &pair.request("GET /2", "");
    pair.app.say(both).await;
    let mut server = pair.origin.accept().await;
    assert!(server.head().await.starts_with("GET /1 "));
    server.say(OK).await;
    assert!(has_line(&pair.app.head().await, "Connection: close"));
    assert_eq!(pair.app.rest().await, "");
    assert_eq!(pair.proxy.dials(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_will_close_is_not_used_again() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /1", "").await;
    server.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    let answer = pair.app.head().await;
    assert!(!has_line(&answer, "Connection: close"), "the app's connection stays open: {answer}");
    let (_, head) = pair.ask("GET /2", "").await;
    assert!(head.starts_with("GET /2 "));
    assert_eq!(server.rest().await, "");
}
