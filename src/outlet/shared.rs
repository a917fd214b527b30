//! What the parts of an outlet share.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::known::Names;

/// What everything that leaves the network shares.
pub(super) struct Outlet {
    /// The local proxy of the node.
    pub(super) node: SocketAddr,
    /// The names that addresses were the answers for.
    pub(super) names: Names,
    /// Permits for connections, one each.
    pub(super) places: Arc<Semaphore>,
    /// Permits for questions, one each.
    pub(super) questions: Arc<Semaphore>,
    /// What may end after the processes: connections, and datagrams on their way to the node.
    pub(super) sent: TaskTracker,
}
