use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use windows_service::service::{
    ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceExitCode,
    ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState,
    ServiceStatus, ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_DOES_NOT_EXIST,
    ERROR_SERVICE_MARKED_FOR_DELETE, ERROR_SERVICE_NOT_ACTIVE,
};

use super::definition::{Installed, NAME, Service, Status};
use super::error::ServiceError;
use super::registered::Registered;
use crate::service::host::plain;

/// The account of the service: one of its own, which Windows makes, without rights that others lack.
const ACCOUNT: &str = r"NT SERVICE\laneway";
/// Interval between two checks of the state.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a service may stay in a state beyond what it says itself.
const PATIENCE: Duration = Duration::from_secs(30);

fn failed(what: &str, error: windows_service::Error) -> ServiceError {
    let error = plain(error);
    let number = error.raw_os_error().map(i32::cast_unsigned);
    let problem = ServiceError::new(what).because(&error);
    match number {
        Some(ERROR_ACCESS_DENIED) => problem.hint(
            "only an administrator may: open the terminal with 'Run as administrator', and run the command again",
        ),
        Some(ERROR_SERVICE_DOES_NOT_EXIST) => ServiceError::absent(),
        Some(ERROR_SERVICE_MARKED_FOR_DELETE) => problem.hint(
            "it is removed once no program looks at it: close the Services window and the Task Manager, and try again",
        ),
        _ => problem.hint(where_to_look()),
    }
}

fn open(access: ServiceAccess) -> Result<windows_service::service::Service, ServiceError> {
    let what = "the laneway service cannot be opened";
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT);
    let manager = manager.map_err(|error| failed("the service manager does not answer", error))?;
    manager.open_service(NAME, access).map_err(|error| failed(what, error))
}

/// The words after the program.
fn arguments(service: &Service) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["service", "run", "--state"].map(Into::into).into();
    words.push(service.state.clone().into());
    if let Some(file) = &service.configuration {
        words.extend(["--config".into(), file.clone().into()]);
    }
    words
}

pub(super) fn install(service: &Service) -> Result<Installed, ServiceError> {
    let what = "the service cannot be installed";
    let arguments = arguments(service);
    match open(ServiceAccess::QUERY_CONFIG) {
        Ok(found) => return check_same(&found, service, &arguments),
        Err(error) if error.what == ServiceError::absent().what => {}
        Err(error) => return Err(error),
    }
    refuse_profile(&service.program)?;
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager =
        ServiceManager::local_computer(None::<&str>, access).map_err(|error| failed(what, error))?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "laneway".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: service.program.clone(),
        launch_arguments: arguments,
        dependencies: Vec::new(),
        account_name: Some(ACCOUNT.into()),
        account_password: None,
    };
    // Restarting after a failure needs the right to start.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let created = manager.create_service(&info, access).map_err(|error| failed(what, error))?;
    let mut notes = Vec::new();
    let described = created
        .set_description("The way out of an isolated LAN: the local proxy, and the gateway for others");
    if let Err(error) = described.and_then(|()| restart_after_failures(&created)) {
        notes.push(format!("Windows does not restart it after a failure: {}", plain(error)));
    }
    Ok(Installed { what: format!("the service '{NAME}' is installed, and starts with Windows"), notes })
}

/// Refuses a program in the directory of a user, which the account of the service may not enter.
fn refuse_profile(program: &Path) -> Result<(), ServiceError> {
    // Windows does not distinguish cases in paths.
    let plain = |path: &Path| PathBuf::from(path.to_string_lossy().to_lowercase());
    let profile = std::env::var_os("USERPROFILE").map(PathBuf::from);
    if !profile.is_some_and(|profile| profile.is_absolute() && plain(program).starts_with(plain(&profile))) {
        return Ok(());
    }
    Err(ServiceError::new(format!("the service cannot run {}", program.display()))
        .because("it has an account of its own, which may not enter the directory of a user")
        .hint(r#"copy the program to "C:\Program Files\laneway", and run 'laneway service install' there"#))
}

/// Accepts a second installation with the same settings.
fn check_same(
    found: &windows_service::service::Service,
    service: &Service,
    arguments: &[OsString],
) -> Result<Installed, ServiceError> {
    let config = found.query_config().map_err(|error| failed("the service cannot be read", error))?;
    let line = config.executable_path.to_string_lossy().into_owned();
    let words = [service.program.clone().into_os_string()].into_iter().chain(arguments.iter().cloned());
    let wanted: String = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    // Windows keeps the line, in which words with blanks are quoted.
    if line.replace('"', "") == wanted {
        return Ok(Installed {
            what: format!("the service '{NAME}' is installed already"),
            notes: Vec::new(),
        });
    }
    Err(ServiceError::new("there is a laneway service already, with other settings")
        .because(format!("it runs {line}"))
        .hint("'laneway service remove' removes it; then install it again"))
}

fn restart_after_failures(service: &windows_service::service::Service) -> windows_service::Result<()> {
    // A wrong configuration fails at every start: after two attempts it is left alone.
    let action = |action_type, seconds| ServiceAction { action_type, delay: Duration::from_secs(seconds) };
    service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(300)),
        reboot_msg: None,
        command: None,
        actions: Some(vec![
            action(ServiceActionType::Restart, 1),
            action(ServiceActionType::Restart, 10),
            action(ServiceActionType::None, 0),
        ]),
    })?;
    service.set_failure_actions_on_non_crash_failures(true)
}

pub(super) fn remove() -> Result<String, ServiceError> {
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = open(access)?;
    halt(&service)?;
    service.delete().map_err(|error| failed("the service cannot be removed", error))?;
    Ok(format!("the service '{NAME}' is stopped and removed"))
}

pub(super) fn start() -> Result<(), ServiceError> {
    let what = "the service cannot be started";
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::START)?;
    if let Err(error) = service.start::<&str>(&[]) {
        let error = failed(what, error);
        let is_running = std::io::Error::from_raw_os_error(ERROR_SERVICE_ALREADY_RUNNING.cast_signed());
        return if error.why == Some(is_running.to_string()) { Ok(()) } else { Err(error) };
    }
    let ended = wait(&service, ServiceState::StartPending)?;
    match ended.current_state {
        ServiceState::Running => Ok(()),
        _ => Err(ServiceError::new("the service has ended again")
            .because(exit(ended.exit_code).unwrap_or_default())
            .hint(where_to_look())),
    }
}

pub(super) fn stop() -> Result<(), ServiceError> {
    halt(&open(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?)
}

/// Stops the service if it runs, and waits for its end.
fn halt(service: &windows_service::service::Service) -> Result<(), ServiceError> {
    let what = "the service cannot be stopped";
    match service.stop() {
        Ok(_) => {}
        Err(windows_service::Error::Winapi(error))
            if error.raw_os_error() == Some(ERROR_SERVICE_NOT_ACTIVE.cast_signed()) =>
        {
            return Ok(());
        }
        Err(error) => return Err(failed(what, error)),
    }
    // The service reports the stop a moment after the request.
    let start = Instant::now();
    loop {
        let status = wait(service, ServiceState::StopPending)?;
        match status.current_state {
            ServiceState::Stopped => return Ok(()),
            _ if start.elapsed() < PATIENCE => sleep(INTERVAL),
            _ => return Err(ServiceError::new(what).because("it does not follow the request")),
        }
    }
}

/// Waits while the service is in this state, for as long as the service says that it takes.
fn wait(
    service: &windows_service::service::Service,
    while_in: ServiceState,
) -> Result<ServiceStatus, ServiceError> {
    let start = Instant::now();
    loop {
        let status = service.query_status();
        let status = status.map_err(|error| failed("the state of the service cannot be read", error))?;
        if status.current_state != while_in || start.elapsed() > status.wait_hint + PATIENCE {
            return Ok(status);
        }
        sleep(INTERVAL);
    }
}

pub(super) fn status() -> Result<Status, ServiceError> {
    let service = match open(ServiceAccess::QUERY_STATUS) {
        Ok(service) => service,
        Err(error) if error.what == ServiceError::absent().what => return Ok(Status::Absent),
        Err(error) => return Err(error),
    };
    let status = service.query_status();
    let status = status.map_err(|error| failed("the state of the service cannot be read", error))?;
    Ok(match status.current_state {
        ServiceState::Running => {
            Status::Running { process: status.process_id.filter(|process| *process != 0) }
        }
        ServiceState::StartPending | ServiceState::StopPending => Status::Changing,
        _ => Status::Stopped { failure: exit(status.exit_code) },
    })
}

/// A failure in words. A service that has not run since the boot has none.
fn exit(code: ServiceExitCode) -> Option<String> {
    const NEVER_STARTED: u32 = 1077;
    match code {
        ServiceExitCode::Win32(0 | NEVER_STARTED) => None,
        ServiceExitCode::Win32(code) => {
            Some(std::io::Error::from_raw_os_error(code.cast_signed()).to_string())
        }
        ServiceExitCode::ServiceSpecific(code) => Some(format!("exit code {code}")),
    }
}

pub(super) fn where_to_look() -> String {
    let line = command_line();
    let registered = line.as_deref().map(Registered::read);
    match (line, registered) {
        (Some(line), Some(registered)) if !registered.is_node() => {
            format!("the service '{NAME}' is another program's, which has its own log: it runs {line}")
        }
        (_, registered) => {
            let registered = registered.unwrap_or_else(|| Registered::read(""));
            let log = registered.log(crate::paths::machine_state());
            format!("see 'type {}'", crate::state::quoted(&log))
        }
    }
}

/// The command line of the service, if there is one that this user may read. Failures are not reported: this is only called
/// to explain another failure.
fn command_line() -> Option<String> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).ok()?;
    let service = manager.open_service(NAME, ServiceAccess::QUERY_CONFIG).ok()?;
    Some(service.query_config().ok()?.executable_path.to_string_lossy().into_owned())
}
