//! How the trials call curl.

/// Where the web server is, as an app writes it.
pub(super) const BIG: &str = "http://10.88.0.100/big";
/// The local proxy, for curl.
pub(super) const HTTP: [&str; 2] = ["--proxy", "http://127.0.0.1:1080"];
/// The same by CONNECT.
pub(super) const TUNNEL: [&str; 3] = ["--proxy", "http://127.0.0.1:1080", "--proxytunnel"];
/// The same by SOCKS5; names are resolved behind the proxy.
pub(super) const SOCKS: [&str; 2] = ["--socks5-hostname", "127.0.0.1:1080"];
/// Every dialect that curl reaches the local proxy by.
pub(super) const DIALECTS: [&[&str]; 3] = [&HTTP, &TUNNEL, &SOCKS];

/// What curl exits with when it cannot connect.
pub(super) const CANNOT_CONNECT: i32 = 7;
