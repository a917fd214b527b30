//! `laneway transparent`: the rules that lead software here which knows nothing of a proxy.

use clap::Subcommand;
use ipnet::IpNet;
use nix::unistd::User;

use super::say;
use crate::config::TRANSPARENT_PORT;
use crate::problem::Problem;
use crate::redirect::{self, Rules};

/// The rules of nftables for `laneway up --transparent`.
#[derive(Debug, Subcommand)]
pub enum Transparent {
    /// Lead the TCP connections of this machine's software to a node that runs with --transparent
    Up(Up),
    /// Take the rules away
    Down,
    /// Show the rules that are in force
    Show,
}

/// Which connections, and whereto.
#[derive(Debug, clap::Args)]
pub struct Up {
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address is no link")]
    /// The port of 'laneway up --transparent 127.0.0.1:PORT,[::1]:PORT'
    #[arg(long, value_name = "PORT", default_value_t = TRANSPARENT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    to: u16,
    /// Only connections to this network; repeatable [default: to any]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    only: Vec<IpNet>,
    /// No connections to this network; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    except: Vec<IpNet>,
    /// No connections to private networks: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7
    #[arg(long)]
    except_private: bool,
    /// No connections of this user: needed where the node runs as one without CAP_NET_ADMIN, and cannot mark its own
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
}

impl Transparent {
    /// Does it.
    ///
    /// # Errors
    /// When the rules cannot be changed or read.
    pub fn run(self) -> Result<(), Problem> {
        match self {
            Self::Up(up) => up.run(),
            Self::Down => redirect::remove().map_err(|error| error.problem("the rules are not removed")),
            Self::Show => {
                let table = redirect::show().map_err(|error| error.problem("the rules cannot be shown"))?;
                say(table.as_deref().unwrap_or("no connections are led to laneway").trim_end());
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
            user: self.user.as_deref().map(number).transpose()?,
        };
        rules.install().map_err(|error| error.problem("the rules are not installed"))
    }
}

/// The number of a user, by name or as such.
fn number(user: &str) -> Result<u32, Problem> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    match User::from_name(user) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(Problem::usage(format!("there is no user '{user}'"))),
    }
}
