#![allow(unsafe_code, reason = "the entrance of a service is a C function, which a macro writes")]

use std::ffi::OsString;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::{define_windows_service, service_dispatcher};

use crate::service::registration::definition::NAME;
use crate::signals::Request;

/// How long the node may take to start before the manager gives up: a few seconds on a slow disk.
const START: Duration = Duration::from_secs(60);
/// Requests that wait for the node. More than a user sends; what does not fit is dropped.
const MAX_REQUESTS: usize = 16;

/// What the service does; taken when it starts.
static SERVICE: Mutex<Option<Box<dyn FnOnce() -> u8 + Send>>> = Mutex::new(None);
/// The connection, once the manager has started the service.
static CONNECTION: OnceLock<Connection> = OnceLock::new();
/// The manager's requests; taken by the node.
static REQUESTS: Mutex<Option<mpsc::Receiver<Request>>> = Mutex::new(None);

define_windows_service!(entrance, main);

/// The connection to the service control manager.
#[derive(Clone, Copy)]
pub(crate) struct Connection(ServiceStatusHandle);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// The connection of this process, if it runs as a service.
pub(crate) fn connection() -> Option<Connection> {
    CONNECTION.get().copied()
}

/// The manager's requests. `None` in a process that is not a service, and for every call but the first.
pub(crate) fn requests() -> Option<mpsc::Receiver<Request>> {
    REQUESTS.lock().unwrap_or_else(PoisonError::into_inner).take()
}

pub(super) fn run(service: Box<dyn FnOnce() -> u8 + Send>) -> io::Result<()> {
    *SERVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
    service_dispatcher::start(NAME, entrance).map_err(plain)
}

/// Runs on the thread that the manager starts.
fn main(_: Vec<OsString>) {
    let Some(service) = SERVICE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
    *REQUESTS.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
    let handler = move |control| {
        let request = match control {
            ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => Request::Stop,
            ServiceControl::ParamChange => Request::Reload,
            ServiceControl::Interrogate => return ServiceControlHandlerResult::NoError,
            _ => return ServiceControlHandlerResult::NotImplemented,
        };
        let _ = sender.try_send(request);
        ServiceControlHandlerResult::NoError
    };
    // Without a handler the manager takes the service for hung, and ends it.
    let Ok(handle) = service_control_handler::register(NAME, handler) else { return };
    let connection = *CONNECTION.get_or_init(|| Connection(handle));
    let _ = connection.set(ServiceState::StartPending, START, ServiceExitCode::NO_ERROR);
    let code = match service() {
        0 => ServiceExitCode::NO_ERROR,
        code => ServiceExitCode::ServiceSpecific(code.into()),
    };
    let _ = connection.set(ServiceState::Stopped, Duration::ZERO, code);
}

impl Connection {
    /// Reports that the node runs and takes requests.
    pub(crate) fn running(self) -> io::Result<()> {
        self.set(ServiceState::Running, Duration::ZERO, ServiceExitCode::NO_ERROR)
    }

    /// Reports that the node stops, within this time.
    pub(crate) fn stopping(self, most: Duration) -> io::Result<()> {
        self.set(ServiceState::StopPending, most, ServiceExitCode::NO_ERROR)
    }

    fn set(self, state: ServiceState, wait_hint: Duration, exit_code: ServiceExitCode) -> io::Result<()> {
        // Before a shutdown the manager waits for minutes, at the shutdown itself for seconds.
        let accepted = ServiceControlAccept::STOP
            | ServiceControlAccept::PRESHUTDOWN
            | ServiceControlAccept::SHUTDOWN
            | ServiceControlAccept::PARAM_CHANGE;
        let is_pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted: match state {
                ServiceState::Running => accepted,
                _ => ServiceControlAccept::empty(),
            },
            exit_code,
            checkpoint: u32::from(is_pending),
            wait_hint,
            process_id: None,
        };
        self.0.set_service_status(status).map_err(plain)
    }
}

/// The system's error, whose number a user can look up.
pub(crate) fn plain(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}
