//! The other nodes: finding gateways, what is known of them, and which of them are active.

pub mod activity;
pub mod boot;
pub mod candidate;
pub mod capacity;
pub mod directory;
pub mod discovery;
mod keyring;
pub mod options;
pub mod remembered;
pub mod selection;
pub mod signer;
pub mod survey;
pub mod uplink;
mod verifier;
