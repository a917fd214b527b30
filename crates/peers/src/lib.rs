//! Who else is there: finding gateways, what is known of them, and who among them is active.

pub mod candidate;
pub mod capacity;
pub mod directory;
pub mod discovery;
mod keyring;
pub mod remembered;
pub mod selection;
pub mod signer;
pub mod survey;
pub mod uplink;
