//! The client's side of SOCKS5 (RFC 1928) towards the node's own local proxy.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mark;
use crate::net;
use crate::wire::target::{Host, Target};

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const SUCCEEDED: u8 = 0;
/// The codes of a reply that says that an address cannot be reached or must not (RFC 1928 §6).
const CONCERNS_ADDRESS: [u8; 3] = [2, 3, 4];
/// The greeting: one method, without authentication.
const GREETING: [u8; 3] = [VERSION, 1, 0];
const ACCEPTED: [u8; 2] = [VERSION, 0];
/// How long the node, on this machine, may take to answer what it need not ask a gateway for.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to connect: more than holding a connection and dialling a server take.
const CONNECTED: Duration = Duration::from_secs(120);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The node does not answer, or what answers is not a node.
    #[error("{0}")]
    Node(#[from] io::Error),
    /// The local proxy asks for a login.
    #[error("the local proxy asks for a login")]
    Login,
    /// The code of the reply.
    #[error("reply {0}")]
    Reply(u8),
}

impl Refused {
    /// Whether another address, or the name, may succeed.
    pub(super) fn concerns_address(&self) -> bool {
        matches!(self, Self::Reply(code) if CONCERNS_ADDRESS.contains(code))
    }
}

/// Finds out whether the local proxy serves an app without a login.
///
/// # Errors
/// [`Refused`].
pub fn greet(node: SocketAddr) -> Result<(), Refused> {
    let mut socket = std::net::TcpStream::connect_timeout(&node, DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.write_all(&GREETING)?;
    let mut answer = [0; 2];
    socket.read_exact(&mut answer)?;
    accepted(answer)
}

fn accepted(answer: [u8; 2]) -> Result<(), Refused> {
    match answer {
        ACCEPTED => Ok(()),
        [VERSION, _] => Err(Refused::Login),
        _ => Err(Refused::Node(io::ErrorKind::InvalidData.into())),
    }
}

/// Connects to a target through the node.
pub(super) async fn connect(node: SocketAddr, target: &Target) -> Result<TcpStream, Refused> {
    let request = request(CONNECT, target);
    let asked = timeout(CONNECTED, ask(node, &request)).await;
    Ok(asked.unwrap_or(Err(Refused::Node(io::ErrorKind::TimedOut.into())))?.0)
}

/// Gets an association: the connection that keeps it, and where its datagrams are sent.
pub(super) async fn associate(node: SocketAddr) -> Result<(TcpStream, SocketAddr), Refused> {
    let nowhere = match node.is_ipv4() {
        true => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        false => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let request = request(UDP_ASSOCIATE, &nowhere.into());
    timeout(DEADLINE, ask(node, &request)).await.unwrap_or(Err(Refused::Node(io::ErrorKind::TimedOut.into())))
}

/// Sends a request; returns the connection and the address in the reply.
async fn ask(node: SocketAddr, request: &[u8]) -> Result<(TcpStream, SocketAddr), Refused> {
    let mut socket = mark::connect(node).await?;
    net::tune_stream(&socket);
    // The request need not wait for the answer to the greeting, which is the same for every app.
    socket.write_all(&[&GREETING, request].concat()).await?;
    let mut answer = [0; 2];
    socket.read_exact(&mut answer).await?;
    accepted(answer)?;
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let ip: IpAddr = match head {
        [VERSION, SUCCEEDED, _, 1] => {
            let mut ip = [0; 4];
            socket.read_exact(&mut ip).await?;
            ip.into()
        }
        [VERSION, SUCCEEDED, _, 4] => {
            let mut ip = [0; 16];
            socket.read_exact(&mut ip).await?;
            ip.into()
        }
        [VERSION, code, ..] if code != SUCCEEDED => return Err(Refused::Reply(code)),
        _ => return Err(Refused::Node(io::ErrorKind::InvalidData.into())),
    };
    let port = socket.read_u16().await?;
    Ok((socket, SocketAddr::new(ip, port)))
}

fn request(command: u8, target: &Target) -> Vec<u8> {
    let mut request = vec![VERSION, command, 0];
    request.extend(address(target));
    request
}

/// The form of an address in requests and before datagrams (RFC 1928 §5).
pub(super) fn address(target: &Target) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    match &target.host {
        Host::Address(IpAddr::V4(ip)) => {
            bytes.push(1);
            bytes.extend(ip.octets());
        }
        Host::Address(IpAddr::V6(ip)) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        Host::Name(name) => {
            // A name of DNS has at most 254 characters.
            let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
            bytes.extend([3, length]);
            bytes.extend(&name.as_bytes()[..length.into()]);
        }
    }
    bytes.extend(target.port.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socks_udp;

    #[test]
    fn an_address_has_the_form_that_the_node_reads() {
        for target in ["192.0.2.1:80", "[2001:db8::1]:443", "files.example:1"] {
            let (host, port) = target.rsplit_once(':').unwrap();
            let target = Target::new(host.trim_matches(['[', ']']), port.parse().unwrap()).unwrap();
            let datagram = [&[0, 0, 0][..], &address(&target)].concat();
            assert_eq!(socks_udp::parse(&datagram).unwrap(), (target, datagram.len()));
        }
    }
}
