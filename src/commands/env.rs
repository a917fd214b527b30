//! `laneway env`: the variables that point software at the local proxy, for a shell to take over; `laneway run`: a
//! command with them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;

use clap::ValueEnum;

use super::ask::LocalPort;
use super::say;
use crate::problem::Problem;

/// What is never for the proxy: this machine itself, in the forms that software looks for.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// The address of the host as containers of Docker's default bridge see it.
const DOCKER_HOST: &str = "host.docker.internal";

/// In whose syntax.
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

/// Which variables.
#[derive(Debug, clap::Args)]
struct Which {
    #[command(flatten)]
    port: LocalPort,
    /// SOCKS5 (ALL_PROXY, names resolved at the gateway) besides HTTP
    #[arg(long)]
    socks: bool,
}

/// `laneway env`
#[derive(Debug, clap::Args)]
pub struct Env {
    #[command(flatten)]
    which: Which,
    /// The shell that is to read it
    #[arg(long, value_enum, default_value_t)]
    shell: Shell,
    /// Unset the variables instead
    #[arg(long)]
    unset: bool,
    /// With the address of this machine that its Docker containers reach, as '--env' options of 'docker run'; the node
    /// must listen there
    #[arg(long, conflicts_with_all = ["shell", "unset"])]
    docker: bool,
}

/// `laneway run`
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    which: Which,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `laneway apt-proxy`
#[derive(Debug, clap::Args)]
pub struct AptProxy {
    #[command(flatten)]
    port: LocalPort,
    /// What apt asks about: the address that it is going to fetch; any is answered alike
    #[arg(value_name = "URL")]
    url: Option<String>,
}

impl Env {
    /// Prints the lines.
    ///
    /// # Errors
    /// When there is a configuration file that is not valid.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.which.port.address()?;
        if self.docker {
            say(docker(address, self.which.socks).trim_end());
            return Ok(());
        }
        let mut lines = String::new();
        for (name, value) in variables(&address.to_string(), self.which.socks || self.unset) {
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
    /// Becomes the command: signals and its exit code are its own.
    ///
    /// # Errors
    /// When it cannot be started, with the exit code of a shell (POSIX 2.8.2): 127 where there is no such program, else 126.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.which.port.address()?.to_string();
        let (program, arguments) = self.command.split_first().expect("the command line requires one");
        let mut command = Command::new(program);
        command.args(arguments).envs(variables(&address, self.which.socks));
        let error = start(&mut command);
        let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
        let problem = Problem::new(format!("'{}' cannot be run", program.to_string_lossy()));
        Err(problem.because(error).exiting(code))
    }
}

#[cfg(unix)]
fn start(command: &mut Command) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    command.exec()
}

impl AptProxy {
    /// Prints the proxy's address while a node listens there, else `DIRECT`: what apt expects of a
    /// `Acquire::http::Proxy-Auto-Detect` program.
    ///
    /// # Errors
    /// When there is a configuration file that is not valid.
    pub fn run(self) -> Result<(), Problem> {
        let address = self.port.address()?;
        match super::ask::status(address) {
            Ok(_) => say(format_args!("http://{address}")),
            Err(_) => say("DIRECT"),
        }
        Ok(())
    }
}

/// Lower and upper case, since software reads one or the other; curl takes http_proxy in lower case alone.
fn variables(address: &str, socks: bool) -> Vec<(&'static str, String)> {
    let http = format!("http://{address}");
    let mut variables = vec![
        ("http_proxy", http.clone()),
        ("https_proxy", http.clone()),
        ("HTTP_PROXY", http.clone()),
        ("HTTPS_PROXY", http),
        ("no_proxy", NO_PROXY.into()),
        ("NO_PROXY", NO_PROXY.into()),
        // Node.js looks at the variables only when it is told to.
        ("NODE_USE_ENV_PROXY", "1".into()),
    ];
    if socks {
        variables.push(("ALL_PROXY", format!("socks5h://{address}")));
        variables.push(("all_proxy", format!("socks5h://{address}")));
    }
    variables
}

/// Options of `docker run`. A loopback address is the container's own there; the host has a name.
fn docker(address: SocketAddr, socks: bool) -> String {
    let seen = match address.ip().is_loopback() {
        true => format!("{DOCKER_HOST}:{}", address.port()),
        false => address.to_string(),
    };
    let mut line = format!("--add-host={DOCKER_HOST}:host-gateway");
    for (name, value) in variables(&seen, socks) {
        let _ = write!(line, " --env {name}={value}");
    }
    line
}
