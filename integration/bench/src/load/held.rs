//! Open tunnels that do nothing: idle ones, and downloads that are not read.

use super::dial::{PATIENCE, Route};
use super::{block_on, verb};
use crate::network::Namespace;
use anyhow::{Context, Result, ensure};
use std::future::Future;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The number of tunnels that are opened at a time.
const AT_ONCE: usize = 64;
/// The deadline for opening all of them.
const OPENING: Duration = Duration::from_secs(12);

/// Open tunnels; they close when this is dropped.
pub(crate) struct Held(Vec<TcpStream>);

impl Held {
    /// No tunnels yet.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Opens more until there are `total`; each has carried a byte in each direction.
    pub(crate) fn idle(&mut self, client: &Namespace, route: Route, total: usize) -> Result<()> {
        self.open(client, total, move || async move {
            let mut stream = route.open_for(&[verb::ECHO, b'x']).await?;
            let mut byte = [0];
            timeout(PATIENCE, stream.read_exact(&mut byte)).await??;
            ensure!(byte == *b"x", "a wrong byte came back");
            Ok(stream)
        })
    }

    /// Begins `total` downloads, and reads none of them.
    pub(crate) fn stalled(client: &Namespace, route: Route, total: usize) -> Result<Self> {
        let mut held = Self::none();
        held.open(client, total, move || async move { Ok(route.open_for(&[verb::DOWNLOAD]).await?) })?;
        Ok(held)
    }

    /// Whether none of them has been closed by the other side, or has received more than requested.
    pub(crate) fn are_open(&self) -> bool {
        self.0
            .iter()
            .all(|stream| stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    }

    fn open<F>(&mut self, client: &Namespace, total: usize, one: impl Fn() -> F + Send + Sync) -> Result<()>
    where
        F: Future<Output = Result<tokio::net::TcpStream>> + Send + 'static,
    {
        let missing = total.saturating_sub(self.0.len());
        let opened = client.inside(|| {
            block_on(async {
                timeout(OPENING, async {
                    let mut opening = JoinSet::new();
                    let mut opened = Vec::with_capacity(missing);
                    for begun in 0..missing {
                        opening.spawn(one());
                        if begun >= AT_ONCE {
                            opened.extend(opening.join_next().await);
                        }
                    }
                    opened.extend(opening.join_all().await.into_iter().map(Ok));
                    opened.into_iter().map(|stream| Ok(stream??.into_std()?)).collect::<Result<Vec<_>>>()
                })
                .await
                .context("it takes too long")?
            })
        });
        let before = self.0.len();
        self.0.extend(opened.with_context(|| format!("opening tunnels {before} to {total}"))?);
        Ok(())
    }
}
