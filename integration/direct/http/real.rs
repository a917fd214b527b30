//! Software of others: curl's NTLM, and the two HTTP clients of the JDK.

use std::io::Write as _;
use std::process::{Command, Output};

use laneway::sys::blocking;
use tokio::task::JoinHandle;

use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

/// An NTLM challenge (MS-NLMP §2.2.1.2) without target information.
const CHALLENGE: &str = "TlRMTVNTUAACAAAAAAAAADAAAAABAgAAASNFZ4mrze8AAAAAAAAAAAAAAAAwAAAA";

/// Runs a program. `None`, loudly, where this machine lacks it; with `CI=true` that is a failure, except for the JDK, which
/// is too large to install for one test.
async fn run(program: &str, arguments: Vec<String>) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    match blocking::run(move || command.output()).await.unwrap() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(program == "java" || std::env::var_os("CI").is_none(), "{program}: {error}");
            let left_out = format!("NOT TESTED: {program}: {error}\n");
            std::io::stderr().write_all(left_out.as_bytes()).unwrap();
            None
        }
    }
}

/// A server that answers only after a login on the same connection. It does not check the password.
fn with_login(origin: Origin) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let server = origin.accept().await;
            tokio::spawn(log_in(server));
        }
    })
}

async fn log_in(mut server: Peer) {
    let mut logged_in = false;
    while let Some(head) = server.next_head().await {
        let length = head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
        });
        let body = server.exactly(length.unwrap_or(0)).await;
        let message =
            head.split_once("Authorization: NTLM ").map(|(_, rest)| rest.split("\r\n").next().unwrap());
        let challenge = match message {
            Some(message) if message.starts_with("TlRMTVNTUAAB") => format!(" {CHALLENGE}"),
            Some(message) if message.starts_with("TlRMTVNTUAAD") => {
                logged_in = true;
                String::new()
            }
            _ => String::new(),
        };
        let answer = if logged_in {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        } else {
            format!("HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM{challenge}\r\nContent-Length: 0\r\n\r\n")
        };
        server.say(answer).await;
    }
}

#[tokio::test]
async fn curl_logs_in_by_ntlm_with_get_post_and_put() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let origin = Origin::new();
        let url = format!("http://{}/", origin.address);
        let serving = with_login(origin);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "content").unwrap();
        for (method, body) in [
            (vec![], ""),
            (vec!["-d".to_owned(), "content".to_owned()], "content"),
            (vec!["-T".to_owned(), file.display().to_string()], "content"),
        ] {
            let common =
                ["-sS", "--fail", "--max-time", "60", "--ntlm", "-u", "user:secret", "--noproxy", "", "-x"];
            let mut arguments: Vec<String> = common.map(str::to_owned).to_vec();
            arguments.push(format!("http://{}", proxy.address));
            arguments.extend(method.clone());
            // Twice, so that the second request uses the login of the first.
            arguments.extend([url.clone(), url.clone()]);
            let Some(output) = run("curl", arguments).await else { return };
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{method:?}: {error}");
            assert!(String::from_utf8_lossy(&output.stdout).starts_with(body), "{method:?}: {error}");
        }
        serving.abort();
    }
}

#[tokio::test]
async fn the_clients_of_the_jdk_are_served() {
    let proxy = Proxy::direct().await;
    let origin = Origin::new();
    let server = origin.address.port().to_string();
    // Answers with the head of the request.
    let serving = tokio::spawn(async move {
        loop {
            let mut peer = origin.accept().await;
            tokio::spawn(async move {
                while let Some(head) = peer.next_head().await {
                    if head.contains("chunked") {
                        peer.hear("5\r\nhello\r\n0\r\n\r\n").await;
                    }
                    let length = head.len();
                    peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}")).await;
                }
            });
        }
    });
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/direct/http/JdkClient.java");
    let arguments = vec![program.to_owned(), proxy.address.port().to_string(), server];
    let Some(output) = run("java", arguments).await else { return };
    let (heads, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    assert!(heads.contains("GET /url-connection?a=%7e HTTP/1.1"), "{heads}");
    assert!(heads.contains("POST /post HTTP/1.1") && heads.contains("GET /http-client HTTP/1.1"), "{heads}");
    assert!(!heads.contains("secret"), "{heads}");
    serving.abort();
}
