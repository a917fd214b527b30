//! The path of a CONNECT-UDP request, which contains the destination (RFC 9298 §2, the default template).

use super::target::{Host, Target};

/// The protocol in the extended CONNECT request (RFC 9298 §3.4, RFC 8441 §4).
pub const PROTOCOL: &str = "connect-udp";

const PREFIX: &str = "/.well-known/masque/udp/";

/// The path for `target`. An IPv6 address is written without brackets, and its colons are percent-encoded.
pub fn path(target: &Target) -> String {
    let host = match &target.host {
        Host::Name(name) => name.clone(),
        Host::Address(ip) => ip.to_string().replace(':', "%3A"),
    };
    format!("{PREFIX}{host}/{}/", target.port)
}

/// The destination in a path; `None` if the path contains no valid destination.
pub fn target(path: &str) -> Option<Target> {
    let (host, port) = path.strip_prefix(PREFIX)?.strip_suffix('/')?.split_once('/')?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only colons need to be encoded in a name or an address. IPv6 zones are not accepted.
    let host = host.replace("%3A", ":").replace("%3a", ":");
    Target::new(&host, port.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_are_written_and_read() {
        for (text, wanted) in [
            ("192.0.2.6:443", "/.well-known/masque/udp/192.0.2.6/443/"),
            ("[2001:db8::42]:443", "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/"),
            ("target.example.org:443", "/.well-known/masque/udp/target.example.org/443/"),
        ] {
            let wanted_target: Target = text.parse().unwrap();
            assert_eq!(path(&wanted_target), wanted);
            assert_eq!(target(wanted), Some(wanted_target));
        }
    }

    #[test]
    fn what_is_no_destination_is_none() {
        for path in [
            "/",
            "/.well-known/masque/udp/192.0.2.6/443",
            "/.well-known/masque/udp/192.0.2.6/0/",
            "/.well-known/masque/udp/192.0.2.6/+1/",
            "/.well-known/masque/udp/192.0.2.6//",
            "/.well-known/masque/udp//443/",
            "/.well-known/masque/udp/a%2Fb/443/",
            "/.well-known/masque/udp/fe80%3A%3A1%25lo/443/",
            "/.well-known/masque/udp/a/443/?x=y/",
            "/.well-known/masque/udp/*/443/",
        ] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused_and_reads_back(tail in "[a-fA-F0-9:%/.x_-]{0,40}") {
            if let Some(read) = target(&format!("{PREFIX}{tail}")) {
                prop_assert_eq!(target(&path(&read)), Some(read));
            }
        }
    }
}
