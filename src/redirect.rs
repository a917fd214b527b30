//! Redirects connections of this machine's software to the transparent port (Linux), with one nftables table and one
//! interface that carries the default route of last resort. No other rule, table, route or interface is touched.
//!
//! A machine on an isolated network has no route to the server, and without a route no connection starts. The default
//! route points to the interface, and the table redirects each connection before it gets there. Anything else that
//! would leave through the interface is rejected.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;

use crate::mark;
use crate::problem::Problem;

/// The table, of family `inet`.
const TABLE: &str = "laneway";
/// The interface of the route of last resort, one end of a veth pair. No packet ever leaves through it.
const INTERFACE: &str = "laneway0";
const OTHER_END: &str = "laneway1";
/// The IPv6 source address of software on a machine that has no other. It is a unique local address (RFC 4193) and
/// never leaves the machine.
const ADDRESS: &str = "fd6c:616e:6577:6179::1/128";
/// Metric of the default route: any other default route is preferred.
const LAST: u32 = u32::MAX;

/// Destinations that are never redirected, IPv4 and IPv6: this machine itself, and addresses valid on one network
/// only.
const LOCAL: [&str; 2] =
    ["127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255", "::1, fe80::/10, ff00::/8"];
/// Private networks (RFC 1918, RFC 4193) and the shared address space (RFC 6598).
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// Which connections are redirected, and to which ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The port on 127.0.0.1 for IPv4 connections; `None` leaves them alone.
    pub v4: Option<u16>,
    /// The port on ::1 for IPv6 connections; `None` leaves them alone.
    pub v6: Option<u16>,
    /// Redirect only connections to these networks; empty means all.
    pub only: Vec<IpNet>,
    /// Do not redirect connections to these networks.
    pub except: Vec<IpNet>,
    /// Do not redirect connections to private networks.
    pub except_private: bool,
    /// A user whose connections are left alone. Connections that a node has marked are always left alone.
    pub user: Option<u32>,
}

/// Why the rules could not be installed, removed or read.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The program is not installed.
    #[error("'{0}' is not installed")]
    Missing(&'static str),
    /// The user lacks the permission.
    #[error("{0}")]
    Forbidden(String),
    /// The program failed.
    #[error("{program}: {complaint}")]
    Refused {
        /// The program's name.
        program: &'static str,
        /// The first line of its error output.
        complaint: String,
    },
    /// The program could not be run.
    #[error("cannot run '{0}'")]
    Io(&'static str, #[source] io::Error),
}

impl RedirectError {
    /// The error as a problem for the user, with a hint.
    pub fn problem(self, what: &str) -> Problem {
        let hint = match self {
            Self::Missing("nft") => Some("install nftables (apt install nftables)"),
            Self::Missing(_) => Some("install iproute2 (apt install iproute2)"),
            Self::Forbidden(_) => Some("run this as root, or with CAP_NET_ADMIN"),
            Self::Refused { .. } | Self::Io(..) => None,
        };
        let problem = Problem::new(what).because(self);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl Rules {
    /// Installs these rules and replaces those of an earlier call or a killed node.
    ///
    /// # Errors
    /// [`RedirectError`]; then nothing is installed.
    pub fn install(&self) -> Result<(), RedirectError> {
        run("nft", &["-f", "-"], &self.text())?;
        if let Err(error) = add_interface() {
            // Needed only where there is no route; a machine that has one works without it.
            tracing::warn!(%error, "no route of last resort: what has no route still fails");
        }
        Ok(())
    }

    /// The table in the syntax of `nft -f`; it replaces the old one atomically.
    fn text(&self) -> String {
        let networks = |list: &[IpNet], v4: bool| {
            let family: Vec<_> = list.iter().filter(|net| net.addr().is_ipv4() == v4).copied().collect();
            let texts: Vec<_> = IpNet::aggregate(&family).iter().map(IpNet::to_string).collect();
            texts.join(", ")
        };
        let private = PRIVATE.iter().filter(|_| self.except_private).filter_map(|text| text.parse().ok());
        let except: Vec<IpNet> = self.except.iter().copied().chain(private).collect();
        let mut rules = format!("meta mark {:#x} return\n", mark::OWN);
        let mut rule = |text: String| writeln!(rules, "{text}").expect("a string grows");
        if let Some(user) = self.user {
            rule(format!("meta skuid {user} return"));
        }
        rule("fib daddr type local return".into());
        for (v4, protocol, family, port) in [(true, "ip", "ipv4", self.v4), (false, "ip6", "ipv6", self.v6)] {
            let Some(port) = port else { continue };
            rule(format!("{protocol} daddr {{ {} }} return", LOCAL[usize::from(!v4)]));
            let (only, except) = (networks(&self.only, v4), networks(&except, v4));
            if !except.is_empty() {
                rule(format!("{protocol} daddr {{ {except} }} return"));
            }
            match (self.only.is_empty(), only.is_empty()) {
                (true, _) => rule(format!("meta nfproto {family} meta l4proto tcp redirect to :{port}")),
                (_, false) => {
                    rule(format!("{protocol} daddr {{ {only} }} meta l4proto tcp redirect to :{port}"))
                }
                (_, true) => {}
            }
        }
        format!(
            "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\
             comment \"made by laneway; laneway transparent down removes it\"\n\
             chain output {{\ntype nat hook output priority -100; policy accept;\n\
             meta l4proto != tcp return\n{rules}}}\n\
             chain last {{\ntype filter hook output priority 0; policy accept;\n\
             ct status dnat accept\noifname \"{INTERFACE}\" reject with icmpx no-route\n}}\n}}\n"
        )
    }
}

/// Removes everything that [`Rules::install`] has installed, if anything.
///
/// # Errors
/// [`RedirectError`].
pub fn remove() -> Result<(), RedirectError> {
    run("nft", &["-f", "-"], &format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))?;
    remove_interface()
}

/// The installed table, or `None` if there is none.
///
/// # Errors
/// [`RedirectError`].
pub fn show() -> Result<Option<String>, RedirectError> {
    match run("nft", &["list", "table", "inet", TABLE], "") {
        Ok(text) => Ok(Some(text)),
        Err(RedirectError::Refused { complaint, .. }) if complaint.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

fn add_interface() -> Result<(), RedirectError> {
    remove_interface()?;
    run(
        "ip",
        &["-batch", "-"],
        &format!(
            "link add {INTERFACE} type veth peer name {OTHER_END}\n\
         link set {INTERFACE} addrgenmode none up\nlink set {OTHER_END} addrgenmode none up\n\
         route add default dev {INTERFACE} metric {LAST}\n"
        ),
    )?;
    // Where IPv6 is disabled, there is nothing to redirect.
    let v6 = format!(
        "address add {ADDRESS} dev {INTERFACE} nodad\nroute add default dev {INTERFACE} metric {LAST}\n"
    );
    if let Err(error) = run("ip", &["-6", "-batch", "-"], &v6) {
        tracing::debug!(%error, "no IPv6 route of last resort");
    }
    Ok(())
}

fn remove_interface() -> Result<(), RedirectError> {
    match run("ip", &["link", "delete", INTERFACE], "") {
        Err(RedirectError::Refused { complaint, .. }) if complaint.contains("Cannot find device") => Ok(()),
        // Without the program, the interface cannot have been created.
        Err(RedirectError::Missing(_)) => Ok(()),
        removed => removed.map(drop),
    }
}

/// Runs a system program with this input and returns its output.
fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let failed = |error| RedirectError::Io(program, error);
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RedirectError::Missing(program),
        _ => failed(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the program does not read its input, its error output says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&stderr).lines().next().unwrap_or("failed").trim().to_owned();
    let forbidden = ["Operation not permitted", "must be root", "Permission denied"];
    match forbidden.iter().any(|words| complaint.contains(words)) {
        true => Err(RedirectError::Forbidden(format!("{program}: {complaint}"))),
        false => Err(RedirectError::Refused { program, complaint }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_and_local_connections_are_left_alone_before_anything_is_led_away() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let rules = Rules {
            v4: Some(1081),
            v6: Some(1082),
            except: nets(&["10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32"]),
            user: Some(990),
            ..Rules::default()
        };
        let text = rules.text();
        let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
        let led = place("meta nfproto ipv4 meta l4proto tcp redirect to :1081");
        for exempt in [
            "meta l4proto != tcp return",
            "meta mark 0x6c616e65 return",
            "meta skuid 990 return",
            "fib daddr type local return",
            "ip daddr { 127.0.0.0/8,",
            // Overlapping networks are merged, because nft rejects them.
            "ip daddr { 10.1.0.0/16 } return",
        ] {
            assert!(place(exempt) < led, "{exempt}");
        }
        assert!(
            place("ip6 daddr { 2001:db8::/32 } return") < place("ipv6 meta l4proto tcp redirect to :1082")
        );
        assert!(text.starts_with("table inet laneway\ndelete table inet laneway\n"));
        let private = Rules { except_private: true, ..rules }.text();
        assert!(private.contains("10.0.0.0/8") && private.contains("fc00::/7"), "{private}");
    }

    #[test]
    fn only_what_was_named_is_led_away() {
        let only = vec!["10.88.0.0/24".parse().unwrap()];
        let text = Rules { v4: Some(1), v6: Some(2), only, ..Rules::default() }.text();
        let led: Vec<_> = text.lines().filter(|line| line.contains("redirect")).collect();
        assert_eq!(led, ["ip daddr { 10.88.0.0/24 } meta l4proto tcp redirect to :1"]);
    }
}
