//! Questions to the Linux kernel (`netlink(7)`): one message is sent, and one is received.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR` of `linux/netlink.h`: what follows the header is a negative error number.
const ERROR: u16 = 2;
/// The length of `struct nlmsghdr`, and where the type of the message is in it.
const HEADER: usize = 16;
const TYPE: usize = 4;
/// Maximum length of an answer, in bytes.
const MOST: usize = 4096;

/// Sends a message of this type with this body, and returns the answer, whose parts [`read`] tells.
///
/// # Errors
/// When the system has no such protocol or does not answer.
pub(crate) fn ask(protocol: SockProtocol, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
    let (fd, kernel) = (netlink.as_raw_fd(), NetlinkAddr::new(0, 0));
    sendto(fd, &message(kind, body)?, &kernel, MsgFlags::empty())?;
    // The kernel has answered before `sendto` returns.
    let mut answer = vec![0; MOST];
    let length = recv(fd, &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

fn message(kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender, which are not needed for one question.
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}

/// The type of an answer, and what follows its header.
///
/// # Errors
/// The error that the kernel has answered with; `InvalidData` when the answer is cut short.
pub(crate) fn read(answer: &[u8]) -> io::Result<(u16, &[u8])> {
    let kind = u16::from_ne_bytes(bytes(answer, TYPE)?);
    if kind == ERROR {
        let code = i32::from_ne_bytes(bytes(answer, HEADER)?);
        return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
    }
    Ok((kind, answer.get(HEADER..).ok_or(io::ErrorKind::InvalidData)?))
}

/// The attributes in the rest of a body, each as its type and its value. They end at the first that is cut short.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes(rest, 0).ok()?));
        let kind = u16::from_ne_bytes(bytes(rest, 2).ok()?);
        let value = rest.get(4..length)?;
        // Each begins at a multiple of four bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute to the body of a question. The length of `value` is a multiple of four bytes, as that of addresses and
/// numbers is.
pub(crate) fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// The bytes at an offset.
///
/// # Errors
/// `InvalidData` when there are fewer.
pub(crate) fn bytes<const N: usize>(from: &[u8], at: usize) -> io::Result<[u8; N]> {
    let found = from.get(at..at + N).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An answer of this type.
    pub(crate) fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        message(kind, body).unwrap()
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        assert_eq!(read(&answer(24, b"body")).unwrap(), (24, &b"body"[..]));
        let missing = answer(ERROR, &(-2_i32).to_ne_bytes());
        assert_eq!(read(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        for length in 0..missing.len() {
            assert_eq!(read(&missing[..length]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{length}");
        }
    }

    #[test]
    fn attributes_end_where_they_are_cut_short() {
        let mut body = Vec::new();
        put_attribute(&mut body, 1, &[10, 0, 0, 1]);
        put_attribute(&mut body, 4, &7_u32.to_ne_bytes());
        let all: Vec<_> = attributes(&body).collect();
        assert_eq!(all, [(1, &[10, 0, 0, 1][..]), (4, &7_u32.to_ne_bytes()[..])]);
        for length in 0..body.len() {
            assert_eq!(attributes(&body[..length]).count(), length / 8, "{length}");
        }
        // A length that is below that of its own header would never advance.
        assert_eq!(attributes(&[3, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }
}
