//! The C library's own lookup of names, for sources that only it knows (nsswitch.conf(5)).

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// Maximum number of names that are looked up at a time: each occupies a thread for as long as the slowest source takes.
const MOST_AT_A_TIME: usize = 16;

/// The C library, with a bound on its threads.
#[derive(Clone, Debug)]
pub(super) struct CLibrary(Arc<Semaphore>);

/// The C library knows no address of the name, or is too busy.
#[derive(Debug)]
pub(super) struct Unknown;

impl Default for CLibrary {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_AT_A_TIME)))
    }
}

impl CLibrary {
    /// The addresses of `name`; at least one. The caller bounds the wait; a thread ends on its own.
    pub(super) async fn find(&self, name: &str) -> Result<Vec<IpAddr>, Unknown> {
        let place = self.0.clone().try_acquire_owned().map_err(|_busy| Unknown)?;
        let (answer, answered) = oneshot::channel();
        let host = (name.to_owned(), 0);
        // Not one of the runtime's threads: those would delay the end of the process.
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            let _ = answer.send(host.to_socket_addrs());
            drop(place);
        });
        thread
            .map_err(|error| tracing::warn!(%error, "no thread to look up a name"))
            .map_err(|()| Unknown)?;
        match answered.await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
                addresses.dedup();
                if addresses.is_empty() { Err(Unknown) } else { Ok(addresses) }
            }
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "not known to the C library");
                Err(Unknown)
            }
            Err(_) => Err(Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_c_library_is_asked_in_a_bounded_number_of_threads() {
        let library = CLibrary::default();
        // On every machine the library resolves an address given as a name.
        assert_eq!(library.find("127.0.0.1").await.unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        let places = library.0.clone().acquire_many_owned(MOST_AT_A_TIME.try_into().unwrap()).await.unwrap();
        assert!(library.find("127.0.0.1").await.is_err(), "too busy");
        drop(places);
        assert!(library.find("127.0.0.1").await.is_ok());
    }
}
