//! The demo of laneway, and the origin: the small web server that it and the tests download from.
//!
//! The demo runs the laneway program and watches its log. It knows neither the program's code nor a terminal: the path
//! of the program is a parameter, and progress is reported as [`Report`]s.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod demo;
mod download;
mod error;
mod machine;
mod network;
pub mod origin;
mod report;

pub use demo::Demo;
pub use error::Error;
pub use report::Report;
