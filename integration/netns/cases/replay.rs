//! A request without an answer when its gateway dies is replayed only when that is safe.

use super::curl::DIALECTS;
use crate::lab::fleet::Fleet;
use crate::lab::process::Process;
use crate::lab::wait::PATIENCE;
use crate::lab::web::{PORT, Server, wait_for_the_end, who};
use crate::lab::{Case, Lab, dialect, wait_until};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    ("replay::a_get_without_an_answer_is_replayed", a_get_without_an_answer_is_replayed),
    ("replay::a_post_without_an_answer_is_never_sent_twice", a_post_without_an_answer_is_never_sent_twice),
    ("replay::a_tls_handshake_without_an_answer_is_replayed", a_tls_handshake_without_an_answer_is_replayed),
    (
        "replay::a_tunnel_without_data_moves_and_one_with_unknown_data_is_reset",
        a_tunnel_without_data_moves_and_one_with_unknown_data_is_reset,
    ),
    ("replay::a_tunnel_that_has_had_an_answer_is_reset", a_tunnel_that_has_had_an_answer_is_reset),
];

fn a_get_without_an_answer_is_replayed(lab: &Lab) {
    let web = lab.web(|asked, stream| match asked.turn {
        1 if asked.path.starts_with("/silent") => wait_for_the_end(stream),
        _ => who(asked, stream),
    });
    let mut fleet = lab.fleet(2, &[]);
    for (number, dialect) in DIALECTS.into_iter().enumerate() {
        let path = format!("/silent/{number}");
        let request = curl(&fleet, &[dialect, &[&format!("http://10.88.0.100{path}")]].concat());
        wait_until("the request", || web.asked(&path).len() == 1);
        let first = fleet.which(web.asked(&path)[0].from);
        fleet.kill(first);
        let answer = request.finish(PATIENCE).success();
        let second = fleet.gateways[1 - first].outside();
        assert_eq!(answer.text(), format!("{second} {path}"), "{dialect:?}");
        assert_eq!(web.asked(&path).len(), 2, "{dialect:?}");
        fleet.start(first);
        fleet.wait_for_links();
    }
}

fn a_post_without_an_answer_is_never_sent_twice(lab: &Lab) {
    let web = lab.web(|asked, stream| match asked.path.as_str() {
        path if path.starts_with("/order") => wait_for_the_end(stream),
        _ => who(asked, stream),
    });
    let mut fleet = lab.fleet(2, &[]);
    for (number, dialect) in DIALECTS.into_iter().enumerate() {
        for body in ["", "one=more"] {
            let path = format!("/order/{number}/{}", body.len());
            let url = format!("http://10.88.0.100{path}");
            let options = ["--fail", "--request", "POST", "--data", body, &url];
            let request = curl(&fleet, &[dialect, &options].concat());
            wait_until("the request", || web.asked(&path).len() == 1);
            let first = fleet.which(web.asked(&path)[0].from);
            fleet.kill(first);
            let answer = request.finish(PATIENCE);
            assert!(!answer.status.success(), "{dialect:?} {body:?}: {answer}");
            fleet.start(first);
            fleet.wait_for_links();
            // A later request has arrived, and a replayed order would have arrived before it.
            fleet.serving();
            assert_eq!(web.asked(&path).len(), 1, "{dialect:?} {body:?}");
        }
    }
}

fn a_tls_handshake_without_an_answer_is_replayed(lab: &Lab) {
    let config = Arc::new(tls_server());
    let server = lab.serve(PORT + 1, move |before, mut stream| {
        if before == 0 {
            return wait_for_the_end(&mut stream);
        }
        let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tls.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")?;
        tls.conn.send_close_notify();
        tls.flush()
    });
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &["--allow", "10.88.0.0/24"]);
    let url = format!("https://10.88.0.100:{}/", PORT + 1);
    let request = curl(&fleet, &["--proxy", "http://127.0.0.1:1080", "--insecure", "--http1.1", &url]);
    wait_until("the connection", || server.from().len() == 1);
    // The ClientHello follows the connection at once, or is part of what the next gateway gets.
    let first = fleet.which(server.from()[0]);
    fleet.kill(first);
    assert_eq!(request.finish(PATIENCE).success().text(), "secret");
    assert_eq!(server.from(), [first, 1 - first].map(|which| fleet.gateways[which].outside()));
}

fn a_tunnel_without_data_moves_and_one_with_unknown_data_is_reset(lab: &Lab) {
    // Every second connection gets a greeting; the others get nothing.
    let server = lab.serve(PORT + 1, |before, mut stream| {
        if before % 2 == 1 {
            stream.write_all(b"220 hello\r\n")?;
        }
        wait_for_the_end(&mut stream)
    });
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &["--allow", "10.88.0.0/24"]);

    // Nothing was sent, so a server that speaks first can do so on another connection.
    let mut silent = tunnel(&fleet, &server, 1);
    kill_last(&mut fleet, &server);
    let mut greeting = [0; 11];
    silent.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    assert_eq!(server.from().len(), 2);
    drop(silent);

    // The effect of these bytes is unknown.
    let mut unknown = tunnel(&fleet, &server, 3);
    unknown.write_all(b"SSH-2.0-somebody\r\n").unwrap();
    // A later request on the same link: the node has read and sent what was written before it.
    fleet.serving();
    kill_last(&mut fleet, &server);
    is_reset(&mut unknown);
    assert_eq!(server.from().len(), 3);
}

fn a_tunnel_that_has_had_an_answer_is_reset(lab: &Lab) {
    let echo = lab.serve(PORT + 1, |_, mut stream| {
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &["--allow", "10.88.0.0/24"]);
    let socks = dialect::socks5(&fleet.client, "10.88.0.100", PORT + 1);
    let http = dialect::connect(&fleet.client, &format!("10.88.0.100:{}", PORT + 1));
    assert_eq!((socks.1, http.1.status), (0, 200));
    let mut tunnels = [socks.0, http.0];
    for tunnel in &mut tunnels {
        let mut byte = [0];
        tunnel.write_all(b"x").unwrap();
        tunnel.read_exact(&mut byte).unwrap();
    }
    kill_last(&mut fleet, &echo);
    tunnels.iter_mut().for_each(is_reset);
    assert_eq!(echo.from().len(), 2);
}

/// A tunnel to the port after the web server's; it is the `number`th connection there.
fn tunnel(fleet: &Fleet, server: &Server, number: usize) -> TcpStream {
    let (stream, code) = dialect::socks5(&fleet.client, "10.88.0.100", PORT + 1);
    assert_eq!(code, 0);
    wait_until("the connection", || server.from().len() == number);
    stream
}

/// Kills the gateway of the last connection to `server`, and starts it again.
fn kill_last(fleet: &mut Fleet, server: &Server) {
    let last = fleet.which(*server.from().last().expect("there was a connection"));
    fleet.kill(last);
    fleet.start(last);
    fleet.wait_for_links();
}

fn is_reset(stream: &mut TcpStream) {
    let ended = stream.read(&mut [0]);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn curl(fleet: &Fleet, arguments: &[&str]) -> Process {
    let mut curl = fleet.client.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "25"]).args(arguments);
    fleet.client.spawn(curl)
}

fn tls_server() -> rustls::ServerConfig {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["10.88.0.100".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap()
}
