//! The link.

pub mod tls;
