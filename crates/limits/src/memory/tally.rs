//! Counts the bytes in one queue or buffer for an account.

use std::sync::Arc;

use super::Account;

/// The bytes in one place, a queue or a buffer, that are charged to an account while they are there. Without an account they
/// are counted all the same, and charged once there is one.
#[derive(Debug, Default)]
pub struct Tally {
    account: Option<Arc<Account>>,
    bytes: usize,
}

impl Tally {
    /// An empty place, whose bytes are charged to `account`.
    pub fn of(account: &Arc<Account>) -> Self {
        Self { account: Some(account.clone()), bytes: 0 }
    }

    /// The bytes that are there.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account that they are charged to.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref()
    }

    /// Counts bytes that were added.
    pub fn add(&mut self, count: usize) {
        self.bytes += count;
        if let Some(account) = self.account.as_ref().filter(|_| count > 0) {
            account.charge(count);
        }
    }

    /// Counts bytes that have left; no more than are there.
    pub fn remove(&mut self, count: usize) {
        debug_assert!(count <= self.bytes, "no more leave than are there");
        let count = count.min(self.bytes);
        self.bytes -= count;
        if let Some(account) = self.account.as_ref().filter(|_| count > 0) {
            account.release(count);
        }
    }

    /// Notes how many bytes are there now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.add(bytes - self.bytes);
        } else {
            self.remove(self.bytes - bytes);
        }
    }

    /// Charges the bytes to another account from now on.
    pub fn charge_to(&mut self, account: &Arc<Account>) {
        account.charge(self.bytes);
        if let Some(before) = self.account.replace(account.clone()) {
            before.release(self.bytes);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.remove(self.bytes);
    }
}
