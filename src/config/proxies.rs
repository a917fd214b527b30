//! Where the local proxy of this machine's node listens, for commands that need nothing else of the configuration. They
//! work while the file is not valid, too: a running node keeps the settings that it started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{Config, PROXY_PORT, file, read};
use crate::local::endpoint::Endpoint;
use crate::problem::Problem;

/// The addresses of the local proxy.
pub struct Proxies {
    /// The TCP addresses, in the order of the file; empty if there are only unix sockets.
    pub addresses: Vec<SocketAddr>,
    /// Why the configuration cannot be used. The addresses are then those that it names all the same, else the default.
    pub fault: Option<Fault>,
}

/// Why the configuration cannot be used.
pub struct Fault {
    /// The problem of `laneway up`.
    pub problem: Problem,
    /// Whether the file could be read, so that what it says is at fault.
    pub is_invalid: bool,
}

impl Fault {
    /// What it means for a node that runs.
    pub const FOR_THE_NODE: &str =
        "a running node keeps its settings, but a reload or restart would be refused";

    /// One line for standard error.
    pub fn warning(self) -> String {
        let (what, why, _) = self.problem.parts();
        let cause = why.join(": ").replace('\n', " ");
        let rest = if self.is_invalid { Self::FOR_THE_NODE } else { "going on with the default local proxy" };
        format!("warning: {what}: {cause}; {rest}")
    }
}

/// The TCP addresses that the local proxy of this machine's node listens on, according to the named configuration file, else
/// the one that `LANEWAY_CONFIG` names, else the default one.
pub fn configured_proxies(file: Option<&Path>) -> Proxies {
    let variable = std::env::var_os("LANEWAY_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    let file = file.or(variable.as_deref());
    match Config::of_flags(&[], file) {
        Ok(config) => Proxies { addresses: of_these(&config.local.proxy), fault: None },
        Err(problem) => {
            let text = read(file).ok().flatten().map(|(_, text)| text);
            let is_invalid = text.is_some();
            let named = file::texts(&text.unwrap_or_default(), "proxy");
            let named: Vec<Endpoint> = named.iter().filter_map(|text| text.parse().ok()).collect();
            let addresses = match named.is_empty() {
                true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_PORT))],
                false => of_these(&named),
            };
            Proxies { addresses, fault: Some(Fault { problem, is_invalid }) }
        }
    }
}

fn of_these(endpoints: &[Endpoint]) -> Vec<SocketAddr> {
    endpoints.iter().filter_map(Endpoint::address).collect()
}
