//! `laneway transparent`: the rules that redirect software without proxy support to the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Subcommand;
use ipnet::IpNet;

use super::say;
use crate::failure::printable;
use crate::problem::Problem;
use crate::redirect::{self, Rules, TRANSPARENT_PORT};
use crate::sys::paths;
use crate::sys::port_holder::{self, Protocol};
use crate::sys::users;
use crate::transparent::is_supported;

/// The name of this program's processes.
const NAME: &str = "laneway";

/// The nftables rules for `laneway up --transparent`.
#[derive(Debug, Subcommand)]
pub enum Transparent {
    /// Redirect the TCP connections of this machine's software to a node that runs with --transparent
    Up(Up),
    /// Remove the rules
    Down,
    /// Show the installed rules
    Show,
}

/// Selects the connections to redirect, and the port to redirect them to.
#[derive(Debug, clap::Args)]
pub struct Up {
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address is no link")]
    /// The port of 'laneway up --transparent 127.0.0.1:PORT,[::1]:PORT'
    #[arg(long, value_name = "PORT", default_value_t = TRANSPARENT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    to: u16,
    /// Redirect only connections to this network; repeatable [default: to any]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    only: Vec<IpNet>,
    /// Do not redirect connections to this network; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    except: Vec<IpNet>,
    /// Do not redirect connections to private networks: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7
    #[arg(long)]
    except_private: bool,
    /// Redirect also connections to the networks that this machine is connected to now [default: they go there directly]
    #[arg(long)]
    connected: bool,
    /// Do not redirect connections of this user
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// Install the rules even if nothing listens on the port: until then all these connections are refused
    #[arg(long)]
    no_check: bool,
}

impl Transparent {
    /// Installs, removes or shows the rules.
    ///
    /// # Errors
    /// When the rules cannot be changed or read.
    pub fn run(self) -> Result<(), Problem> {
        is_supported()?;
        match self {
            Self::Up(up) => up.run(),
            Self::Down => redirect::remove().map_err(|error| error.problem("the rules cannot be removed")),
            Self::Show => {
                let table = redirect::installed();
                let table = table.map_err(|error| error.problem("the rules cannot be shown"))?;
                let text = table.map(|table| table.text);
                say(text.as_deref().unwrap_or("no connections are redirected to laneway").trim_end());
                Ok(())
            }
        }
    }
}

impl Up {
    fn run(self) -> Result<(), Problem> {
        let (v4, v6) = if self.no_check { (true, true) } else { self.served()? };
        let rules = Rules {
            v4: v4.then_some(self.to),
            v6: v6.then_some(self.to),
            only: self.only,
            except: self.except,
            except_private: self.except_private,
            to_connected: self.connected,
            user: self.user.as_deref().map(user_id).transpose()?,
        };
        redirect::install(&rules).map_err(|error| error.problem("the rules cannot be installed"))
    }

    /// Whether the port is served over IPv4 and over IPv6. A connection that is redirected to a port where nothing listens is
    /// refused.
    ///
    /// # Errors
    /// When it is served over neither, or by another program.
    fn served(&self) -> Result<(bool, bool), Problem> {
        let port = self.to;
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let [v4, v6] = addresses.map(|ip| redirect::listens(ip, port));
        let sudo = if paths::is_administrator() { "" } else { "sudo " };
        let start = format!("'{sudo}laneway up --transparent 127.0.0.1:{port},[::1]:{port}'");
        if !v4 && !v6 {
            return Err(Problem::new(format!(
                "nothing listens on port {port}, to which connections are to be redirected"
            ))
            .after(Problem::new("with the rules every TCP connection of this machine would be refused"))
            .hint(format!("start the node first: {start}")));
        }
        let first = SocketAddr::new(addresses[usize::from(!v4)], port);
        if let Some(program) = port_holder::find(Protocol::Tcp, first).filter(|program| program.name != NAME)
        {
            return Err(Problem::new(format!("what listens on {first} is not a laneway node"))
                .after(Problem::new(format!("it is {} (process {})", printable(&program.name), program.process)))
                .hint(format!("name the port of the node's --transparent with --to; {start} starts one; --no-check installs the rules anyway")));
        }
        for (is_served, version, address) in [(v4, "IPv4", addresses[0]), (v6, "IPv6", addresses[1])] {
            if !is_served {
                let address = SocketAddr::new(address, port);
                say(format_args!(
                    "Nothing listens on {address}: connections over {version} are not redirected."
                ));
            }
        }
        Ok((v4, v6))
    }
}

/// The numeric id of a user, given by name or number.
fn user_id(user: &str) -> Result<u32, Problem> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    users::id_of(user).ok_or_else(|| Problem::usage(format!("there is no user '{user}'")))
}
