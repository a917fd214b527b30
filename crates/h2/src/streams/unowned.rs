//! Streams whose owner is gone while something is still queued on them. They end when that is sent, when the peer takes
//! nothing of it for a while, or when its account is evicted.

use std::task::Context;

use super::Streams;
use crate::Reason;
use crate::ownerless::Waiting;

impl Streams {
    /// Notes that a stream no longer has a handle, although something is queued on it.
    pub(super) fn loses_owner(&mut self, id: u32) {
        let Some(stream) = self.store.get(id) else { return };
        self.ownerless.add(id, stream.send.queued());
        if let Some(driver) = &self.driver {
            if let Some(account) = stream.send.memory.account() {
                account.poll_evicted(&Context::from_waker(driver));
            }
            // The driver has to look at the clock from now on.
            driver.wake_by_ref();
        }
    }

    /// Whether there are streams without an owner, so that [`Streams::tick`] has to be called.
    pub(crate) fn has_ownerless(&self) -> bool {
        !self.ownerless.is_empty()
    }

    /// Resets the streams without an owner of which the peer has taken nothing for too many ticks.
    pub(crate) fn tick(&mut self) {
        self.end_ownerless(|waiting, queued, _is_evicted| waiting.tick(queued).then_some(Reason::CANCEL));
    }

    /// Resets the streams without an owner whose account was evicted.
    pub(super) fn end_evicted(&mut self) {
        if self.has_ownerless() {
            self.end_ownerless(|_, _, is_evicted| is_evicted.then_some(Reason::ENHANCE_YOUR_CALM));
        }
    }

    /// Forgets ownerless streams that have ended, and resets those for which `ends` gives a reason.
    fn end_ownerless(&mut self, mut ends: impl FnMut(&mut Waiting, usize, bool) -> Option<Reason>) {
        let mut all = self.ownerless.take();
        all.retain_mut(|waiting| {
            let Some(stream) = self.store.get(waiting.id) else { return false };
            let reason = ends(waiting, stream.send.queued(), stream.is_evicted());
            if let Some(reason) = reason {
                self.reset(waiting.id, reason);
            }
            reason.is_none()
        });
        self.ownerless.put_back(all);
    }
}
