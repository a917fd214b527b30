mod control;
mod names;

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::unistd::{getgid, getuid, setsid};
use socket2::{Domain, Protocol, Socket, Type};

pub(super) use self::control::Control;
use super::error::EnterError;

/// Duplicates of the sockets' descriptors.
#[derive(Debug)]
pub(super) struct Unread(Vec<OwnedFd>);

impl Unread {
    pub(super) fn new<'a>(
        streams: impl Iterator<Item = &'a TcpListener>,
        datagrams: impl Iterator<Item = &'a UdpSocket>,
    ) -> io::Result<Self> {
        let all = streams.map(AsFd::as_fd).chain(datagrams.map(AsFd::as_fd));
        all.map(|socket| socket.try_clone_to_owned()).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut each: Vec<_> =
            self.0.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // A failure, which only a shortage of memory causes, must not keep a network forever.
        poll(&mut each, PollTimeout::ZERO).unwrap_or(0) == 0
    }
}

const NOTHING: Option<&str> = None;
/// Number of connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// This process in its namespaces.
#[derive(Debug)]
pub(super) struct Inside {
    /// The user and group that it was before, unless it did not need a namespace of users.
    before: Option<(u32, u32)>,
}

pub(super) fn enter() -> Result<Inside, EnterError> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let network_and_mounts = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    // Root needs no namespace of users, which would leave it one user only. Root of many containers is no different from
    // other users here.
    let before = match user == 0 && unshare(network_and_mounts).is_ok() {
        true => None,
        false => {
            unshare(CloneFlags::CLONE_NEWUSER | network_and_mounts).map_err(refused)?;
            map_ids((0, user), (0, group)).map_err(|error| EnterError::Failed("mapping the user", error))?;
            Some((user, group))
        }
    };
    // What is mounted outside later appears inside too, but not the other way round.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING).map_err(|error| {
        match is_restricted_by_apparmor() {
            true => EnterError::AppArmor,
            false => EnterError::Failed("separating the mounts", error.into()),
        }
    })?;
    Ok(Inside { before })
}

/// Why the kernel has refused namespaces.
fn refused(error: Errno) -> EnterError {
    let is = |setting: &str, value: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(setting)).is_ok_and(|found| found.trim() == value)
    };
    match error {
        Errno::EPERM if is("kernel/unprivileged_userns_clone", "0") => {
            EnterError::Setting("kernel.unprivileged_userns_clone")
        }
        Errno::EPERM | Errno::EACCES if is_restricted_by_apparmor() => EnterError::AppArmor,
        Errno::ENOSPC | Errno::EUSERS => EnterError::Exhausted,
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => EnterError::Forbidden(error.into()),
        _ => EnterError::Failed("a network of its own", error.into()),
    }
}

pub(super) fn is_restricted_by_apparmor() -> bool {
    let setting = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    setting.is_ok_and(|value| value.trim() == "1")
}

/// Maps one user and one group of the new namespace, each with its id inside and outside.
fn map_ids(user: (u32, u32), group: (u32, u32)) -> io::Result<()> {
    // Without this, a process could give up groups, and with them what they are denied (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{} {} 1", user.0, user.1))?;
    fs::write("/proc/self/gid_map", format!("{} {} 1", group.0, group.1))
}

impl Inside {
    pub(super) fn use_own_name_server(&self) -> io::Result<()> {
        names::use_own_server()
    }

    pub(super) fn give_up(self) -> io::Result<()> {
        let Some((user, group)) = self.before else { return Ok(()) };
        // Permissions in this namespace do not hold in the one that owns the network and the mounts.
        unshare(CloneFlags::CLONE_NEWUSER)?;
        map_ids((user, 0), (group, 0))
    }
}

fn transparent(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.cloexec(), None)?;
    match address.is_ipv4() {
        true => socket.set_ip_transparent_v4(true)?,
        false => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(super) fn transparent_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = transparent(address, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) fn transparent_datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = transparent(address, Type::DGRAM)?;
    match address.is_ipv4() {
        true => setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?,
        false => setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?,
    }
    Ok(socket.into())
}

pub(super) fn packets(address: SocketAddr) -> io::Result<Socket> {
    // Such a socket sends packets with the headers that they have, and receives none (raw(7)).
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    Socket::new(Domain::for_address(address), Type::RAW.cloexec(), Some(protocol))
}

pub(super) fn receive(
    socket: &tokio::net::UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(libc::sockaddr_in6);
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let destination = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => {
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(address.sin_port))))
        }
        ControlMessageOwned::Ipv6OrigDstAddr(address) => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::from((ip, u16::from_be(address.sin6_port))))
        }
        _ => None,
    });
    let source = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
    });
    match (source, destination) {
        (Some(source), Some(destination)) => Ok((message.bytes, source, destination)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// This program's file, even if it has been replaced since this process started.
pub(super) fn own_program() -> PathBuf {
    "/proc/self/exe".into()
}

pub(super) fn leave_terminal() -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")
}

/// The name of this process's network.
fn own_network() -> io::Result<String> {
    network_of("self").ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn network_of(process: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok()?;
    link.into_os_string().into_string().ok()
}

pub(super) fn is_on(process: u32, network: &str) -> bool {
    network_of(&process.to_string()).as_deref() == Some(network)
}

pub(super) fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
