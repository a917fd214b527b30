//! The TLS configurations of links for the current state of the group. They are made again after each group update.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ServerConfig};

use super::{TlsError, link_client, link_server, pieces_client, removal_server};
use laneway_trust::group::Group;
use laneway_trust::membership::Membership;

/// The certificate that this node presents on a link, and what it demands of the other end.
pub struct Credentials {
    /// The state of the group.
    pub membership: Arc<Membership>,
    client: Memo<ClientConfig>,
    pieces: Memo<ClientConfig>,
    server: Memo<ServerConfig>,
    removal: Memo<ServerConfig>,
}

impl Credentials {
    /// For the member whose `membership` this is.
    ///
    /// # Errors
    /// When its certificate or key cannot be used.
    pub fn new(membership: Arc<Membership>) -> Result<Arc<Self>, TlsError> {
        let credentials = Self {
            membership,
            client: Memo::default(),
            pieces: Memo::default(),
            server: Memo::default(),
            removal: Memo::default(),
        };
        credentials.client()?;
        Ok(Arc::new(credentials))
    }

    /// The configuration for dialling a link now.
    ///
    /// # Errors
    /// When the group's revocation list cannot be used.
    pub fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.client.of(self.membership.group(), link_client)
    }

    /// The configuration for dialling a link that carries pieces.
    ///
    /// # Errors
    /// When the group's revocation list cannot be used.
    pub fn pieces(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.pieces.of(self.membership.group(), pieces_client)
    }

    /// The configuration for accepting a link now.
    ///
    /// # Errors
    /// When the group's revocation list cannot be used.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.server.of(self.membership.group(), link_server)
    }

    /// The configuration for proving to a node that the group has removed it.
    ///
    /// # Errors
    /// When the group's certificates cannot be used.
    pub fn removal(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.removal.of(self.membership.group(), removal_server)
    }
}

/// The last result, and the group it was made from.
struct Memo<T>(Mutex<Option<(Arc<Group>, Arc<T>)>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Memo<T> {
    fn of(
        &self,
        group: Arc<Group>,
        make: impl FnOnce(&Group) -> Result<Arc<T>, TlsError>,
    ) -> Result<Arc<T>, TlsError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*last
            && Arc::ptr_eq(of, &group)
        {
            return Ok(made.clone());
        }
        let made = make(&group)?;
        *last = Some((group, made.clone()));
        Ok(made)
    }
}
