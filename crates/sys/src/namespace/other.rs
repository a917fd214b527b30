//! Systems without namespaces.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Child;

use socket2::Socket;

use super::error::EnterError;
use super::sockets::{Given, Sockets};

/// No process is inside.
#[derive(Debug)]
pub(super) enum Inside {}

/// No process has another end.
#[derive(Debug)]
pub(super) enum Control {}

/// There are no such sockets.
#[derive(Debug)]
pub(super) enum Unread {}

impl Unread {
    pub(super) fn new<'a>(
        _: impl Iterator<Item = &'a TcpListener>,
        _: impl Iterator<Item = &'a UdpSocket>,
    ) -> io::Result<Self> {
        unsupported()
    }

    pub(super) fn is_empty(&self) -> bool {
        match *self {}
    }
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn enter() -> Result<Inside, EnterError> {
    Err(EnterError::Failed("a network of its own", io::ErrorKind::Unsupported.into()))
}

pub(super) fn is_restricted_by_apparmor() -> bool {
    false
}

impl Inside {
    pub(super) fn use_own_name_server(&self) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn give_up(self) -> io::Result<()> {
        match self {}
    }
}

impl Control {
    pub(super) fn start(_: &[&str]) -> io::Result<(Self, Child)> {
        unsupported()
    }

    pub(super) fn inherited() -> io::Result<Self> {
        unsupported()
    }

    pub(super) fn give(&self, _: &Sockets) -> io::Result<()> {
        match *self {}
    }

    pub(super) fn take(&self) -> io::Result<Option<Given>> {
        match *self {}
    }

    pub(super) fn confirm(self) -> io::Result<()> {
        match self {}
    }
}

pub(super) fn transparent_listener(_: SocketAddr) -> io::Result<TcpListener> {
    unsupported()
}

pub(super) fn transparent_datagrams(_: SocketAddr) -> io::Result<UdpSocket> {
    unsupported()
}

pub(super) fn packets(_: SocketAddr) -> io::Result<Socket> {
    unsupported()
}

pub(super) fn receive(
    _: &tokio::net::UdpSocket,
    _: &mut [u8],
) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    unsupported()
}

pub(super) fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_default()
}

pub(super) fn leave_terminal() -> io::Result<()> {
    unsupported()
}

pub(super) fn is_on(_: u32, _: &str) -> bool {
    false
}

pub(super) fn processes() -> Vec<u32> {
    Vec::new()
}
