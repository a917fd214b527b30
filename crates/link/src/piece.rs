//! One piece of a body, asked for by its hash: a GET on a link to another member, which is made for this alone.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Uri};

use super::client::Link;
use super::incoming::Incoming;
use super::request::PIECE_PATH;
use super::tunnel::Inbox;
use laneway_h2 as http2;
use laneway_wire::sharing::PieceHash;

/// Why a member did not give a piece.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// It does not have it, or does not serve it now.
    #[error("it does not have the piece")]
    Missing,
    /// It does not have it yet, but is about to get it.
    #[error("it does not have the piece yet")]
    NotYet,
    /// It sent more or less than the piece has.
    #[error("it sent something of another length")]
    Length,
    /// The link or the stream broke.
    #[error("the link broke")]
    Broken(#[from] http2::Error),
}

/// The caller is told each time this many more bytes have come.
const HEARD: usize = 64 * 1024;

/// Asks the member at the other end of `link` for a piece of `length` bytes. The bytes are not verified here. The caller sets the
/// deadline; `heard` is called when 64 KiB more have come.
///
/// # Errors
/// [`PieceError`].
pub async fn fetch(
    link: &Link,
    hash: &PieceHash,
    length: usize,
    heard: impl Fn(),
) -> Result<Bytes, PieceError> {
    let counted = link.state.tunnel();
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    let uri = Uri::builder().scheme("https").authority("member.laneway");
    *request.uri_mut() = uri
        .path_and_query(format!("{PIECE_PATH}{hash}"))
        .build()
        .expect("constants and hexadecimal digits are a valid URI");
    let response = link.send_without_body(request).await?.await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::TOO_EARLY => return Err(PieceError::NotYet),
        _ => return Err(PieceError::Missing),
    }
    let mut inbox = Inbox::new(response.into_body(), counted);
    let mut piece = BytesMut::with_capacity(length);
    while let Some(bytes) = inbox.next().await? {
        if piece.len() + bytes.len() > length {
            return Err(PieceError::Length);
        }
        if piece.len() / HEARD < (piece.len() + bytes.len()) / HEARD {
            heard();
        }
        piece.extend_from_slice(&bytes);
    }
    if piece.len() == length { Ok(piece.freeze()) } else { Err(PieceError::Length) }
}

impl Incoming {
    /// Answers with a piece. A member that gives up meanwhile, or does not take it in time, gets only part of it or nothing.
    pub async fn answer_piece(self, piece: Bytes) {
        self.answer(&Response::new(()), piece).await;
    }

    /// Answers that the piece is not here: not yet, if it is about to come (425, RFC 8470 §5.2, used for want of a better one).
    pub fn answer_missing(self, is_about_to_come: bool) {
        let mut response = Response::new(());
        let status = if is_about_to_come { StatusCode::TOO_EARLY } else { StatusCode::NOT_FOUND };
        *response.status_mut() = status;
        // The member may have given up.
        let _ = self.respond.send(&response, true);
    }
}
