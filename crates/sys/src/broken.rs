//! Connections that break while both directions are in use.
//!
//! Linux reports only once that a connection was reset or has timed out: to the next write or read. If that is a write, reads
//! give what had arrived before, and then the same as at an orderly end.

use std::io;
use std::sync::OnceLock;

/// The error of a failed write on a connection.
#[derive(Debug, Default)]
pub struct Break(OnceLock<io::ErrorKind>);

impl Break {
    /// Notes why a write has failed. A peer that had ended its direction before has not broken the connection.
    pub fn note(&self, error: &io::Error) {
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected) {
            // The first one counts.
            let _ = self.0.set(error.kind());
        }
    }

    /// The number of bytes that a read has given, unless it is 0 on a connection that is known to be broken.
    ///
    /// # Errors
    /// The error of the write.
    pub fn checked(&self, count: usize) -> io::Result<usize> {
        match self.0.get() {
            Some(kind) if count == 0 => Err((*kind).into()),
            _ => Ok(count),
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;

    /// Writes until that fails, and reads until the end. Returns what is known of the end.
    fn end_of(mut stream: TcpStream) -> io::Result<usize> {
        let known = Break::default();
        let failed = loop {
            if let Err(error) = stream.write_all(&[0; 1024]) {
                break error;
            }
        };
        known.note(&failed);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        assert_eq!(rest, b"some");
        assert_eq!(known.checked(1).unwrap(), 1);
        known.checked(0)
    }

    #[test]
    fn an_end_that_is_read_after_a_write_has_met_a_reset_is_none() {
        for ends in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"some").unwrap();
            if ends {
                peer.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // Its first bytes have come, so that what follows comes after them.
            stream.peek(&mut [0]).unwrap();
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            assert_eq!(end_of(stream).is_ok(), ends, "ended before: {ends}");
        }
    }
}
