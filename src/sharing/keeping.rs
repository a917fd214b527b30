//! A body that is being downloaded, and kept for other members.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Holdings;
use crate::cache::draft::Draft;
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::limited;
use crate::limits::lines::NOBODY;

/// What is kept of one download. What has come by the time it is dropped stays.
#[derive(Debug)]
pub struct Keeping {
    holdings: Arc<Holdings>,
    stored: Stored,
    is_on: bool,
    /// Shared with the thread that writes, which goes on when nobody waits for it any more.
    written: Arc<Mutex<Written>>,
}

#[derive(Debug, Default)]
struct Written {
    /// None before the first piece, and after a failure.
    draft: Option<Draft>,
    /// How many hashes of the draft are in the index.
    noted: usize,
    has_failed: bool,
}

impl Keeping {
    /// Starts to keep this response, of which nothing has come.
    pub fn new(holdings: &Arc<Holdings>, stored: Stored) -> Self {
        let has_failed = !holdings.store.admits(stored.total);
        if !has_failed {
            holdings.index().growing += 1;
            holdings.arrived.notify_waiters();
        }
        let written = Arc::new(Mutex::new(Written { has_failed, ..Written::default() }));
        Self { holdings: holdings.clone(), stored, is_on: !has_failed, written }
    }

    /// Whether anything is to be kept.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Keeps a piece that begins at this offset. When the disk takes no more, nothing is kept from then on. Returns whether
    /// everything so far was kept.
    pub async fn keep(&self, start: u64, piece: Bytes) -> bool {
        let (holdings, stored, written) = (self.holdings.clone(), self.stored.clone(), self.written.clone());
        let kept = self.holdings.store.blocking(move |store| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if !written.has_failed
                && let Err(error) = written.append(store, start, &piece, stored.total)
            {
                limited!(warn, NOBODY, %error, "a download is not kept for other members");
                (written.draft, written.has_failed) = (None, true);
            }
            let Written { draft, noted, has_failed } = &mut *written;
            if let Some(draft) = draft {
                let new = draft.listed(*noted);
                *noted += new.len();
                holdings.note(draft.id(), &stored, new);
            }
            !*has_failed
        });
        kept.await.unwrap_or(false)
    }
}

impl Written {
    fn append(&mut self, store: &Arc<Store>, start: u64, piece: &[u8], total: u64) -> io::Result<()> {
        let draft = match &mut self.draft {
            Some(draft) => draft,
            None => {
                let mut draft = Draft::new(store)?;
                draft.hash_pieces();
                self.draft.insert(draft)
            }
        };
        if draft.at() != start {
            draft.seek(start);
        }
        draft.append(piece)?;
        if draft.at() == total {
            draft.end_pieces(total);
        }
        Ok(())
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        let (holdings, stored, written) = (self.holdings.clone(), self.stored.clone(), self.written.clone());
        let is_on = self.is_on;
        let end = move || {
            let draft = written.lock().unwrap_or_else(PoisonError::into_inner).draft.take();
            if let Some(draft) = draft {
                match draft.store(stored) {
                    Ok((id, stored)) => holdings.forget_older(id, &stored),
                    Err(error) => tracing::debug!(%error, "a download is not kept"),
                }
            }
            let mut index = holdings.index();
            index.growing = index.growing.saturating_sub(usize::from(is_on));
            drop(index);
            holdings.arrived.notify_waiters();
        };
        self.holdings.store.later(move |_| end());
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::memory::Budget;
    use crate::wire::sharing;

    #[tokio::test]
    async fn what_is_downloaded_again_is_kept_once() {
        let directory = tempfile::tempdir().unwrap();
        let holdings =
            Holdings::open(&directory.path().join("kept"), 1 << 30, &Budget::new(1 << 24)).unwrap();
        for (byte, expected) in [(1, 1), (1, 1), (2, 2), (2, 2)] {
            let stored = Stored::of_body("http://h/f".into(), sharing::LEAST, SystemTime::now());
            let keeping = Keeping::new(&holdings, stored);
            let whole = Bytes::from(vec![byte; usize::try_from(sharing::LEAST).unwrap()]);
            assert!(keeping.keep(0, whole.clone()).await);
            drop(keeping);
            while holdings.index().growing > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(holdings.size().entries, expected, "{byte}");
            let piece = whole.slice(..usize::try_from(sharing::PIECE).unwrap());
            assert_eq!(holdings.get(crate::cache::pieces::hash(&piece)).await, Some(piece));
        }
    }

    #[tokio::test]
    async fn one_download_may_take_all_that_is_kept_for_others() {
        const LIMIT: u64 = 1 << 22;
        let directory = tempfile::tempdir().unwrap();
        let holdings = Holdings::open(&directory.path().join("kept"), LIMIT, &Budget::new(1 << 24)).unwrap();
        for (total, is_kept) in [(LIMIT, true), (LIMIT + 1, false)] {
            let keeping =
                Keeping::new(&holdings, Stored::of_body("http://h/f".into(), total, SystemTime::now()));
            assert_eq!(keeping.is_on(), is_kept, "{total}");
            if is_kept {
                let whole = Bytes::from(vec![7; usize::try_from(total).unwrap()]);
                assert!(keeping.keep(0, whole).await, "{total}");
            }
        }
    }
}
