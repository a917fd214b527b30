//! HTTP/2 (RFC 9113) as an engine without I/O, clock or runtime: requests with bodies in both directions over one
//! connection, at either end. [`Engine`] takes the bytes of the peer and gives those for the peer; [`Requests`],
//! [`SendStream`] and the other handles are used from any task meanwhile, and wake the driver's task.
//!
//! It replaces the usual library because of DATA: a payload is received straight into a pooled buffer that is still in the
//! processor's cache, and is written from where it was read. There is no push and no priority.

mod closed;
mod config;
#[cfg(test)]
mod conformance;
mod control;
mod counts;
mod engine;
mod error;
mod fields;
mod frame;
mod handle;
pub mod hpack;
mod ownerless;
mod piece_queue;
mod ping;
mod reader;
mod recv;
mod send;
mod settings;
mod shutdown;
mod store;
mod stream;
mod streams;
#[cfg(test)]
mod testing;
mod waker;
mod writer;

pub use config::{Config, Side};
pub use engine::{Accepted, Engine, Finish};
pub use error::{Error, Reason};
pub use fields::Protocol;
pub use handle::{PingPong, RecvStream, Requests, ResponseFuture, SendResponse, SendStream};
pub use piece_queue::PieceQueue;
pub use writer::MAX_PIECES;

#[cfg(test)]
mod tests;
