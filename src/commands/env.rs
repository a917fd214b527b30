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
    /// Unset the variables instead
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
        for (name, value) in variables(&address.to_string(), self.selection.socks || self.unset) {
            let _ = match (self.shell, self.unset) {
                (Shell::Sh, false) => writeln!(lines, "export {name}='{value}'"),
                (Shell::Sh, true) => writeln!(lines, "unset {name}"),
                (Shell::Fish, false) => writeln!(lines, "set -gx {name} '{value}'"),
                (Shell::Fish, true) => writeln!(lines, "set -e {name}"),
                (Shell::Powershell, false) => writeln!(lines, "$Env:{name} = '{value}'"),
                (Shell::Powershell, true) => {
                    writeln!(lines, "Remove-Item Env:{name} -ErrorAction SilentlyContinue")
                }
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
        command.args(arguments).envs(variables(&address, self.selection.socks));
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

/// Names and values of the variables. In lower and upper case, since software reads one or the other; curl reads
/// http_proxy in lower case only.
fn variables(address: &str, socks: bool) -> Vec<(&'static str, String)> {
    let http = format!("http://{address}");
    let mut variables = vec![
        ("http_proxy", http.clone()),
        ("https_proxy", http.clone()),
        ("HTTP_PROXY", http.clone()),
        ("HTTPS_PROXY", http),
        ("no_proxy", NO_PROXY.into()),
        ("NO_PROXY", NO_PROXY.into()),
        // Makes Node.js use the variables.
        ("NODE_USE_ENV_PROXY", "1".into()),
    ];
    if socks {
        variables.push(("ALL_PROXY", format!("socks5h://{address}")));
        variables.push(("all_proxy", format!("socks5h://{address}")));
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
    for (name, value) in variables(&reached, socks) {
        let _ = write!(line, " --env {name}={value}");
    }
    line
}
