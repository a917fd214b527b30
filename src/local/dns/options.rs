//! The options of the local name server.

use std::net::SocketAddr;

use crate::dns::zone::Zone;
use crate::peers::options::changed;
use crate::problem::Problem;

/// The options of the local name server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Local name server")]
#[group(skip)]
pub struct Options {
    /// Where the local name server listens, UDP and TCP; it resolves names as the gateway does; repeatable
    /// [default: nowhere]
    #[arg(long, env = "LANEWAY_DNS", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub dns: Vec<SocketAddr>,
    /// A domain whose names another name server resolves instead of the gateway, like lan=192.168.1.1; repeatable
    #[arg(long, env = "LANEWAY_DNS_LOCAL", value_name = "SUFFIX=SERVER[:PORT]", value_delimiter = ',')]
    pub dns_local: Vec<Zone>,
    /// Let other machines use the local name server, when --dns is not a loopback address
    #[arg(long, env = "LANEWAY_DNS_OPEN_TO_LAN")]
    pub dns_open_to_lan: bool,
}

impl Options {
    /// Makes sure that the name server listens where it can answer, and is not opened to others by accident.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self) -> Result<(), Problem> {
        for address in &self.dns {
            if address.ip().is_unspecified() {
                let what = format!("--dns {address}: answers must come from the address that was asked");
                return Err(
                    Problem::usage(what).hint("name each address, like --dns 127.0.0.1:53,192.168.1.10:53")
                );
            }
            if !address.ip().is_loopback() && !self.dns_open_to_lan {
                let what = format!("--dns {address} would let every machine that reaches it ask the gateway");
                return Err(Problem::usage(what)
                    .hint("listen on 127.0.0.1, or set --dns-open-to-lan if that is what you want"));
            }
        }
        if self.dns.is_empty() && (!self.dns_local.is_empty() || self.dns_open_to_lan) {
            return Err(Problem::usage("--dns-local and --dns-open-to-lan do nothing without --dns")
                .hint("add --dns 127.0.0.1:53"));
        }
        Ok(())
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only. Every
    /// option is in one of the two, or the compiler warns of an unused one.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self {
            dns,
            dns_local,
            // Only checked, by `check`.
            dns_open_to_lan: _,
        } = new;
        (Live { zones: dns_local.clone() }, changed([("dns", self.dns != *dns)]))
    }
}

/// What a running node takes from new options.
pub struct Live {
    /// The zones with name servers of their own.
    pub zones: Vec<Zone>,
}
