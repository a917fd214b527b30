//! `laneway env`: the variables that point software to the local proxy, for a shell to evaluate. `laneway apt-proxy`: the
//! proxy for apt.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::ValueEnum;

use super::ask::reachable;
use super::local_port::{LocalPort, Unusable};
use super::say;
use super::system_proxy::{self, Switch};
use crate::config::{self, PROXY_PORT};
use crate::fronts::kind::Kind;
use crate::lan;
use crate::problem::Problem;
use crate::sys::process;
use crate::telemetry::snapshot::Snapshot;

/// The exceptions from the proxy: this machine itself, in the forms that software recognises.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// The exceptions that leave nothing to the proxy.
pub(super) const EVERYTHING: &str = "*";
/// The name of the host in containers, where `--add-host` maps it to the host's address on the bridge.
const DOCKER_HOST: &str = "host.docker.internal";
/// The interfaces of Docker's and Podman's default bridges.
const BRIDGES: [&str; 3] = ["docker0", "podman0", "cni-podman0"];
/// The address of the host on Docker's default bridge, unless Docker is configured otherwise.
const DOCKER_BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

/// The syntax of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash: `eval "$(laneway env)"`
    Sh,
    /// fish: `laneway env --shell fish | source`
    Fish,
    /// csh, tcsh: ``eval "`laneway env --shell csh`"``
    Csh,
    /// PowerShell: `laneway env --shell powershell | Out-String | Invoke-Expression`
    Powershell,
    /// cmd.exe: `laneway env --shell cmd > p.cmd & call p.cmd`
    Cmd,
}

impl Default for Shell {
    /// The shell that users of this system have.
    fn default() -> Self {
        if process::HAS_POSIX_SHELL { Self::Sh } else { Self::Powershell }
    }
}

/// A variable.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// For a list: the variable of the same meaning in the other case.
    pub(super) list: Option<&'static str>,
}

/// The prefix of the variables that keep what was there before: `v` and the value, or `n` for none.
const SAVED: &str = "LANEWAY_OLD_";

impl Shell {
    /// Code that saves the variable, unless an earlier evaluation has saved it, and then sets it. A list keeps the entries
    /// that it had, or those of its other name; to `*` nothing is added, which would take its meaning for much software.
    fn set(self, Variable { name, value, list }: &Variable) -> String {
        let saved = format!("{SAVED}{name}");
        // A batch file has the values of variables between percent signs.
        let value = if self == Self::Cmd { &value.replace('%', "%%") } else { value };
        match (self, list) {
            (Self::Sh, None) => format!(
                "[ -n \"${{{saved}+x}}\" ] || export {saved}=\"${{{name}+v}}${{{name}-n}}\";\nexport {name}='{value}';\n"
            ),
            (Self::Sh, Some(other)) => format!(
                "[ -n \"${{{saved}+x}}\" ] || export {saved}=\"${{{name}+v}}${{{name}-n}}\";\n\
                 [ -n \"${{{name}-}}\" ] || {name}=\"${{{other}-}}\";\n\
                 [ \"${{{name}}}\" = '*' ] || [ \"${{{name}#*{value}}}\" != \"${{{name}}}\" ] || {name}=\"${{{name}:+${name},}}{value}\";\n\
                 export {name};\n"
            ),
            (Self::Fish, None) => format!(
                "set -q {saved}; or if set -q {name}; set -gx {saved} \"v${name}\"; else; set -gx {saved} n; end;\n\
                 set -gx {name} '{value}';\n"
            ),
            (Self::Fish, Some(other)) => format!(
                "set -q {saved}; or if set -q {name}; set -gx {saved} \"v${name}\"; else; set -gx {saved} n; end;\n\
                 if test -z \"${name}\"; set -gx {name} \"${other}\"; end;\n\
                 if test -z \"${name}\"; set -gx {name} '{value}'; \
                 else if test \"${name}\" != '*'; and not string match -q -- '*{value}*' \"${name}\"; set -gx {name} \"${name},{value}\"; end;\n"
            ),
            // All of a line is substituted before any of it runs, so what uses a variable that may not be set is evaluated later.
            (Self::Csh, list) => {
                let save = format!(
                    "if (! $?{saved} && $?{name}) eval 'setenv {saved} v${name}:q';\n\
                     if (! $?{saved}) setenv {saved} n;\n"
                );
                save + &match list {
                    None => format!("setenv {name} '{value}';\n"),
                    Some(other) => format!(
                        "if (! $?{name}) setenv {name} '';\n\
                         if (x${name}:q == x && $?{other}) eval 'setenv {name} ${other}:q';\n\
                         if (x${name}:q == x) setenv {name} '{value}';\n\
                         if (x${name}:q != 'x*' && x${name}:q !~ *{value}*) setenv {name} ${name}:q,{value};\n"
                    ),
                }
            }
            (Self::Powershell, None) => format!(
                "if (-not $Env:{saved}) {{ $Env:{saved} = if (Test-Path Env:{name}) {{ 'v' + $Env:{name} }} else {{ 'n' }} }}\n\
                 $Env:{name} = '{value}'\n"
            ),
            (Self::Powershell, Some(other)) => format!(
                "if (-not $Env:{saved}) {{ $Env:{saved} = if (Test-Path Env:{name}) {{ 'v' + $Env:{name} }} else {{ 'n' }} }}\n\
                 if (-not $Env:{name}) {{ $Env:{name} = $Env:{other} }}\n\
                 if (-not $Env:{name}) {{ $Env:{name} = '{value}' }} \
                 elseif ($Env:{name} -ne '*' -and -not $Env:{name}.Contains('{value}')) {{ $Env:{name} += ',{value}' }}\n"
            ),
            // On Windows both cases of a name are the same variable.
            (Self::Cmd, None) => format!(
                "@if not defined {saved} (if defined {name} (set \"{saved}=v%{name}%\") else (set \"{saved}=n\"))\n\
                 @set \"{name}={value}\"\n"
            ),
            (Self::Cmd, Some(_)) => format!(
                "@if not defined {saved} (if defined {name} (set \"{saved}=v%{name}%\") else (set \"{saved}=n\"))\n\
                 @if not defined {name} (set \"{name}={value}\") else if not \"%{name}%\"==\"*\" (\
                 echo \"%{name}%\" | findstr /c:\"{value}\" >nul || set \"{name}=%{name}%,{value}\")\n"
            ),
        }
    }

    /// Code that restores a variable that [`Shell::set`] has saved, and leaves it alone otherwise.
    fn restore(self, name: &str) -> String {
        let saved = format!("{SAVED}{name}");
        match self {
            Self::Sh => format!(
                "if [ -n \"${{{saved}+x}}\" ]; then if [ \"${{{saved}}}\" = n ]; then unset {name}; \
                 else export {name}=\"${{{saved}#v}}\"; fi; unset {saved}; fi;\n"
            ),
            Self::Fish => format!(
                "if set -q {saved}; if test \"${saved}\" = n; set -e {name}; \
                 else; set -gx {name} (string sub -s 2 -- \"${saved}\"); end; set -e {saved}; end;\n"
            ),
            Self::Csh => format!(
                "if ($?{saved}) eval 'if (x${saved}:q == xn) unsetenv {name}';\n\
                 if ($?{saved}) eval 'if (x${saved}:q != xn) setenv {name} ${saved}:s/v//:q';\n\
                 unsetenv {saved};\n"
            ),
            Self::Powershell => format!(
                "if ($Env:{saved}) {{ if ($Env:{saved} -eq 'n') {{ Remove-Item Env:{name} -ErrorAction SilentlyContinue }} \
                 else {{ $Env:{name} = $Env:{saved}.Substring(1) }}; Remove-Item Env:{saved} }}\n"
            ),
            Self::Cmd => format!(
                "@if defined {saved} (if \"%{saved}%\"==\"n\" (set \"{name}=\") else (set \"{name}=%{saved}:~1%\"))\n\
                 @set \"{saved}=\"\n"
            ),
        }
    }
}

/// Selects the variables.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    #[command(flatten)]
    pub(super) port: LocalPort,
    /// Also set ALL_PROXY to SOCKS5, with names resolved at the gateway
    #[arg(long)]
    pub(super) socks: bool,
    /// Use the local proxy even if no node answers there, or it belongs to another user
    #[arg(long)]
    pub(super) no_check: bool,
}

/// `laneway env`
#[derive(Debug, clap::Args)]
pub struct Env {
    #[command(flatten)]
    selection: Selection,
    /// The shell that evaluates the output
    #[arg(long, value_enum, default_value_t)]
    shell: Shell,
    /// Restore the variables as they were before
    #[arg(long)]
    unset: bool,
    /// Set the proxy of the desktop, which browsers and most programs follow, or restore what was there before: Windows
    /// Internet Settings, GNOME, KDE Plasma, macOS
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true,
        conflicts_with_all = ["shell", "unset", "docker", "fronts", "socks"])]
    system: Option<Switch>,
    /// Print options for 'docker run' and 'podman run': the variables with the address at which containers reach the
    /// node, and '--network host' if it listens on loopback only
    #[arg(long, conflicts_with_all = ["shell", "unset"])]
    docker: bool,
    /// Print, for each front of the running node, the settings with which its tool uses it: pip, uv, npm, cargo, apt, skopeo,
    /// podman and containerd
    #[arg(long, conflicts_with_all = ["shell", "unset", "docker", "socks"])]
    fronts: bool,
}

/// `laneway apt-proxy`
#[derive(Debug, clap::Args)]
pub struct AptProxy {
    #[command(flatten)]
    port: LocalPort,
    /// Use the local proxy even if it belongs to another user
    #[arg(long)]
    no_check: bool,
    /// The address that apt is going to fetch; the answer does not depend on it
    #[arg(value_name = "URL")]
    url: Option<String>,
}

impl Env {
    /// Prints the lines, or changes the settings of the desktop, which are kept in the user's own state directory meanwhile.
    /// `state` is the one that was named, if any.
    ///
    /// # Errors
    /// When the local proxy listens on unix sockets only, nothing listens there or what does is not this machine's node, or the
    /// settings cannot be changed.
    pub fn run(self, state: Option<&Path>) -> Result<(), Problem> {
        let port = &self.selection.port;
        match self.system {
            Some(Switch::On) => {
                let address = port.address(state)?;
                self.selection.check(state, address)?;
                self.selection.warn_of_login(address);
                return system_proxy::on(address, &config::state_directory(state)?);
            }
            Some(Switch::Off) => return system_proxy::off(&config::state_directory(state)?),
            None => {}
        }
        if self.docker {
            let endpoints = port.endpoints(state)?;
            // An address that is named for containers may not be reached from here.
            if let Some(first) = endpoints.first().filter(|_| !port.is_named()) {
                self.selection.check(state, reachable(*first))?;
                self.selection.warn_of_login(reachable(*first));
            }
            let (line, warning) = docker(&endpoints, &self.selection);
            if let Some(warning) = warning {
                let _ = writeln!(std::io::stderr(), "{warning}");
            }
            say(line);
            return Ok(());
        }
        let address = port.address(state)?;
        if self.fronts {
            return self.print_fronts(state, address);
        }
        if !self.unset {
            self.selection.check(state, address)?;
            self.selection.warn_of_login(address);
            warn_of_exceptions();
        }
        let mut lines = String::new();
        for variable in variables(&port.authority(address), self.selection.socks || self.unset) {
            lines += &match self.unset {
                false => self.shell.set(&variable),
                true => self.shell.restore(variable.name),
            };
        }
        say(lines.trim_end());
        Ok(())
    }

    /// Prints the settings with which tools use the fronts at this address.
    fn print_fronts(&self, state: Option<&Path>, address: SocketAddr) -> Result<(), Problem> {
        if !self.selection.no_check {
            self.selection.port.check(state, address).map_err(Unusable::problem)?;
        }
        let Snapshot { fronts, node, .. } = super::ask::snapshot(address)?;
        if fronts.is_empty() {
            let (key, url) = (Kind::Pypi.word(), Kind::Pypi.example());
            return Err(Problem::new(format!("the node on {address} has no front")).hint(format!(
                "add  {key} = \"{url}\"  below [fronts] in laneway.toml, or start it with --front {key}={url}"
            )));
        }
        if node.needs_login {
            return Err(Problem::new(format!("the fronts of the node on {address} serve nobody"))
                .after(Problem::new("its local proxy asks for a login, with which there are none"))
                .hint("start a node without --proxy-logins and --proxy-login for fronts"));
        }
        say(super::fronts::lines(address, &fronts).trim_end());
        Ok(())
    }
}

impl AptProxy {
    /// Prints the proxy's address while a node runs there that root may use, with the login that it asks for, else `DIRECT`, as
    /// apt expects from an `Acquire::http::Proxy-Auto-Detect` program. It never fails, because apt would fail with it. `state` is
    /// the directory that was named, if any.
    pub fn run(self, state: Option<&Path>) {
        let found = self.port.address_silently(state);
        let used = found.filter(|address| match self.port.check(state, *address) {
            Ok(()) => self.port.lacks_login(*address).inspect(warn).is_none(),
            Err(Unusable::Nobody(_)) => false,
            Err(Unusable::Other(_)) if self.no_check => super::ask::status(*address).is_ok(),
            Err(Unusable::Other(problem)) => {
                warn(&problem);
                false
            }
        });
        match used {
            Some(address) => say(format_args!("http://{}", self.port.authority(address))),
            None => say("DIRECT"),
        }
    }
}

impl Selection {
    /// Says so if the local proxy asks software for a login that it does not get.
    pub(super) fn warn_of_login(&self, address: SocketAddr) {
        self.port.lacks_login(address).iter().for_each(warn);
    }

    /// Refuses to point software to another program, or to a port that nobody holds: nothing would work there, and any user's
    /// program could take it.
    fn check(&self, state: Option<&Path>, address: SocketAddr) -> Result<(), Problem> {
        if self.no_check {
            return Ok(());
        }
        self.port.check(state, address).map_err(|unusable| match unusable {
            Unusable::Nobody(problem) => {
                problem.also("to point software there before the node runs, add --no-check")
            }
            Unusable::Other(problem) => problem,
        })
    }
}

/// Says so if the user's own variables keep most software from the proxy.
pub(super) fn warn_of_exceptions() {
    let is_everything = |name: &&str| std::env::var_os(name).is_some_and(|value| value == EVERYTHING);
    if let Some(name) = ["no_proxy", "NO_PROXY"].into_iter().find(is_everything) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: {name} is '*', so most software connects directly and not through the proxy\n\
             hint: unset no_proxy NO_PROXY"
        );
    }
}

fn warn(problem: &Problem) {
    let warning = problem.to_string().replacen("error:", "warning:", 1);
    let _ = writeln!(std::io::stderr(), "{warning}");
}

/// The variables that lead to this authority of a URL. In lower and upper case, since software reads one or the other; curl
/// reads http_proxy in lower case only.
pub(super) fn variables(authority: &str, socks: bool) -> Vec<Variable> {
    let variable = |name, value: &str| Variable { name, value: value.into(), list: None };
    let http = format!("http://{authority}");
    let mut variables: Vec<_> =
        ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"].map(|name| variable(name, &http)).into();
    for (name, other) in [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")] {
        variables.push(Variable { list: Some(other), ..variable(name, NO_PROXY) });
    }
    // Makes Node.js use the variables.
    variables.push(variable("NODE_USE_ENV_PROXY", "1"));
    if socks {
        let socks = format!("socks5h://{authority}");
        variables.extend(["ALL_PROXY", "all_proxy"].map(|name| variable(name, &socks)));
    }
    variables
}

/// How a container reaches one of these addresses.
fn reach(endpoints: &[SocketAddr]) -> (Option<&'static str>, String) {
    let port = |address: &SocketAddr| address.port();
    let on_host =
        endpoints.iter().find(|address| !address.ip().is_loopback() && !address.ip().is_unspecified());
    let on_all = endpoints.iter().find(|address| address.ip().is_unspecified());
    match (on_host, on_all, endpoints.first()) {
        (Some(address), ..) => (None, address.to_string()),
        (None, Some(address), _) => {
            (Some("--add-host=host.docker.internal:host-gateway"), format!("{DOCKER_HOST}:{}", port(address)))
        }
        (None, None, first) => (Some("--network host"), first.map(SocketAddr::to_string).unwrap_or_default()),
    }
}

/// Options for `docker run`, and a warning if they connect the container to the host's network.
fn docker(endpoints: &[SocketAddr], selection: &Selection) -> (String, Option<String>) {
    let (option, reached) = reach(endpoints);
    let mut words: Vec<String> = option.map(str::to_owned).into_iter().collect();
    let set = variables(&selection.port.authority(&reached), selection.socks).into_iter();
    words.extend(set.map(|Variable { name, value, .. }| format!("--env {name}={value}")));
    let warning = endpoints.iter().all(|address| address.ip().is_loopback()).then(|| {
        let bridge = SocketAddr::new(bridge(), endpoints.first().map_or(PROXY_PORT, SocketAddr::port));
        let both = endpoints.iter().chain([&bridge]).map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        format!(
            "warning: the node listens on {reached} only, which a container on a bridge cannot reach\n\
             caused by: a container's loopback is its own, so these options put it on the host's network (--network host)\n\
             hint: for containers on a bridge run the node with\n    \
             laneway up --proxy {both} --proxy-open-to-lan\n\
             let no other machine reach {bridge}, and then use\n    \
             docker run $(laneway env --docker --proxy {bridge}) IMAGE"
        )
    });
    (words.join(" "), warning)
}

/// This machine's address on the default bridge of its containers.
fn bridge() -> IpAddr {
    let interfaces = lan::interfaces().unwrap_or_default();
    let found = BRIDGES.iter().filter_map(|name| interfaces.get(*name)).flatten();
    found.copied().find(IpAddr::is_ipv4).unwrap_or(DOCKER_BRIDGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_an_address_that_it_reaches() {
        let all =
            |text: &str| -> Vec<SocketAddr> { text.split(' ').map(|one| one.parse().unwrap()).collect() };
        for (endpoints, option, reached) in [
            ("127.0.0.1:1080", Some("--network host"), "127.0.0.1:1080"),
            ("[::1]:1080", Some("--network host"), "[::1]:1080"),
            ("127.0.0.1:1080 172.17.0.1:1081", None, "172.17.0.1:1081"),
            (
                "0.0.0.0:1080",
                Some("--add-host=host.docker.internal:host-gateway"),
                "host.docker.internal:1080",
            ),
            ("0.0.0.0:1080 10.0.0.2:1080", None, "10.0.0.2:1080"),
        ] {
            assert_eq!(reach(&all(endpoints)), (option, reached.to_owned()), "{endpoints}");
        }
    }
}
