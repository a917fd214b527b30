//! A shared HTTP cache: its rules (RFC 9111), without I/O, and its files. The gateway decides who fetches, and for whom.

pub mod answer;
pub mod control;
pub mod digest;
pub mod draft;
pub mod growing;
pub mod inspect;
pub mod partial;
pub mod pieces;
pub mod policy;
pub mod ranges;
pub mod store;
pub mod stored;
