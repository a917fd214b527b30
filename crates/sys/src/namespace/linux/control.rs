//! The connection over which sockets are passed (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;

use super::super::sockets::{Given, Network, Sockets};
use super::{own_network, own_program};

/// How long each step of handing over may take: both ends are on this machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// Maximum number of sockets that are passed.
const MOST: usize = 16;
/// Maximum length of the message, in bytes.
const MESSAGE: usize = 256;
const READY: u8 = b'+';

// The letter for each socket in the message.
const STREAMS: u8 = b'T';
const DATAGRAMS: u8 = b'U';
const PACKETS: u8 = b'R';
const DNS_STREAMS: u8 = b'd';
const DNS_DATAGRAMS: u8 = b'D';
const PROXY: u8 = b'P';

#[derive(Debug)]
pub(in crate::namespace) struct Control(UnixStream);

impl Control {
    pub(in crate::namespace) fn start(arguments: &[&str]) -> io::Result<(Self, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(DEADLINE))?;
        ours.set_write_timeout(Some(DEADLINE))?;
        let mut command = Command::new(own_program());
        command
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn()?;
        Ok((Self(ours), child))
    }

    pub(in crate::namespace) fn inherited() -> io::Result<Self> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails for anything else.
        socket.peer_addr()?;
        Ok(Self(socket))
    }

    pub(in crate::namespace) fn give(&self, sockets: &Sockets) -> io::Result<()> {
        let mut passed: Vec<(u8, BorrowedFd<'_>)> = Vec::new();
        passed.extend(sockets.streams.iter().map(|socket| (STREAMS, socket.as_fd())));
        passed.extend(sockets.datagrams.iter().map(|socket| (DATAGRAMS, socket.as_fd())));
        passed.extend(sockets.packets.iter().map(|socket| (PACKETS, socket.as_fd())));
        passed.push((DNS_STREAMS, sockets.dns_streams.as_fd()));
        passed.push((DNS_DATAGRAMS, sockets.dns_datagrams.as_fd()));
        passed.extend(sockets.proxy.iter().map(|socket| (PROXY, socket.as_fd())));

        let (kinds, descriptors): (Vec<u8>, Vec<_>) = passed.into_iter().unzip();
        let kinds = String::from_utf8_lossy(&kinds).into_owned();
        let message = format!("{} {} {kinds}", std::process::id(), own_network()?);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(message.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut answer = [0];
        (&self.0).read_exact(&mut answer)?;
        match answer {
            [READY] => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(in crate::namespace) fn take(&self) -> io::Result<Option<Given>> {
        let mut bytes = [0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        if received == 0 {
            return Ok(None);
        }
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let message = str::from_utf8(&bytes[..received]).map_err(io::Error::other)?;
        let words: Vec<_> = message.split(' ').collect();
        let [first, id, kinds] = words[..] else { return Err(malformed()) };
        let network = Network { id: id.to_owned(), first: first.parse().map_err(io::Error::other)? };
        if kinds.len() != descriptors.len() {
            return Err(malformed());
        }
        let sockets = sorted(kinds.bytes().zip(descriptors)).ok_or_else(malformed)?;
        Ok(Some(Given { sockets, network }))
    }

    pub(in crate::namespace) fn confirm(self) -> io::Result<()> {
        (&self.0).write_all(&[READY])
    }
}

/// The sockets by their letters.
fn sorted(passed: impl Iterator<Item = (u8, OwnedFd)>) -> Option<Sockets> {
    let (mut streams, mut datagrams, mut packets) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dns_streams, mut dns_datagrams, mut proxy) = (None, None, None);
    for (kind, socket) in passed {
        match kind {
            STREAMS => streams.push(TcpListener::from(socket)),
            DATAGRAMS => datagrams.push(UdpSocket::from(socket)),
            PACKETS => packets.push(Socket::from(socket)),
            DNS_STREAMS => dns_streams = Some(TcpListener::from(socket)),
            DNS_DATAGRAMS => dns_datagrams = Some(UdpSocket::from(socket)),
            PROXY => proxy = Some(TcpListener::from(socket)),
            _ => return None,
        }
    }
    let (dns_streams, dns_datagrams) = (dns_streams?, dns_datagrams?);
    Some(Sockets { streams, datagrams, packets, dns_streams, dns_datagrams, proxy })
}
