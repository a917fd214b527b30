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
/// Interval between two looks at the state.
const INTERVAL: Duration = Duration::from_millis(200);

/// Where the service belongs.
struct Scope {
    /// The domain of launchctl: `system`, or `gui/UID`.
    domain: String,
    plist: PathBuf,
    log: PathBuf,
}

impl Scope {
    fn of_this_user() -> Result<Self, ServiceError> {
        let file = format!("{NAME}.plist");
        if paths::is_administrator() {
            return Ok(Self {
                domain: "system".into(),
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

    /// Waits until the state is the wanted one.
    fn wait(&self, limit: Duration, wanted: impl Fn(&Status) -> bool) -> Result<(), ServiceError> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if wanted(&status()?) {
                return Ok(());
            }
            sleep(INTERVAL);
        }
        Err(ServiceError::new("the service does not do what launchd tells it")
            .hint(format!("see '{}'", log_command())))
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
    let mut notes = Vec::new();
    if scope.domain != "system" {
        notes.push(
            "it runs while this user is logged in; 'sudo laneway service install' installs it for the machine".into(),
        );
    }
    Ok(Installed { what: format!("the service is installed: {}", scope.plist.display()), notes })
}

pub(super) fn remove() -> Result<String, ServiceError> {
    let scope = Scope::installed()?;
    if scope.is_loaded()? {
        stop()?;
        run(&["bootout", &scope.target()])?;
    }
    fs::remove_file(&scope.plist).map_err(|error| ServiceError::file("remove", &scope.plist, &error))?;
    Ok(format!("the service is stopped and removed: {}", scope.plist.display()))
}

pub(super) fn start() -> Result<(), ServiceError> {
    let scope = Scope::installed()?;
    if scope.is_loaded()? {
        run(&["kickstart", &scope.target()])?;
    } else {
        // Starts it, too: RunAtLoad.
        run(&["bootstrap", &scope.domain, &scope.plist.to_string_lossy()])?;
    }
    scope.wait(START, |status| matches!(status, Status::Running { .. }))
}

pub(super) fn stop() -> Result<(), ServiceError> {
    let scope = Scope::installed()?;
    if !matches!(status()?, Status::Running { .. }) {
        return Ok(());
    }
    run(&["kill", "SIGTERM", &scope.target()])?;
    scope.wait(STOP, |status| !matches!(status, Status::Running { .. }))
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

pub(super) fn log_command() -> String {
    match Scope::of_this_user() {
        Ok(scope) => format!("tail '{}'", scope.log.display()),
        Err(_) => format!("log show --last 10m --predicate 'process == \"{NAME}\"'"),
    }
}
