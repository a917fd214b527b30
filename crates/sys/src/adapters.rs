//! The network adapters of this machine (Windows, `GetAdaptersAddresses`).
#![allow(unsafe_code, reason = "the list is a chain of C structures")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ptr::null_mut;

use ipnet::IpNet;
use socket2::{SockAddr, SockAddrStorage};
use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_NO_DATA, ERROR_SUCCESS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_MULTICAST, GetAdaptersAddresses, IF_TYPE_PPP,
    IF_TYPE_SOFTWARE_LOOPBACK, IF_TYPE_TUNNEL, IP_ADAPTER_ADDRESSES_LH, IP_ADAPTER_NO_MULTICAST,
};
use windows_sys::Win32::NetworkManagement::Ndis::IfOperStatusUp;
use windows_sys::Win32::Networking::WinSock::{AF_UNSPEC, SOCKET_ADDRESS};

/// The first size of the buffer, in bytes, as Microsoft recommends it.
const FIRST_SIZE: u32 = 16 * 1024;
/// How often the list may have grown between two calls.
const ATTEMPTS: usize = 4;

/// A network adapter.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// The name that Windows shows, such as `Ethernet`.
    pub(crate) name: String,
    /// Its index in IPv6.
    pub(crate) index: u32,
    /// It is switched on and connected.
    pub(crate) is_up: bool,
    /// Only this machine is behind it.
    pub(crate) is_loopback: bool,
    /// There is exactly one other machine behind it.
    pub(crate) is_point_to_point: bool,
    /// It can send multicasts.
    pub(crate) multicasts: bool,
    /// Its speed in bit/s; `None` where it reports none.
    pub(crate) speed: Option<u64>,
    /// Its addresses with the prefix lengths of their networks.
    pub(crate) networks: Vec<IpNet>,
    /// The name servers that are to be asked through it.
    pub(crate) name_servers: Vec<SocketAddr>,
    /// Its own domain; empty when it has none.
    pub(crate) domain: String,
}

/// All adapters.
///
/// # Errors
/// The operating system's error.
pub(crate) fn all() -> io::Result<Vec<Adapter>> {
    let flags = GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST;
    let mut size = FIRST_SIZE;
    for _ in 0..ATTEMPTS {
        // Of `u64`, so that the structures in it are aligned.
        let mut buffer = vec![0_u64; usize::try_from(size).unwrap_or_default().div_ceil(8)];
        let first = buffer.as_mut_ptr().cast::<IP_ADAPTER_ADDRESSES_LH>();
        // SAFETY: `first` points to `size` writable bytes, aligned for the structure.
        let result =
            unsafe { GetAdaptersAddresses(AF_UNSPEC.into(), flags, null_mut(), first, &raw mut size) };
        match result {
            // SAFETY: the call has filled the buffer, which outlives the walk, and has ended each chain with null.
            ERROR_SUCCESS => return Ok(unsafe { walk(first) }),
            ERROR_NO_DATA => return Ok(Vec::new()),
            ERROR_BUFFER_OVERFLOW => {}
            error => return Err(io::Error::from_raw_os_error(error.cast_signed())),
        }
    }
    Err(io::Error::other("the list of network adapters changes too fast"))
}

/// # Safety
/// `next` is null or the first structure of a chain as `GetAdaptersAddresses` makes it.
unsafe fn walk(mut next: *const IP_ADAPTER_ADDRESSES_LH) -> Vec<Adapter> {
    let mut adapters = Vec::new();
    // SAFETY: by the contract of this function the pointer is null or valid; so are those inside, which end with null.
    while let Some(adapter) = unsafe { next.as_ref() } {
        let (mut networks, mut unicast) = (Vec::new(), adapter.FirstUnicastAddress);
        // SAFETY: as above.
        while let Some(address) = unsafe { unicast.as_ref() } {
            // SAFETY: the address belongs to the same buffer.
            let ip = unsafe { socket_address(&address.Address) }.map(|address| address.ip());
            networks.extend(ip.and_then(|ip| IpNet::new(ip, address.OnLinkPrefixLength).ok()));
            unicast = address.Next;
        }
        let (mut name_servers, mut server) = (Vec::new(), adapter.FirstDnsServerAddress);
        // SAFETY: as above.
        while let Some(address) = unsafe { server.as_ref() } {
            // SAFETY: the address belongs to the same buffer.
            name_servers.extend(unsafe { socket_address(&address.Address) });
            server = address.Next;
        }
        // SAFETY: all members of these unions are numbers of the same size.
        let flags = unsafe { adapter.Anonymous2.Flags };
        adapters.push(Adapter {
            // SAFETY: the names are null or end with a zero.
            name: unsafe { text(adapter.FriendlyName) },
            index: adapter.Ipv6IfIndex,
            is_up: adapter.OperStatus == IfOperStatusUp,
            is_loopback: adapter.IfType == IF_TYPE_SOFTWARE_LOOPBACK,
            is_point_to_point: matches!(adapter.IfType, IF_TYPE_PPP | IF_TYPE_TUNNEL),
            multicasts: flags & IP_ADAPTER_NO_MULTICAST == 0,
            speed: Some(adapter.TransmitLinkSpeed).filter(|speed| *speed > 0 && *speed < u64::MAX),
            networks,
            name_servers,
            // SAFETY: as above.
            domain: unsafe { text(adapter.DnsSuffix) },
        });
        next = adapter.Next;
    }
    adapters
}

/// # Safety
/// The address points to as many readable bytes as it says.
unsafe fn socket_address(address: &SOCKET_ADDRESS) -> Option<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let length = usize::try_from(address.iSockaddrLength).ok()?.min(usize::try_from(storage.size_of()).ok()?);
    if address.lpSockaddr.is_null() {
        return None;
    }
    // SAFETY: the source has `length` bytes by the contract of this function, and the storage is not smaller.
    let storage = unsafe {
        let to = (&raw mut storage).cast::<u8>();
        std::ptr::copy_nonoverlapping(address.lpSockaddr.cast::<u8>(), to, length);
        SockAddr::new(storage, length.try_into().ok()?)
    };
    storage.as_socket()
}

/// # Safety
/// The text is null, or ends with a zero.
unsafe fn text(from: *const u16) -> String {
    if from.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: nothing behind the zero is read.
    while unsafe { *from.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: that many numbers have just been read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(from, length) })
}

/// Whether a name server is one of the three that Windows lists where there is none (site-local addresses).
pub(crate) fn is_placeholder(server: &SocketAddr) -> bool {
    matches!(server.ip(), IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfec0)
}
