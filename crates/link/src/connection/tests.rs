//! Both ends against another implementation, over a pipe.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use tokio::io::{AsyncRead, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;

use super::*;
use laneway_h2::{RecvStream, SendStream};

const PIPE: usize = 64 * 1024;

impl Wire for DuplexStream {
    fn poll_receive_into(
        &mut self,
        out: &mut [u8],
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut out[..most]);
        ready!(Pin::new(self).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    }

    fn memory(&self) -> usize {
        0
    }
}

fn config() -> Config {
    crate::settings::config()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("it happens")
}

fn post(path: &str) -> Request<()> {
    let uri = format!("https://gateway{path}");
    Request::builder().method(Method::POST).uri(uri).header("some", "field").body(()).unwrap()
}

/// A server that answers each request with its path, and then sends back what comes.
fn echo(far: DuplexStream) {
    tokio::spawn(async move {
        let mut connection = Connection::server(far, config());
        while let Some(Ok((request, respond))) = poll_fn(|cx| connection.poll_accept(cx)).await {
            tokio::spawn(async move {
                let path = request.uri().path().to_owned();
                let response = Response::builder().header("path", path).body(()).unwrap();
                let Ok(mut send) = respond.send(&response, false) else { return };
                let mut body = request.into_body();
                while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
                    body.release_capacity(data.len());
                    all(&mut send, data).await.unwrap();
                }
                send.send_data(Bytes::new(), true).unwrap();
            });
        }
    });
}

async fn all(send: &mut SendStream, mut data: Bytes) -> Result<(), Error> {
    while !data.is_empty() {
        let room = poll_fn(|cx| send.poll_capacity(data.len(), cx)).await?;
        send.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

async fn body(body: &mut RecvStream) -> Result<BytesMut, Error> {
    let mut whole = BytesMut::new();
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        let data = data?;
        body.release_capacity(data.len());
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn another_client_sends_much_and_gets_it_back() {
    let (near, far) = duplex(PIPE);
    echo(far);
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    for length in [0, 1, 16_384, 16_385, 1_000_000] {
        let (response, mut send) =
            requests.clone().ready().await.unwrap().send_request(post("/much"), false).unwrap();
        let data = bytes(length);
        let sending = async {
            let mut rest = data.clone();
            while !rest.is_empty() {
                send.reserve_capacity(rest.len());
                let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                send.send_data(rest.split_to(room), false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
        };
        let receiving = async {
            let response = response.await.unwrap();
            assert_eq!(response.headers()["path"], "/much");
            let (mut body, mut whole) = (response.into_body(), BytesMut::new());
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
            whole
        };
        let ((), whole) = soon(futures_util::future::join(sending, receiving)).await;
        assert!(whole == data, "{length}");
    }
}

#[tokio::test]
async fn another_server_is_sent_much_and_sends_it_back() {
    let (near, far) = duplex(PIPE);
    tokio::spawn(async move {
        let mut connection =
            h2::server::Builder::new().enable_connect_protocol().handshake(far).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                assert_eq!(
                    (request.version(), &request.headers()["some"]),
                    (Version::HTTP_2, &"field".parse().unwrap())
                );
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(mut data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    while !data.is_empty() {
                        send.reserve_capacity(data.len());
                        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                        send.send_data(data.split_to(room), false).unwrap();
                    }
                }
                send.send_data(Bytes::new(), true).unwrap();
            });
        }
    });
    let (requests, mut connection) = Connection::client(near, config());
    let mut ping = connection.ping_pong();
    tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    soon(ping.ping()).await.unwrap();
    assert!(requests.has_extended_connect());
    for length in [0, 1, 16_385, 1_000_000] {
        let (response, mut send) = requests.send(post("/"), false).await.unwrap();
        let data = bytes(length);
        let sending = async {
            all(&mut send, data.clone()).await.unwrap();
            send.send_data(Bytes::new(), true).unwrap();
        };
        let receiving = async { body(&mut response.await.unwrap().into_body()).await.unwrap() };
        let ((), whole) = soon(futures_util::future::join(sending, receiving)).await;
        assert!(whole == data, "{length}");
    }
}

#[tokio::test]
async fn a_drained_end_takes_what_was_under_way_and_ends_when_it_has_ended() {
    let (near, far) = duplex(PIPE);
    let (told, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let drain = std::sync::Arc::new(tokio::sync::Notify::new());
    let wanted = drain.clone();
    let server = tokio::spawn(async move {
        let mut connection = Connection::server(far, config());
        loop {
            tokio::select! {
                next = poll_fn(|cx| connection.poll_accept(cx)) => match next {
                    Some(next) => told.send(next.unwrap()).unwrap(),
                    None => return,
                },
                () = wanted.notified() => connection.drain(),
            }
        }
    });
    let (requests, mut connection) = Connection::client(near, config());
    let client = tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    let (response, mut send) = requests.send(post("/"), false).await.unwrap();
    let (request, respond) = soon(accepted.recv()).await.unwrap();
    drain.notify_one();
    let refused = loop {
        match requests.send(post("/"), true).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(refused.is_of_connection());
    let mut answer = respond.send(&Response::new(()), false).unwrap();
    answer.send_data(Bytes::from_static(b"still"), true).unwrap();
    send.send_data(Bytes::from_static(b"here"), true).unwrap();
    assert_eq!(soon(body(&mut request.into_body())).await.unwrap(), b"here"[..]);
    assert_eq!(soon(body(&mut soon(response).await.unwrap().into_body())).await.unwrap(), b"still"[..]);
    drop((answer, send));
    // What came in between, if anything did, is not answered.
    while let Ok(next) = accepted.try_recv() {
        drop(next);
    }
    soon(server).await.unwrap();
    soon(client).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_connection_is_the_end_of_its_streams() {
    let (near, far) = duplex(PIPE);
    let (requests, mut connection) = Connection::client(near, config());
    let client = tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    let (response, mut send) = requests.send(post("/"), false).await.unwrap();
    drop(far);
    assert!(soon(response).await.unwrap_err().is_of_connection());
    assert!(soon(poll_fn(|cx| send.poll_reset(cx))).await.is_of_connection());
    assert!(send.send_data(Bytes::from_static(b"x"), false).is_err());
    assert!(soon(requests.send(post("/"), true)).await.is_err());
    assert!(soon(client).await.unwrap().unwrap_err().io().is_some());
}
