//! Logins that hold for a connection: NTLM and Negotiate (RFC 4559).

use super::{Pair, has_line};
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

const CHALLENGE: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM TlRMTVNTUAACAAAA\r\nContent-Length: 0\r\n\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Logs in with the three messages, the last of which comes with the body of a request. Gives the server's connection.
async fn log_in(pair: &mut Pair, method: &str) -> Peer {
    let fields = "Authorization: NTLM TlRMTVNTUAABAAAA\r\nContent-Length: 0\r\n";
    let (mut server, _) = pair.ask(&format!("{method} /"), fields).await;
    server.say(CHALLENGE).await;
    let answer = pair.app.head().await;
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.contains("WWW-Authenticate: NTLM TlRM"),
        "{answer}"
    );
    assert!(has_line(&answer, "Proxy-Support: Session-Based-Authentication"), "{answer}");
    let fields = "Authorization: NTLM TlRMTVNTUAADAAAA\r\nContent-Length: 4\r\n";
    pair.app.say(pair.request(&format!("{method} /"), fields) + "body").await;
    assert!(server.head().await.contains("NTLM TlRMTVNTUAADAAAA"), "on the same connection");
    server.hear("body").await;
    server.say(DONE).await;
    assert!(pair.app.head().await.starts_with("HTTP/1.1 200 "));
    server
}

#[tokio::test]
async fn all_messages_of_a_login_and_all_later_requests_travel_on_one_connection() {
    let lab = Lab::new().await;
    for method in ["POST", "PUT", "GET"] {
        for proxy in [Proxy::direct().await, lab.proxy().await] {
            let mut pair = Pair::over(proxy).await;
            let mut server = log_in(&mut pair, method).await;
            for (line, fields, body) in [
                ("POST /next", "Content-Length: 1\r\n", "x"),
                ("DELETE /next", "", ""),
                ("GET /next", "", ""),
            ] {
                pair.app.say(pair.request(line, fields) + body).await;
                assert!(server.head().await.starts_with(line));
                server.hear(body).await;
                server.say(DONE).await;
                pair.app.head().await;
            }
        }
    }
}

#[tokio::test]
async fn a_login_that_the_server_asked_for_in_a_list_pins_the_connection_too() {
    let mut pair = Pair::new().await;
    let (mut server, _) = pair.ask("GET /", "").await;
    server
        .say("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\", Negotiate\r\nContent-Length: 0\r\n\r\n")
        .await;
    pair.app.head().await;
    pair.app
        .say(pair.request("POST /", "Authorization: Negotiate YII=\r\nContent-Length: 1\r\n") + "x")
        .await;
    assert!(server.head().await.starts_with("POST / "));
}

#[tokio::test]
async fn a_login_is_never_shared_with_another_connection_of_an_app() {
    let mut pair = Pair::new().await;
    let _logged_in = log_in(&mut pair, "POST").await;
    let first = std::mem::replace(&mut pair.app, Peer::connect(pair.proxy.address).await);
    let (_, head) = pair.ask("GET /other", "").await;
    assert!(head.starts_with("GET /other "));
    assert_eq!(pair.proxy.dials(), 2);
    drop(first);
}

#[tokio::test]
async fn a_request_to_another_server_does_not_end_a_login() {
    let mut pair = Pair::new().await;
    let mut server = log_in(&mut pair, "POST").await;
    let first = std::mem::replace(&mut pair.origin, Origin::new());
    let (mut other, _) = pair.ask("GET /other", "").await;
    other.say(DONE).await;
    pair.app.head().await;
    pair.origin = first;
    pair.app.say(pair.request("POST /again", "Content-Length: 0\r\n")).await;
    assert!(server.head().await.starts_with("POST /again "));
}

/// The app must not believe that it is still logged in.
#[tokio::test]
async fn the_apps_connection_ends_with_its_login() {
    let mut pair = Pair::new().await;
    let server = log_in(&mut pair, "POST").await;
    drop(server);
    assert_eq!(pair.app.rest().await, "", "while it is idle");

    let mut pair = Pair::new().await;
    let mut server = log_in(&mut pair, "POST").await;
    pair.app.say(pair.request("GET /", "")).await;
    server.head().await;
    server.reset();
    assert_eq!(pair.app.rest_before_reset().await, "", "under a request");

    let mut pair = Pair::new().await;
    let mut server = log_in(&mut pair, "POST").await;
    pair.app.say(pair.request("GET /", "")).await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(has_line(&pair.app.head().await, "Connection: close"));
    assert_eq!(pair.app.rest().await, "ok", "with an answer that says so");
}

#[tokio::test]
async fn a_login_at_a_proxy_is_no_login_at_the_server() {
    let mut pair = Pair::new().await;
    let (mut server, head) = pair.ask("GET /", "Proxy-Authorization: NTLM TlRM\r\n").await;
    assert!(!head.contains("NTLM"), "{head}");
    server.say("HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n").await;
    let answer = pair.app.head().await;
    assert!(!answer.contains("NTLM") && !answer.contains("Proxy-Support"), "{answer}");
    let (_, head) = pair.ask("POST /", "Content-Length: 0\r\n").await;
    assert!(head.starts_with("POST / "), "on a connection of its own: {head}");
    assert_eq!(pair.proxy.dials(), 2);
}
