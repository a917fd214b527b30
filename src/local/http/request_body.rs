//! The body of a request, from the app to the server.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::limits::buffer_pool::detached;
use crate::link::relay::Progress;
use crate::local::server_connection::{ServerError, ToServer};
use crate::net;
use crate::wire::http::{BodyLength, ChunkedDecoder, ChunkedEncoder, Malformed, RequestHead, Step};

/// The maximum of one read from the app, in bytes.
pub(super) const READ: usize = 64 * 1024;

/// Why a body was not sent to its end.
pub(super) enum UploadError {
    /// The app hung up before the end.
    App(io::Error),
    /// The body is malformed.
    Malformed(Malformed),
    /// The server stopped reading, or the connection to it broke.
    Server(ServerError),
}

impl From<ServerError> for UploadError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

/// Sends the body of `request`, whose beginning may be in `buffer`, to the server. What follows the body stays in `buffer`.
///
/// # Errors
/// [`UploadError`].
pub(super) async fn send_body(
    request: &RequestHead,
    app: &TcpStream,
    buffer: &mut BytesMut,
    server: &mut ToServer<'_>,
    progress: &Progress<'_>,
) -> Result<(), UploadError> {
    match request.body {
        BodyLength::None | BodyLength::UntilClose => Ok(()),
        BodyLength::Exact(mut left) => {
            while left > 0 {
                if buffer.is_empty() {
                    read_more(app, buffer).await?;
                }
                let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                progress.add_sent(count);
                left -= count as u64;
                // The last part may be little of what was read.
                server.send(detached(buffer.split_to(count).freeze(), READ)).await?;
            }
            Ok(())
        }
        BodyLength::Chunked => {
            let mut decoder = ChunkedDecoder::of_request();
            loop {
                match decoder.decode(buffer).map_err(UploadError::Malformed)? {
                    Step::Data(data) => {
                        let data = decoder.gather(data, buffer);
                        progress.add_sent(data.len());
                        let mut chunk = BytesMut::with_capacity(data.len() + 24);
                        ChunkedEncoder::encode(&data, &mut chunk);
                        server.send(chunk.freeze()).await?;
                    }
                    Step::NeedMore => read_more(app, buffer).await?,
                    Step::Done => return Ok(server.send(Bytes::from_static(ChunkedEncoder::END)).await?),
                }
            }
        }
    }
}

/// Reads more of a body that has not ended.
async fn read_more(app: &TcpStream, buffer: &mut BytesMut) -> Result<(), UploadError> {
    match net::read_some(app, buffer, READ).await {
        Ok(0) => Err(UploadError::App(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(()),
        Err(error) => Err(UploadError::App(error)),
    }
}
