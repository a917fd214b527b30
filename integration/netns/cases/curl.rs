//! How the trials call curl.

/// The URL of the file on the web server.
pub(super) const BIG: &str = "http://10.88.0.100/big";
/// curl's options for the local proxy: plain HTTP.
pub(super) const HTTP: [&str; 2] = ["--proxy", "http://127.0.0.1:1080"];
/// HTTP CONNECT.
pub(super) const TUNNEL: [&str; 3] = ["--proxy", "http://127.0.0.1:1080", "--proxytunnel"];
/// SOCKS5, with names resolved behind the proxy.
pub(super) const SOCKS: [&str; 2] = ["--socks5-hostname", "127.0.0.1:1080"];
/// Every dialect that curl speaks to the local proxy.
pub(super) const DIALECTS: [&[&str]; 3] = [&HTTP, &TUNNEL, &SOCKS];

/// curl's exit code when it cannot connect.
pub(super) const CANNOT_CONNECT: i32 = 7;
