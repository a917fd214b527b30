//! Streams whose owner is gone while something is still queued on them. They end when that is sent, when the peer takes
//! nothing of it for a while, or when its account is evicted.

use std::task::Context;

use super::Streams;
use crate::Reason;

/// After how many ticks in which the peer takes nothing a stream without an owner is reset.
const MAX_STALLED: u32 = 6;

/// The streams without an owner.
#[derive(Debug, Default)]
pub(super) struct Ownerless(Vec<Waiting>);

#[derive(Debug)]
struct Waiting {
    id: u32,
    /// The bytes that were queued at the last tick.
    queued: usize,
    /// The number of ticks since the peer has taken something.
    stalled: u32,
}

impl Streams {
    /// Notes that nobody holds a handle of a stream any more, although something is queued on it.
    pub(super) fn loses_owner(&mut self, id: u32) {
        let Some(stream) = self.store.get(id) else { return };
        self.ownerless.0.push(Waiting { id, queued: stream.send.queued(), stalled: 0 });
        if let (Some(account), Some(driver)) = (stream.send.memory.account(), &self.driver)
            && account.poll_evicted(&Context::from_waker(driver))
        {
            driver.wake_by_ref();
        }
    }

    /// Whether there are streams without an owner, so that [`Streams::tick`] has to be called.
    pub(crate) fn has_ownerless(&self) -> bool {
        !self.ownerless.0.is_empty()
    }

    /// Resets the streams without an owner of which the peer has taken nothing for [`MAX_STALLED`] ticks.
    pub(crate) fn tick(&mut self) {
        self.retain_ownerless(|waiting, queued, _is_evicted| {
            waiting.stalled = if queued < waiting.queued { 0 } else { waiting.stalled + 1 };
            waiting.queued = queued;
            (waiting.stalled >= MAX_STALLED).then_some(Reason::CANCEL)
        });
    }

    /// Resets the streams without an owner whose account was evicted.
    pub(super) fn end_evicted(&mut self) {
        if self.has_ownerless() {
            self.retain_ownerless(|_, _, is_evicted| is_evicted.then_some(Reason::ENHANCE_YOUR_CALM));
        }
    }

    /// Forgets those that have ended, and resets those for which `ends` gives a reason.
    fn retain_ownerless(&mut self, mut ends: impl FnMut(&mut Waiting, usize, bool) -> Option<Reason>) {
        let mut all = std::mem::take(&mut self.ownerless.0);
        all.retain_mut(|waiting| {
            let Some(stream) = self.store.get(waiting.id) else { return false };
            let reason = ends(waiting, stream.send.queued(), stream.is_evicted());
            if let Some(reason) = reason {
                self.reset(waiting.id, reason);
            }
            reason.is_none()
        });
        self.ownerless.0 = all;
    }
}
