#![allow(unsafe_code, reason = "socket options that socket2 does not have")]

use std::ffi::c_void;
use std::io;
use std::os::windows::io::AsRawSocket;

use socket2::Socket;
use tokio::net::{TcpSocket, UdpSocket};
use windows_sys::Win32::Networking::WinSock::{
    IP_DONTFRAGMENT, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE, IPPROTO_IP, IPPROTO_IPV6, IPV6_DONTFRAG,
    IPV6_MTU_DISCOVER, SIO_UDP_CONNRESET, SO_EXCLUSIVEADDRUSE, SOCKET_ERROR, SOL_SOCKET, WSAEADDRINUSE,
    WSAEMFILE, WSAEMSGSIZE, WSAENOBUFS, WSAEWOULDBLOCK, WSAIoctl, setsockopt,
};
use windows_sys::Win32::System::SystemInformation::{ComputerNameDnsHostname, GetComputerNameExW};

/// Lets no other program, of whatever user, listen on the same port and so take over its connections. Windows allows that
/// by default, and with `SO_REUSEADDR` always.
pub(crate) fn claim(socket: &Socket) -> io::Result<()> {
    set(socket, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)
}

/// Sets "don't fragment". Windows 10 and older have only the second option.
pub(super) fn never_fragment(socket: &UdpSocket, v4: bool) -> io::Result<()> {
    let (level, discover, only) = match v4 {
        true => (IPPROTO_IP, IP_MTU_DISCOVER, IP_DONTFRAGMENT),
        false => (IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_DONTFRAG),
    };
    set(socket, level, discover, IP_PMTUDISC_PROBE).or_else(|_older| set(socket, level, only, 1))
}

/// Sets an option whose value is one number.
pub(crate) fn set(socket: &impl AsRawSocket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let socket = usize::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
    let length = i32::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the value is readable for its whole size, and the socket is open while it is borrowed.
    let result = unsafe { setsockopt(socket, level, option, (&raw const value).cast(), length) };
    if result == SOCKET_ERROR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps an ICMP error for one datagram from being reported as a failure of the socket, which other peers use too.
pub(crate) fn ignore_unreachable_peers(socket: &impl AsRawSocket) -> io::Result<()> {
    let off = 0_u32;
    ioctl(socket, SIO_UDP_CONNRESET, (&raw const off).cast(), 4, std::ptr::null_mut(), 0)
}

fn ioctl(
    socket: &impl AsRawSocket,
    code: u32,
    from: *const c_void,
    from_length: u32,
    to: *mut c_void,
    to_length: u32,
) -> io::Result<()> {
    let socket = usize::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
    let mut written = 0;
    // SAFETY: both buffers have the lengths that are given, and the call does not go on when it returns.
    let result = unsafe {
        WSAIoctl(socket, code, from, from_length, to, to_length, &raw mut written, std::ptr::null_mut(), None)
    };
    if result == SOCKET_ERROR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The system offers no such limit.
pub(super) fn limit_segments(_: &TcpSocket, _: u32) {}

pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSAEMSGSIZE)
}

pub(super) fn is_local_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(WSAEMFILE | WSAENOBUFS | WSAEADDRINUSE | WSAEWOULDBLOCK))
}

/// Sockets are not limited here.
pub(super) fn raise_open_files() {}

/// What was opened. Its number says nothing here.
pub trait Handle {}

impl<T> Handle for T {}

pub(super) fn descriptor(_: &impl Handle) -> u64 {
    0
}

pub(super) fn too_many_files() -> io::Error {
    io::Error::from_raw_os_error(WSAEMFILE)
}

pub(super) fn open_files_limit() -> Option<u64> {
    None
}

pub(super) fn host_name() -> Option<String> {
    let mut name = [0_u16; 256];
    let mut length = 256;
    // SAFETY: the buffer has as many numbers as `length` says.
    let filled = unsafe { GetComputerNameExW(ComputerNameDnsHostname, name.as_mut_ptr(), &raw mut length) };
    let name = name.get(..usize::try_from(length).ok()?)?;
    (filled != 0).then(|| String::from_utf16_lossy(name))
}
