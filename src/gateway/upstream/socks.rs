//! The client side of SOCKS5 (RFC 1928), with user name and password (RFC 1929).

use std::net::IpAddr;

use tokio::net::TcpStream;

use super::exchange::{UpstreamRefusal, read_exact};
use super::proxy::Login;
use crate::failure::Kind;
use crate::net;
use crate::wire::target::{Host, Target};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// The version of the user name and password exchange (RFC 1929 §2).
const PASSWORD_VERSION: u8 = 1;

/// Asks the proxy to connect to `target`, and reads its reply.
pub(super) async fn request(
    stream: &TcpStream,
    target: &Target,
    login: Option<&Login>,
) -> Result<(), UpstreamRefusal> {
    authenticate(stream, login).await?;
    net::write_all(stream, &connect_message(target)).await?;
    read_reply(stream).await
}

/// Negotiates the method, and sends the login where the proxy asks for it.
async fn authenticate(stream: &TcpStream, login: Option<&Login>) -> Result<(), UpstreamRefusal> {
    let methods: &[u8] = if login.is_some() { &[NO_LOGIN, PASSWORD] } else { &[NO_LOGIN] };
    net::write_all(stream, &[&[VERSION, u8::from(login.is_some()) + 1], methods].concat()).await?;
    let mut choice = [0; 2];
    read_exact(stream, &mut choice).await?;
    match (choice, login) {
        ([VERSION, NO_LOGIN], _) => {}
        ([VERSION, PASSWORD], Some(login)) => {
            net::write_all(stream, &password_message(login)).await?;
            let mut answer = [0; 2];
            read_exact(stream, &mut answer).await?;
            if answer[1] != 0 {
                return Err(UpstreamRefusal::Login);
            }
        }
        // Some proxies name the method that they require, offered or not.
        ([VERSION, NO_METHOD | PASSWORD], _) => return Err(UpstreamRefusal::Login),
        _ => return Err(not_socks5()),
    }
    Ok(())
}

fn not_socks5() -> UpstreamRefusal {
    UpstreamRefusal::Broken("not a SOCKS5 reply".into())
}

/// Reads the reply to CONNECT, with the bound address, which is of no use here.
async fn read_reply(stream: &TcpStream) -> Result<(), UpstreamRefusal> {
    let mut head = [0; 4];
    read_exact(stream, &mut head).await?;
    let [version, reply, _, kind] = head;
    if version != VERSION {
        return Err(not_socks5());
    }
    judge(reply)?;
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let mut length = [0];
            read_exact(stream, &mut length).await?;
            length[0].into()
        }
        _ => return Err(UpstreamRefusal::Broken("an unknown type of address".into())),
    };
    let mut bound = [0; 255 + 2];
    read_exact(stream, &mut bound[..length + 2]).await?;
    Ok(())
}

/// The user name and password (RFC 1929 §2).
fn password_message(Login { user, password }: &Login) -> Vec<u8> {
    let part = |text: &str| {
        let length = u8::try_from(text.len()).expect("a login's parts are 255 bytes at most");
        [&[length], text.as_bytes()].concat()
    };
    [vec![PASSWORD_VERSION], part(user), part(password)].concat()
}

/// CONNECT to the target: `VER CMD RSV ATYP DST.ADDR DST.PORT` (RFC 1928 §4).
fn connect_message(target: &Target) -> Vec<u8> {
    let mut request = vec![VERSION, 1, 0];
    match &target.host {
        Host::Address(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Host::Address(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Host::Name(name) => {
            request.push(3);
            request.push(u8::try_from(name.len()).expect("a name is 254 bytes at most"));
            request.extend(name.as_bytes());
        }
    }
    request.extend(target.port.to_be_bytes());
    request
}

/// What the reply code means (RFC 1928 §6).
fn judge(reply: u8) -> Result<(), UpstreamRefusal> {
    Err(UpstreamRefusal::Destination(match reply {
        0 => return Ok(()),
        2 => Kind::NameForbidden,
        3 => Kind::NetworkUnreachable,
        1 | 4 => Kind::HostUnreachable,
        5 => Kind::Refused,
        6 => Kind::ConnectTimeout,
        reply => return Err(UpstreamRefusal::Broken(format!("it answered CONNECT with reply {reply}"))),
    }))
}
