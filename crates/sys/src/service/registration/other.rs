use super::definition::{Installed, Service, Status};
use super::error::ServiceError;

fn unknown<T>() -> Result<T, ServiceError> {
    Err(ServiceError::new("laneway does not know the service manager of this system")
        .hint("have it run 'laneway up', and stop it with SIGTERM"))
}

pub(super) fn install(_: &Service) -> Result<Installed, ServiceError> {
    unknown()
}

pub(super) fn remove() -> Result<String, ServiceError> {
    unknown()
}

pub(super) fn start() -> Result<(), ServiceError> {
    unknown()
}

pub(super) fn stop() -> Result<(), ServiceError> {
    unknown()
}

pub(super) fn status() -> Result<Status, ServiceError> {
    unknown()
}

pub(super) fn where_to_look() -> String {
    "see the log of the service manager".into()
}
