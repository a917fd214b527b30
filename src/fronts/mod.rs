//! Fronts: a registry's own protocol at the local port, over plain HTTP on this machine, fetched by HTTPS at a gateway. Nothing
//! here does I/O: which URL of the registry a path stands for, which URLs in its indexes lead back to the local port, and which
//! digests those indexes name.

pub mod debian;
pub mod found;
pub mod html;
pub mod json;
pub mod kind;
pub mod known;
pub mod options;
pub mod place;
pub mod token;
pub mod url;
