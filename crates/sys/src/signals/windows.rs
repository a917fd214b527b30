use std::io;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff,
    ctrl_shutdown,
};
use tokio::sync::mpsc;

use super::request::Request;
use crate::service::host;

/// The events of the console, and the requests of the service control manager.
#[derive(Debug)]
pub struct Signals {
    interrupt: CtrlC,
    interrupt_all: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
    manager: Option<mpsc::Receiver<Request>>,
}

impl Signals {
    /// Handles these events from now on. The system ends the process some seconds after the last three, whatever it still does.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            interrupt_all: ctrl_break()?,
            close: ctrl_close()?,
            logoff: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
            manager: host::requests(),
        })
    }

    /// Waits for the next request.
    pub async fn next(&mut self) -> Request {
        let Self { interrupt, interrupt_all, close, logoff, shutdown, manager } = self;
        // A service is told of the end of every session, and outlives all of them.
        let is_service = manager.is_some();
        let requested = async {
            match manager {
                Some(requests) => requests.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(request) = requested => return request,
            _ = interrupt.recv() => {}
            _ = interrupt_all.recv() => {}
            _ = close.recv() => {}
            _ = logoff.recv(), if !is_service => {}
            _ = shutdown.recv() => {}
        }
        Request::Stop
    }

    /// Waits for a request to stop.
    pub async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}
