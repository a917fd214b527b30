//! Tasks that wait for something.

use std::task::{Context, Waker};

/// Wakes the task that waits, if one does.
pub(super) fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// Registers the current task as the one that waits, in place of an earlier one.
pub(super) fn register(waiting: &mut Option<Waker>, cx: &Context<'_>) {
    if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waiting = Some(cx.waker().clone());
    }
}
