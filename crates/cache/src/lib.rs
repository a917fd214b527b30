//! A shared HTTP cache: its rules (RFC 9111), without I/O, and its files. Who fetches, and for whom, is decided by the gateway.

pub mod answer;
pub mod control;
pub mod digest;
pub mod draft;
pub mod growing;
pub mod inspect;
pub mod partial;
pub mod pieces;
pub mod policy;
pub mod store;
pub mod stored;
