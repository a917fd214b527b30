//! launchd. Written after launchctl(1) and launchd.plist(5); it has not been run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::definition::{Installed, NAME, Service, Status};
use super::error::ServiceError;
use super::plist;
use crate::paths;

/// Longer than the drain of a node and its last steps, after which launchd kills it.
const STOP: Duration = Duration::from_secs(70);
/// How long a node that starts may take.
const START: Duration = Duration::from_secs(15);
/// Interval between two checks of the state.
const INTERVAL: Duration = Duration::from_millis(200);

/// The domain of launchctl for the machine.
const MACHINE: &str = "system";

/// Where the service belongs.
struct Scope {
    /// The domain of launchctl: [`MACHINE`], or `gui/UID`.
    domain: String,
    plist: PathBuf,
    log: PathBuf,
}

impl Scope {
    fn of_this_user() -> Result<Self, ServiceError> {
        let file = format!("{NAME}.plist");
        if paths::is_administrator() {
            return Ok(Self {
                domain: MACHINE.into(),
                plist: Path::new("/Library/LaunchDaemons").join(file),
                log: Path::new("/Library/Logs").join(format!("{NAME}.log")),
            });
        }
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let library = home.map(|home| home.join("Library")).ok_or_else(|| {
            ServiceError::new("HOME names no absolute path")
                .hint("set it, or install it for the machine: 'sudo laneway service install'")
        })?;
        Ok(Self {
            domain: format!("gui/{}", nix::unistd::Uid::effective()),
            plist: library.join("LaunchAgents").join(file),
            log: library.join("Logs").join(format!("{NAME}.log")),
        })
    }

    fn target(&self) -> String {
        format!("{}/{NAME}", self.domain)
    }

    fn installed() -> Result<Self, ServiceError> {
        let scope = Self::of_this_user()?;
        if scope.plist.exists() { Ok(scope) } else { Err(ServiceError::absent()) }
    }

    fn is_loaded(&self) -> Result<bool, ServiceError> {
        Ok(launchctl(&["print", &self.target()])?.status.success())
    }

    /// Refuses a daemon, which runs as root, whose program any user's software could replace.
    fn check(&self, service: &Service) -> Result<(), ServiceError> {
        if self.domain != MACHINE || !service.program.starts_with("/Users") {
            return Ok(());
        }
        Err(ServiceError::new(format!("the service cannot run {}", service.program.display()))
            .because("it runs as root, and the owner of that directory could replace the program")
            .hint(
                "sudo mkdir -p /usr/local/bin && sudo install -m 755 \"$(command -v laneway)\" /usr/local/bin/ && \
                 sudo /usr/local/bin/laneway service install",
            ))
    }

    /// Waits until `is_so`.
    fn wait(
        &self,
        limit: Duration,
        is_so: impl Fn() -> Result<bool, ServiceError>,
    ) -> Result<(), ServiceError> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if is_so()? {
                return Ok(());
            }
            sleep(INTERVAL);
        }
        Err(ServiceError::new("the service does not do what launchd tells it").hint(where_to_look()))
    }
}

fn launchctl(arguments: &[&str]) -> Result<Output, ServiceError> {
    let output = Command::new("launchctl").args(arguments).stdin(Stdio::null()).output();
    output.map_err(|error| ServiceError::program("launchctl", &error))
}

fn run(arguments: &[&str]) -> Result<(), ServiceError> {
    let output = launchctl(arguments)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ServiceError::new(format!("'launchctl {}' failed", arguments.join(" ")))
        .because(String::from_utf8_lossy(&output.stderr)))
}

pub(super) fn install(service: &Service) -> Result<Installed, ServiceError> {
    let scope = Scope::of_this_user()?;
    scope.check(service)?;
    let text = plist::text(service, &scope.log);
    match fs::read_to_string(&scope.plist) {
        Ok(found) if found == text => {}
        Ok(_) => {
            return Err(ServiceError::new(format!(
                "there is a laneway service already, with other settings: {}",
                scope.plist.display()
            ))
            .hint("'laneway service remove' removes it; then install it again"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(directory) = scope.plist.parent() {
                fs::create_dir_all(directory)
                    .map_err(|error| ServiceError::file("create", directory, &error))?;
            }
            fs::write(&scope.plist, &text)
                .map_err(|error| ServiceError::file("write", &scope.plist, &error))?;
        }
        Err(error) => return Err(ServiceError::file("read", &scope.plist, &error)),
    }
    // A service that was disabled by hand is not loaded, not even by the next boot.
    run(&["enable", &scope.target()])?;
    let mut notes = Vec::new();
    if scope.domain != MACHINE {
        notes.push(
            "it runs while this user is logged in; 'sudo laneway service install' installs it for the machine".into(),
        );
        notes.push(
            "macOS 15 and later ask this user whether it may find devices on local networks: allow it in System Settings, \
             Privacy & Security, Local Network. It asks nobody for the service of the machine"
                .into(),
        );
    }
    Ok(Installed { what: format!("the service is installed: {}", scope.plist.display()), notes })
}

pub(super) fn remove() -> Result<String, ServiceError> {
    let scope = Scope::installed()?;
    stop()?;
    fs::remove_file(&scope.plist).map_err(|error| ServiceError::file("remove", &scope.plist, &error))?;
    Ok(format!("the service is stopped and removed: {}", scope.plist.display()))
}

pub(super) fn start() -> Result<(), ServiceError> {
    let scope = Scope::installed()?;
    if scope.is_loaded()? {
        run(&["kickstart", &scope.target()])?;
    } else {
        // Starts it, too: RunAtLoad.
        run(&["bootstrap", &scope.domain, &scope.plist.to_string_lossy()]).map_err(|error| {
            match scope.domain == MACHINE {
                true => error,
                false => error.hint(
                    "the service of a user needs a session at the screen, not ssh; 'sudo laneway service install' \
                     installs the machine's, which needs none",
                ),
            }
        })?;
    }
    scope.wait(START, || Ok(matches!(status()?, Status::Running { .. })))
}

/// Unloads the service, until it is started or the machine boots: a service that is loaded would be started again if it
/// had failed.
pub(super) fn stop() -> Result<(), ServiceError> {
    let scope = Scope::installed()?;
    if !scope.is_loaded()? {
        return Ok(());
    }
    // Fails while the node still drains, which is not a failure ("Operation now in progress").
    let asked = run(&["bootout", &scope.target()]);
    scope.wait(STOP, || Ok(!scope.is_loaded()?)).map_err(|late| asked.err().unwrap_or(late))
}

pub(super) fn status() -> Result<Status, ServiceError> {
    let scope = match Scope::installed() {
        Ok(scope) => scope,
        Err(error) if error.what == ServiceError::absent().what => return Ok(Status::Absent),
        Err(error) => return Err(error),
    };
    let output = launchctl(&["print", &scope.target()])?;
    if !output.status.success() {
        return Ok(Status::Stopped { failure: None });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix("= "))
    };
    Ok(match (value("state"), value("last exit code")) {
        (Some("running"), _) => Status::Running { process: value("pid").and_then(|pid| pid.parse().ok()) },
        (_, None | Some("0" | "(never exited)")) => Status::Stopped { failure: None },
        (_, Some(code)) => Status::Stopped { failure: Some(format!("exit code {code}")) },
    })
}

pub(super) fn where_to_look() -> String {
    match Scope::of_this_user() {
        Ok(scope) => format!("see  tail '{}'", scope.log.display()),
        Err(_) => format!("see  log show --last 10m --predicate 'process == \"{NAME}\"'"),
    }
}
