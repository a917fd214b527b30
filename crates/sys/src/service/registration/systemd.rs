use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::definition::{Installed, NAME, Service, Status};
use super::error::ServiceError;
use super::unit;
use crate::paths;

/// The unit's file name.
const FILE: &str = "laneway.service";
/// Where the units of the administrator are.
const OF_ADMINISTRATOR: &str = "/etc/systemd/system";
/// Where the units of packages are (systemd.unit(5)).
const OF_PACKAGES: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Exists where systemd is the init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Directories that the service does not see: `ProtectHome=yes` in its unit.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// Whose systemd is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Machine,
    User,
}

impl Scope {
    fn of_this_user() -> Self {
        if paths::is_administrator() { Self::Machine } else { Self::User }
    }

    /// The unit's path, for this scope.
    fn unit(self) -> Result<PathBuf, ServiceError> {
        if self == Self::Machine {
            return Ok(Path::new(OF_ADMINISTRATOR).join(FILE));
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        base.map(|base| base.join("systemd/user").join(FILE)).ok_or_else(|| {
            ServiceError::new("neither XDG_CONFIG_HOME nor HOME names an absolute path for the unit")
                .hint("set HOME, or install it for the machine: 'sudo laneway service install'")
        })
    }

    /// The unit of a package, if there is one.
    fn packaged(self) -> Option<PathBuf> {
        let found = OF_PACKAGES.iter().map(|directory| Path::new(directory).join(FILE));
        found.filter(|_| self == Self::Machine).find(|unit| unit.exists())
    }

    /// The error where there is no unit. A user is told of the machine's unit.
    fn without_unit(self) -> ServiceError {
        let machine = Self::Machine;
        let is_there = machine.packaged().is_some() || machine.unit().is_ok_and(|unit| unit.exists());
        match self == Self::User && is_there {
            true => ServiceError::new("this user has no laneway service, and the machine's is root's")
                .hint("'sudo laneway service status' shows it, and start and stop work the same; 'laneway status' shows its node"),
            false => ServiceError::absent(),
        }
    }

    /// The words of a command before the verb.
    fn command(self) -> &'static str {
        match self {
            Self::Machine => "systemctl",
            Self::User => "systemctl --user",
        }
    }

    fn output(self, arguments: &[&str]) -> Result<Output, ServiceError> {
        let mut command = Command::new("systemctl");
        if self == Self::User {
            command.arg("--user");
        }
        let output = command.args(arguments).stdin(Stdio::null()).output();
        output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_systemd(),
            _ => ServiceError::program("systemctl", &error),
        })
    }

    /// Runs systemctl; a failure is an error with what it printed.
    fn run(self, arguments: &[&str]) -> Result<(), ServiceError> {
        let output = self.output(arguments)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let failed = ServiceError::new(format!("'{} {}' failed", self.command(), arguments.join(" ")));
        let failed = failed.because(&said);
        Err(match self {
            Self::User if said.contains("bus") => failed.hint(
                "log in as this user in a session of its own, not by su or sudo; or install it for the machine: 'sudo \
                 laneway service install'",
            ),
            _ => failed.hint(where_to_look()),
        })
    }
}

fn no_systemd() -> ServiceError {
    ServiceError::new(
        "systemd does not run this machine, and laneway knows no other service manager of Linux",
    )
    .hint("have the machine's own service manager run 'laneway up': \"Without systemd\" in docs/fleet.md has scripts for runit and OpenRC")
}

/// Fails where systemd is not the init. The manager of a user is asked when it is needed.
fn check_booted() -> Result<(), ServiceError> {
    if Path::new(BOOTED).exists() { Ok(()) } else { Err(no_systemd()) }
}

pub(super) fn install(service: &Service) -> Result<Installed, ServiceError> {
    check_booted()?;
    let scope = Scope::of_this_user();
    let path = scope.unit()?;
    let what = match scope.packaged().filter(|_| !path.exists()) {
        Some(packaged) => {
            use_packaged(&packaged, service)?;
            format!("the service of the package is enabled: {}", packaged.display())
        }
        None => {
            let text = match scope {
                Scope::Machine => {
                    check_reachable(service)?;
                    unit::of_machine(service)
                }
                Scope::User => unit::of_user(service),
            };
            write(&path, &text)?;
            scope.run(&["daemon-reload"])?;
            format!("the service is installed and enabled: {}", path.display())
        }
    };
    scope.run(&["enable", "--quiet", FILE])?;
    let mut notes = Vec::new();
    if scope == Scope::User && !lingers() {
        notes.push(
            "it runs while this user is logged in; 'loginctl enable-linger' starts it with the machine"
                .into(),
        );
    }
    Ok(Installed { what, notes })
}

/// Refuses the unit of a package that runs another program, or that has other files.
fn use_packaged(unit: &Path, service: &Service) -> Result<(), ServiceError> {
    let text = fs::read_to_string(unit).map_err(|error| ServiceError::file("read", unit, &error))?;
    let runs = unit::program_of(&text).unwrap_or_default();
    let same_file = |one: &Path| fs::canonicalize(one).ok() == fs::canonicalize(&service.program).ok();
    let configured =
        service.configuration.as_deref().is_none_or(|file| text.contains(&*file.to_string_lossy()));
    if same_file(Path::new(runs)) && configured {
        return Ok(());
    }
    Err(ServiceError::new(format!("a package has installed a laneway service already: {}", unit.display()))
        .because(format!("it runs {runs} with the files of the package"))
        .hint(format!("use that one: '{runs} service install', or remove the package first")))
}

/// Writes the unit. One with another content is not replaced.
fn write(path: &Path, text: &str) -> Result<(), ServiceError> {
    match fs::read_to_string(path) {
        Ok(found) if found == text => return Ok(()),
        Ok(found) => {
            let runs = unit::program_of(&found).unwrap_or("another program").to_owned();
            return Err(ServiceError::new(format!("there is a laneway service already: {}", path.display()))
                .because(format!("it runs {runs}, or has other settings"))
                .hint("'laneway service remove' removes it; then install it again"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ServiceError::file("read", path, &error)),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| ServiceError::file("create", directory, &error))?;
    }
    fs::write(path, text).map_err(|error| ServiceError::file("write", path, &error))
}

/// Refuses what the service, which has a user and a view of the files of its own, could not run or read.
fn check_reachable(service: &Service) -> Result<(), ServiceError> {
    let program = &service.program;
    let is_hidden = |path: &Path| HIDDEN.iter().any(|hidden| path.starts_with(hidden));
    let may_pass = |path: &Path| path.metadata().is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    if is_hidden(program) || !program.ancestors().all(may_pass) {
        return Err(ServiceError::new(format!("the service cannot run {}", program.display()))
            .because("it has a user of its own, who may not enter the directory of the program")
            .hint("install -m 755 \"$(command -v laneway)\" /usr/local/bin/ && /usr/local/bin/laneway service install"));
    }
    let machine = paths::machine_state();
    if machine.as_ref() != Some(&service.state) {
        let place = machine.unwrap_or_default();
        return Err(ServiceError::new(format!("the service keeps its state in {}", place.display()))
            .because(format!("--state or LANEWAY_STATE names {}", service.state.display()))
            .hint(format!("leave it out, and move what is there: mv DIRECTORY {}", place.display())));
    }
    match service.configuration.as_deref().filter(|file| is_hidden(file)) {
        None => Ok(()),
        Some(file) => Err(ServiceError::new(format!("the service cannot read {}", file.display()))
            .hint("put the configuration into /etc/laneway/laneway.toml, and leave out --config")),
    }
}

/// Whether the manager of this user runs without a session (loginctl(1)).
fn lingers() -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
    user.is_some_and(|user| Path::new("/var/lib/systemd/linger").join(user.name).exists())
}

pub(super) fn remove() -> Result<String, ServiceError> {
    check_booted()?;
    let scope = Scope::of_this_user();
    let path = scope.unit()?;
    let packaged = scope.packaged();
    if !path.exists() && packaged.is_none() {
        return Err(scope.without_unit());
    }
    scope.run(&["disable", "--now", "--quiet", FILE])?;
    if !path.exists() {
        let unit = packaged.unwrap_or_default();
        return Ok(format!(
            "the service is stopped and disabled; its unit belongs to a package: {}",
            unit.display()
        ));
    }
    fs::remove_file(&path).map_err(|error| ServiceError::file("remove", &path, &error))?;
    scope.run(&["daemon-reload"])?;
    Ok(format!("the service is stopped and removed: {}", path.display()))
}

/// Fails when there is no unit.
fn installed() -> Result<Scope, ServiceError> {
    check_booted()?;
    let scope = Scope::of_this_user();
    match scope.unit()?.exists() || scope.packaged().is_some() {
        true => Ok(scope),
        false => Err(scope.without_unit()),
    }
}

pub(super) fn start() -> Result<(), ServiceError> {
    let scope = installed()?;
    // A unit that has failed too often is not started before this.
    let _ = scope.output(&["reset-failed", FILE]);
    scope.run(&["start", FILE])?;
    // A unit whose condition does not hold is not started, and that is not a failure for systemd.
    match status()? {
        Status::Running { .. } | Status::Changing => Ok(()),
        _ => Err(ServiceError::new("the service did not start")
            .because("this machine is in no group, or the node has ended at once")
            .hint(format!("join a group with 'laneway join CODE', or {}", where_to_look()))),
    }
}

pub(super) fn stop() -> Result<(), ServiceError> {
    installed()?.run(&["stop", FILE])
}

pub(super) fn status() -> Result<Status, ServiceError> {
    let scope = match installed() {
        Ok(scope) => scope,
        Err(error) if error.what == ServiceError::absent().what => return Ok(Status::Absent),
        Err(error) => return Err(error),
    };
    let output = scope.output(&["show", "--property=ActiveState,SubState,Result,MainPID", FILE])?;
    if !output.status.success() {
        return scope.run(&["show", FILE]).map(|()| Status::Absent);
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the properties that `systemctl show` prints.
fn read(properties: &str) -> Status {
    let value = |name: &str| {
        let found = properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    };
    let result = value("Result");
    match value("ActiveState") {
        "active" | "reloading" => {
            Status::Running { process: value("MainPID").parse().ok().filter(|process| *process != 0) }
        }
        "activating" | "deactivating" => Status::Changing,
        _ => Status::Stopped {
            failure: Some(result.to_owned()).filter(|result| !matches!(&**result, "" | "success")),
        },
    }
}

pub(super) fn where_to_look() -> String {
    match Scope::of_this_user() {
        Scope::Machine => format!("see 'journalctl -u {NAME}'"),
        Scope::User => format!("see 'journalctl --user -u {NAME}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_from_the_properties_of_the_unit() {
        let of = |state: &str, result: &str| {
            read(&format!("MainPID=17\nResult={result}\nActiveState={state}\nSubState=x\n"))
        };
        assert_eq!(of("active", "success"), Status::Running { process: Some(17) });
        assert_eq!(of("deactivating", "success"), Status::Changing);
        assert_eq!(of("inactive", "success"), Status::Stopped { failure: None });
        assert_eq!(of("failed", "exit-code"), Status::Stopped { failure: Some("exit-code".into()) });
    }
}
