//! DNS as both ends of a link need it: name servers to ask, and answers that are kept. May not know who asks, nor why.

pub mod cache;
pub mod runtime;
pub mod servers;
pub mod zone;
