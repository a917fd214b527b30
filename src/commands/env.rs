//! `laneway env`: the variables that point software to the local proxy, for a shell to evaluate. `laneway run`: a command
//! with those variables. `laneway apt-proxy`: the proxy for apt.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

use clap::ValueEnum;

use super::ask::LocalPort;
use super::say;
use crate::problem::Problem;

/// The exceptions from the proxy: this machine itself, in the forms that software recognises.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// The name of the host in containers on Docker's default bridge.
const DOCKER_HOST: &str = "host.docker.internal";

/// The syntax of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash: `eval "$(laneway env)"`
    #[default]
    Sh,
    /// fish: `laneway env --shell fish | source`
    Fish,
    /// PowerShell: `laneway env --shell powershell | Out-String | Invoke-Expression`
    Powershell,
}

/// A variable.
struct Variable {
    name: &'static str,
    value: String,
    /// For a list: the variable of the same meaning in the other case.
    list: Option<&'static str>,
}

/// The prefix of the variables that keep what was there before: `v` and the value, or `n` for none.
const SAVED: &str = "LANEWAY_SAVED_";

impl Shell {
    /// Code that saves the variable, unless an earlier evaluation has saved it, and then sets it. A list keeps the entries
    /// that it had, or those of its other name.
    fn set(self, Variable { name, value, list }: &Variable) -> String {
        let saved = format!("{SAVED}{name}");
        match (self, list) {
            (Self::Sh, None) => format!(
                "[ -n \"${{{saved}+x}}\" ] || export {saved}=\"${{{name}+v}}${{{name}-n}}\";\nexport {name}='{value}';\n"
            ),
            (Self::Sh, Some(other)) => format!(
                "[ -n \"${{{saved}+x}}\" ] || export {saved}=\"${{{name}+v}}${{{name}-n}}\";\n\
                 [ -n \"${{{name}-}}\" ] || {name}=\"${{{other}-}}\";\n\
                 [ \"${{{name}#*{value}}}\" != \"${{{name}}}\" ] || {name}=\"${{{name}:+${name},}}{value}\";\n\
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
                 else if not string match -q -- '*{value}*' \"${name}\"; set -gx {name} \"${name},{value}\"; end;\n"
            ),
            (Self::Powershell, None) => format!(
                "if (-not $Env:{saved}) {{ $Env:{saved} = if (Test-Path Env:{name}) {{ 'v' + $Env:{name} }} else {{ 'n' }} }}\n\
                 $Env:{name} = '{value}'\n"
            ),
            (Self::Powershell, Some(other)) => format!(
                "if (-not $Env:{saved}) {{ $Env:{saved} = if (Test-Path Env:{name}) {{ 'v' + $Env:{name} }} else {{ 'n' }} }}\n\
                 if (-not $Env:{name}) {{ $Env:{name} = $Env:{other} }}\n\
                 if (-not $Env:{name}) {{ $Env:{name} = '{value}' }} \
                 elseif (-not $Env:{name}.Contains('{value}')) {{ $Env:{name} += ',{value}' }}\n"
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
            Self::Powershell => format!(
                "if ($Env:{saved}) {{ if ($Env:{saved} -eq 'n') {{ Remove-Item Env:{name} -ErrorAction SilentlyContinue }} \
                 else {{ $Env:{name} = $Env:{saved}.Substring(1) }}; Remove-Item Env:{saved} }}\n"
            ),
        }
    }
}

/// Selects the variables.
#[derive(Debug, clap::Args)]
struct Selection {
    #[command(flatten)]
    port: LocalPort,
    /// Also set ALL_PROXY to SOCKS5, with names resolved at the gateway
    #[arg(long)]
    socks: bool,
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
    /// Print '--env' options for 'docker run', with the address at which containers reach this machine; the node must
    /// listen there
    #[arg(long, conflicts_with_all = ["shell", "unset"])]
    docker: bool,
}

/// `laneway run`
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    selection: Selection,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `laneway apt-proxy`
#[derive(Debug, clap::Args)]
pub struct AptProxy {
    #[command(flatten)]
    port: LocalPort,
    /// The address that apt is going to fetch; the answer does not depend on it
    #[arg(value_name = "URL")]
    url: Option<String>,
}

impl Env {
    /// Prints the lines.
    ///
    /// # Errors
    /// When the configuration file is not valid.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.selection.port.address()?;
        if self.docker {
            say(docker(address, self.selection.socks).trim_end());
            return Ok(());
        }
        let mut lines = String::new();
        for variable in variables(&address.to_string(), self.selection.socks || self.unset) {
            lines += &match self.unset {
                false => self.shell.set(&variable),
                true => self.shell.restore(variable.name),
            };
        }
        say(lines.trim_end());
        Ok(())
    }
}

impl Run {
    /// Replaces this process with the command, which then receives the signals and sets the exit code.
    ///
    /// # Errors
    /// When it cannot be started, with a shell's exit code (POSIX 2.8.2): 127 when the program is not found, else 126.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.selection.port.address()?.to_string();
        let (program, arguments) = self.command.split_first().expect("the command line requires one");
        let mut command = Command::new(program);
        command.args(arguments);
        for Variable { name, value, list } in variables(&address, self.selection.socks) {
            let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
            match list.and_then(|other| own(name).or_else(|| own(other))) {
                Some(entries) => command.env(name, with_entries(entries, &value)),
                None => command.env(name, value),
            };
        }
        let error = crate::sys::process::replace(&mut command);
        let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
        let problem = Problem::new(format!("'{}' cannot be run", program.to_string_lossy()));
        Err(problem.because(error).exiting(code))
    }
}

impl AptProxy {
    /// Prints the proxy's address while a node runs there, else `DIRECT`, as apt expects from an
    /// `Acquire::http::Proxy-Auto-Detect` program.
    ///
    /// # Errors
    /// When the configuration file is not valid.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.port.address()?;
        match super::ask::status(address) {
            Ok(_) => say(format_args!("http://{address}")),
            Err(_) => say("DIRECT"),
        }
        Ok(())
    }
}

/// The entries of a user's list, followed by those of `more` that are not in it.
fn with_entries(mut entries: OsString, more: &str) -> OsString {
    let known = entries.to_string_lossy().into_owned();
    let known: Vec<_> = known.split([',', ' ']).collect();
    for entry in more.split(',').filter(|entry| !known.contains(entry)) {
        entries.push(",");
        entries.push(entry);
    }
    entries
}

/// The variables. In lower and upper case, since software reads one or the other; curl reads http_proxy in lower case
/// only.
fn variables(address: &str, socks: bool) -> Vec<Variable> {
    let variable = |name, value: &str| Variable { name, value: value.into(), list: None };
    let http = format!("http://{address}");
    let mut variables: Vec<_> =
        ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"].map(|name| variable(name, &http)).into();
    for (name, other) in [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")] {
        variables.push(Variable { list: Some(other), ..variable(name, NO_PROXY) });
    }
    // Makes Node.js use the variables.
    variables.push(variable("NODE_USE_ENV_PROXY", "1"));
    if socks {
        let socks = format!("socks5h://{address}");
        variables.extend(["ALL_PROXY", "all_proxy"].map(|name| variable(name, &socks)));
    }
    variables
}

/// Options for `docker run`. A loopback address would be the container's own, so the host's name replaces it.
fn docker(address: SocketAddr, socks: bool) -> String {
    let reached = match address.ip().is_loopback() {
        true => format!("{DOCKER_HOST}:{}", address.port()),
        false => address.to_string(),
    };
    let mut line = format!("--add-host={DOCKER_HOST}:host-gateway");
    for Variable { name, value, .. } in variables(&reached, socks) {
        let _ = write!(line, " --env {name}={value}");
    }
    line
}
