#![allow(unsafe_code, reason = "the system fills tables of C structures")]

use std::net::SocketAddr;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::PathBuf;

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, ERROR_SUCCESS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, GetExtendedUdpTable, MIB_TCP6ROW_OWNER_PID, MIB_TCPROW_OWNER_PID,
    MIB_UDP6ROW_OWNER_PID, MIB_UDPROW_OWNER_PID, TCP_TABLE_OWNER_PID_LISTENER, UDP_TABLE_OWNER_PID,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

use super::holder::{Program, Protocol};

/// How often a table may have grown between two calls.
const ATTEMPTS: usize = 4;

pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<Program> {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let table = table(protocol, family.into())?;
    let rows: Vec<(u32, u32)> = match (protocol, address.is_ipv4()) {
        (Protocol::Tcp, true) => {
            rows(&table, |row: &MIB_TCPROW_OWNER_PID| (row.dwLocalPort, row.dwOwningPid))
        }
        (Protocol::Tcp, false) => {
            rows(&table, |row: &MIB_TCP6ROW_OWNER_PID| (row.dwLocalPort, row.dwOwningPid))
        }
        (Protocol::Udp, true) => {
            rows(&table, |row: &MIB_UDPROW_OWNER_PID| (row.dwLocalPort, row.dwOwningPid))
        }
        (Protocol::Udp, false) => {
            rows(&table, |row: &MIB_UDP6ROW_OWNER_PID| (row.dwLocalPort, row.dwOwningPid))
        }
    };
    // The port is in network byte order, in the lower half.
    let port = u32::from(address.port().to_be());
    let process = rows.into_iter().find(|(local, _)| local & 0xffff == port)?.1;
    Some(Program {
        name: name_of(process).unwrap_or_else(|| "a program".into()),
        process: process.to_string(),
        is_stopped: false,
    })
}

/// The table of sockets, as words of eight bytes.
fn table(protocol: Protocol, family: u32) -> Option<Vec<u64>> {
    let mut size = 16 * 1024_u32;
    for _ in 0..ATTEMPTS {
        let mut table = vec![0_u64; usize::try_from(size).ok()?.div_ceil(8)];
        let to = table.as_mut_ptr().cast();
        // SAFETY: `to` points to `size` writable bytes.
        let result = unsafe {
            match protocol {
                Protocol::Tcp => {
                    GetExtendedTcpTable(to, &raw mut size, 0, family, TCP_TABLE_OWNER_PID_LISTENER, 0)
                }
                Protocol::Udp => GetExtendedUdpTable(to, &raw mut size, 0, family, UDP_TABLE_OWNER_PID, 0),
            }
        };
        match result {
            ERROR_SUCCESS => return Some(table),
            ERROR_INSUFFICIENT_BUFFER => {}
            _ => return None,
        }
    }
    None
}

/// The rows of a table: the number of rows, followed by them.
fn rows<Row: Copy>(table: &[u64], read: impl Fn(&Row) -> (u32, u32)) -> Vec<(u32, u32)> {
    let bytes = size_of_val(table);
    let base = table.as_ptr().cast::<u8>();
    // SAFETY: the table has at least one word.
    let count = if table.is_empty() { 0 } else { unsafe { *base.cast::<u32>() } };
    let count = usize::try_from(count).unwrap_or_default();
    let fits = bytes.saturating_sub(4) / size_of::<Row>();
    let row = |at: usize| {
        // SAFETY: `at` is below the number of rows that fit into the table; rows are plain numbers, and unaligned reads are
        // allowed for.
        read(&unsafe { base.add(4 + at * size_of::<Row>()).cast::<Row>().read_unaligned() })
    };
    (0..count.min(fits)).map(row).collect()
}

/// The name of a process's program, without its directory and extension.
fn name_of(process: u32) -> Option<String> {
    // SAFETY: the call only takes numbers.
    let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, process) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is new and belongs to nobody else.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    let mut path = [0_u16; 1024];
    let mut length = 1024;
    // SAFETY: the buffer has as many numbers as `length` says.
    let filled = unsafe {
        QueryFullProcessImageNameW(
            handle.as_raw_handle(),
            PROCESS_NAME_WIN32,
            path.as_mut_ptr(),
            &raw mut length,
        )
    };
    let path = path.get(..usize::try_from(length).ok()?).filter(|_| filled != 0)?;
    let path = PathBuf::from(String::from_utf16_lossy(path));
    Some(path.file_stem()?.to_string_lossy().into_owned())
}
