//! `laneway env --fronts`: for each front of the running node, what to tell the tool.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::telemetry::snapshot::FrontSeen;

/// The lines, for a shell to evaluate where the tool reads a variable; what belongs into a file is a comment.
pub(super) fn lines(address: SocketAddr, fronts: &[FrontSeen]) -> String {
    let mut text = String::new();
    for FrontSeen { name, url } in fronts {
        let host = format!("http://{address}");
        let _ = match name.split_once('/').unwrap_or((name, "")) {
            ("apt", archive) => write!(
                text,
                "# apt, in /etc/apt/sources.list.d/{archive}.list, for {url}:\n\
                 #   deb {host}/apt/{archive}/ SUITE COMPONENT\n\
                 # and, if apt uses a proxy, in /etc/apt/apt.conf.d/31laneway-fronts:\n\
                 #   Acquire::http::Proxy::{} \"DIRECT\";\n",
                address.ip()
            ),
            ("pypi", _) => write!(
                text,
                "# pip and uv, for {url}:\n\
                 export PIP_INDEX_URL='{host}/pypi/';\n\
                 export UV_DEFAULT_INDEX='{host}/pypi/';\n"
            ),
            ("npm", _) => write!(text, "# npm, for {url}:\nexport npm_config_registry='{host}/npm/';\n"),
            ("crates", _) => write!(
                text,
                "# cargo, for {url}: its own name for it, or in ~/.cargo/config.toml in place of the default registry\n\
                 #   [source.crates-io]\n\
                 #   replace-with = \"laneway\"\n\
                 #   [source.laneway]\n\
                 #   registry = \"sparse+{host}/crates/\"\n\
                 export CARGO_REGISTRIES_LANEWAY_INDEX='sparse+{host}/crates/';\n"
            ),
            ("oci", _) => {
                let registry =
                    url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).trim_end_matches('/');
                write!(
                    text,
                    "# skopeo, podman and buildah, in /etc/containers/registries.conf.d/laneway.conf, for {url}:\n\
                     #   [[registry]]\n\
                     #   location = \"{registry}\"\n\
                     #   [[registry.mirror]]\n\
                     #   location = \"{address}\"\n\
                     #   insecure = true\n\
                     # containerd, in /etc/containerd/certs.d/{registry}/hosts.toml:\n\
                     #   [host.\"{host}\"]\n\
                     #   capabilities = [\"pull\", \"resolve\"]\n"
                )
            }
            _ => Ok(()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_front_has_its_lines() {
        let seen = |name: &str| FrontSeen {
            name: name.into(),
            url: format!("https://{}.example/", name.replace('/', ".")),
        };
        let all: Vec<_> = ["apt/debian", "pypi", "npm", "crates", "oci"].map(seen).into();
        let text = lines("127.0.0.1:1080".parse().unwrap(), &all);
        for line in [
            "#   deb http://127.0.0.1:1080/apt/debian/ SUITE COMPONENT",
            "export PIP_INDEX_URL='http://127.0.0.1:1080/pypi/';",
            "export UV_DEFAULT_INDEX='http://127.0.0.1:1080/pypi/';",
            "export npm_config_registry='http://127.0.0.1:1080/npm/';",
            "export CARGO_REGISTRIES_LANEWAY_INDEX='sparse+http://127.0.0.1:1080/crates/';",
            "#   location = \"oci.example\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("export ")));
    }
}
