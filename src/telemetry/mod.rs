//! What the operator sees: logs and the access line of each connection.

pub mod log;
pub mod record;
