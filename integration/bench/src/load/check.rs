//! The correctness pass: before anything is timed, every peer must carry bytes whole and in order, both ways.

use super::dial::{PATIENCE, Route};
use super::{CHUNK, block_on, pattern, verb};
use crate::network::Namespace;
use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Not a multiple of anything.
const LENGTH: u64 = 24 * 1024 * 1024 + 12_345;

/// Sends and receives the pattern over four tunnels at a time.
pub(crate) fn check(client: &Namespace, route: Route) -> Result<()> {
    client.inside(|| {
        block_on(async {
            let both =
                async { tokio::try_join!(download(route), upload(route), download(route), upload(route)) };
            timeout(3 * PATIENCE, both).await.context("the correctness pass took too long")??;
            Ok(())
        })
    })
}

async fn download(route: Route) -> Result<()> {
    let mut stream = route.open_for(&message(verb::CHECKED_DOWNLOAD)).await?;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    while received < LENGTH {
        let length = stream.read(&mut buffer).await?;
        ensure!(length > 0, "a download ended after {received} of {LENGTH} bytes");
        ensure!(pattern::is(received, &buffer[..length]), "a download is damaged near byte {received}");
        received += length as u64;
    }
    ensure!(received == LENGTH, "a download is too long");
    Ok(())
}

async fn upload(route: Route) -> Result<()> {
    let mut stream = route.open_for(&message(verb::CHECKED_UPLOAD)).await?;
    let mut sent = 0;
    while sent < LENGTH {
        let left = usize::try_from(LENGTH - sent).unwrap_or(CHUNK).min(CHUNK);
        sent += stream.write(&pattern::from(sent)[..left]).await? as u64;
    }
    let mut verdict = [0];
    stream.read_exact(&mut verdict).await.context("no verdict on an upload")?;
    match verdict[0] {
        b'+' => Ok(()),
        _ => bail!("an upload is damaged"),
    }
}

fn message(verb: u8) -> Vec<u8> {
    [&[verb][..], &LENGTH.to_le_bytes()].concat()
}
