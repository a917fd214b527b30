//! The thread of what follows the state directory. A directory on a file server that is gone, or on a drive that resets itself,
//! keeps whoever looks into it waiting, so nothing else is done there.

use std::thread::Builder;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::thread;
use crate::problem::Problem;
use crate::shared::Part;

/// How long a node that stops waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread.
pub(super) struct StateThread {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl StateThread {
    /// Runs `parts` of the node on it. Returns a part that ends when one of these does.
    pub(super) fn start(parts: Vec<Part>) -> Result<(Self, Part), Problem> {
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, is_over) = (stop.clone(), over.clone().drop_guard());
        let (done, ended) = oneshot::channel::<()>();
        let run = move |runtime: Runtime| {
            runtime.block_on(async move {
                let mut running = JoinSet::new();
                parts.into_iter().for_each(|(_, part)| _ = running.spawn(part));
                tokio::select! {
                    _ = running.join_next() => {}
                    () = stopped.cancelled() => {}
                }
            });
            runtime.shutdown_background();
            drop((is_over, done));
        };
        thread::start(Builder::new().name("state".to_owned()), run)?;
        Ok((Self { stop, ended }, ("state directory", Box::pin(over.cancelled_owned()))))
    }

    /// Stops them. While the directory does not answer, they are left behind.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // It ends without a message.
        let _ = timeout(PATIENCE, self.ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step that does not come is a failure of the test.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_part_that_blocks_holds_up_neither_the_others_nor_the_end() {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let blocks: Part = ("blocks", Box::pin(async move { _ = gate.recv() }));
        let (thread, part) = StateThread::start(vec![blocks]).unwrap();
        timeout(DEADLINE, thread.stop()).await.unwrap();
        drop(open);
        timeout(DEADLINE, part.1).await.unwrap();
    }

    #[tokio::test]
    async fn what_the_parts_hold_is_free_once_they_were_stopped() {
        let held = std::sync::Arc::new(());
        let kept = held.clone();
        let waits: Part = (
            "waits",
            Box::pin(async move {
                let _kept = kept;
                std::future::pending().await
            }),
        );
        let (thread, _part) = StateThread::start(vec![waits]).unwrap();
        thread.stop().await;
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }
}
