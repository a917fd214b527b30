//! DNS as both ends of a link need it: asking name servers, and caching answers. Must not know who asks, or why.

pub mod cache;
pub mod conf;
mod exchange;
pub mod hosts;
pub mod servers;
pub mod switch;
pub mod zone;
