//! `laneway transparent`: the rules that redirect software without proxy support to the node.

use clap::Subcommand;
use ipnet::IpNet;

use super::say;
use crate::problem::Problem;
use crate::redirect::{self, Rules, TRANSPARENT_PORT};
use crate::sys::users;
use crate::transparent::is_supported;

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
        let rules = Rules {
            v4: Some(self.to),
            v6: Some(self.to),
            only: self.only,
            except: self.except,
            except_private: self.except_private,
            to_connected: self.connected,
            user: self.user.as_deref().map(user_id).transpose()?,
        };
        redirect::install(&rules).map_err(|error| error.problem("the rules cannot be installed"))
    }
}

/// The numeric id of a user, given by name or number.
fn user_id(user: &str) -> Result<u32, Problem> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    users::id_of(user).ok_or_else(|| Problem::usage(format!("there is no user '{user}'")))
}
