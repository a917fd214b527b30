//! Whether anything can be written to the directory of a store: on a disk that is full or read-only, or with a file in its place,
//! nothing can. The store goes on trying with each response.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use laneway_limits::limited;
use laneway_limits::lines::NOBODY;
use laneway_sys::files;

use super::Store;
use super::calls::says_nothing;

impl Store {
    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Why the last response could not be written, unless one could be since.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.noted().clone()
    }

    /// Whether a response that comes now will be stored, as far as the last one tells.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.noted().is_none() && !self.is_hung()
    }

    /// Writes all these bytes to a file of the store, and notes why that fails.
    pub(crate) fn write_to(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        files::write_all_at(file, bytes, at).inspect_err(|error| self.note_fault(error))
    }

    /// Notes why nothing can be written.
    pub(super) fn note_fault(&self, error: &io::Error) {
        if says_nothing(error) {
            return;
        }
        let is_new = self.noted().replace(error.to_string()).is_none();
        if is_new {
            limited!(warn, NOBODY, directory = %self.directory.display(), %error, "nothing can be stored");
        }
    }

    /// Notes that a response was written. A small one may fit where a large one does not.
    pub(super) fn note_written(&self) {
        if self.noted().take().is_some() {
            limited!(info, NOBODY, directory = %self.directory.display(), "responses are stored again");
        }
    }

    fn noted(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
