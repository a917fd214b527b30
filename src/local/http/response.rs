//! The response of a server, passed on to the app.

use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};

use super::exchange::{Exchange, Trouble};
use super::several::Prospect;
use crate::link::relay::Progress;
use crate::local::server_connection::{FromServer, ServerError, ToServer};
use crate::memory::Tally;
use crate::net;
use crate::wire::http::{
    BodyLength, ChunkedDecoder, ChunkedEncoder, MAX_LINK_HEAD, Malformed, Recipient, ResponseHead, Step,
    head_end, may_begin_response,
};
use crate::wire::resume::Point;

/// Maximum number of interim responses (1xx) to one request.
const MAX_INTERIM: usize = 10_000;

/// A response that was passed on completely.
pub(super) struct Delivered {
    /// The server has changed protocols (101).
    pub(super) upgraded: bool,
    /// The app may send another request on its connection: it can tell where the response ends without the end of the
    /// connection, and was not told that this is the last one.
    pub(super) again: bool,
    /// The server takes another request on this connection.
    pub(super) reusable: bool,
}

impl Exchange<'_> {
    /// Passes on the response, interim responses included.
    pub(super) async fn deliver(
        &self,
        (to_server, server): (Option<&mut ToServer<'_>>, &mut FromServer<'_>),
        progress: &Progress<'_>,
    ) -> Result<Delivered, Trouble> {
        let (mut buffer, mut interim) = (BytesMut::new(), 0);
        let mut response = loop {
            let response = self.read_head(server, &mut buffer).await?;
            if !response.is_interim() {
                break response;
            }
            interim += 1;
            if interim > MAX_INTERIM {
                return Err(self.bad(Malformed::StatusLine));
            }
            if response.reaches(self.request.version) {
                let mut head = BytesMut::new();
                self.write_head(&response, BodyLength::None, true, &mut head);
                self.put(server, &mut head, &[], false).await?;
                self.has_passed_interim();
            }
        };
        let mut head = BytesMut::new();
        if response.status == 101 {
            if !self.request.upgrade.is_some_and(|upgrade| response.switches_to(upgrade)) {
                return Err(Trouble::Bad(Malformed::StatusLine));
            }
            self.write_head(&response, BodyLength::None, true, &mut head);
            head.extend_from_slice(&buffer);
            self.put(server, &mut head, &[], false).await?;
            return Ok(Delivered { upgraded: true, again: false, reusable: false });
        }
        if response.asks_for_connection_login() {
            self.has_login.store(true, Relaxed);
        }
        response.check_codings(self.request.version).map_err(|malformed| self.bad(malformed))?;
        // How the server ends the body, whatever the app gets.
        let sent_as = response.body;
        let in_pieces = to_server.filter(|_| self.comes_in_pieces(&mut response));
        let kept = in_pieces.is_some().then(|| self.stored(&response));
        if let Some(front) = self.front {
            self.receive(front, &mut response)?;
        }
        let body_as = response.client_body(self.request.version);
        let again = body_as != BodyLength::UntilClose && self.keeps_app(&response, &buffer);
        self.write_head(&response, body_as, again, &mut head);
        let chunked = body_as == BodyLength::Chunked;
        let stray = match sent_as {
            BodyLength::None => !buffer.is_empty(),
            BodyLength::Exact(length) => {
                if !self.has_login.load(Relaxed) && response.body == sent_as {
                    *self.point() = self.point_of(&response).map(|point| (point, length));
                }
                let prospect = self.prospect(server, &response);
                let how = (progress, chunked, prospect);
                match in_pieces.zip(kept) {
                    Some((to, kept)) => {
                        Box::pin(self.shared((to, server), &mut head, &mut buffer, kept, how)).await?;
                        // Nothing follows a response that may come in pieces.
                        true
                    }
                    None => {
                        let is_whole = self.exact(server, &mut head, &mut buffer, length, how).await?;
                        !is_whole || !buffer.is_empty()
                    }
                }
            }
            BodyLength::Chunked => {
                self.chunked(server, &mut head, &mut buffer, chunked, progress).await? || !buffer.is_empty()
            }
            BodyLength::UntilClose => {
                self.until_close(server, &mut head, buffer.freeze(), chunked, progress).await?;
                true
            }
        };
        self.finish_body(server, &mut head, chunked).await?;
        Ok(Delivered { upgraded: false, again, reusable: response.keep_alive && !stray })
    }

    /// What identifies the content of `response`, if the rest of it can be asked for elsewhere.
    fn point_of(&self, response: &ResponseHead) -> Option<Point> {
        let is_checked = self.filter().as_ref().is_some_and(|filter| filter.checks());
        let of = match response.status {
            206 => Point::of_part,
            _ if is_checked => Point::of_checked,
            _ => Point::of,
        };
        of(self.request, response)
    }

    /// Reads the head of a response. What follows it stays in `buffer`.
    async fn read_head(
        &self,
        server: &mut FromServer<'_>,
        buffer: &mut BytesMut,
    ) -> Result<ResponseHead, Trouble> {
        let (mut searched, mut held) = (0, Tally::of(self.account));
        loop {
            held.set(buffer.capacity());
            if let Some(end) = head_end(buffer, searched) {
                let head = buffer.split_to(end);
                return ResponseHead::parse_of_node(&head, &self.request.method)
                    .map_err(|error| self.bad(error));
            }
            searched = buffer.len();
            if searched >= MAX_LINK_HEAD {
                return Err(self.bad(Malformed::HeadTooLarge));
            }
            // The server may wait for an answer in its own protocol, and never end a head.
            if !may_begin_response(buffer) {
                return Err(self.bad(Malformed::NotHttp));
            }
            match server.next().await {
                Ok(Some(data)) => buffer.extend_from_slice(&data),
                Ok(None) if buffer.is_empty() && !self.started.load(Relaxed) => {
                    return Err(Trouble::Silent { lost: false, why: "it closed".into() });
                }
                Ok(None) => return Err(self.bad(Malformed::Unfinished)),
                Err(error) if !self.started.load(Relaxed) && error.is_cut() => return Err(Trouble::Cut),
                // Nothing of an incomplete head has been passed on.
                Err(error) if !self.started.load(Relaxed) => {
                    return Err(Trouble::Silent { lost: error.is_link_lost(), why: error.to_string() });
                }
                Err(error) => return Err(Trouble::Truncated(error.to_string())),
            }
        }
    }

    /// Whether the app's connection stays open after this response, of whose body `received` has come. A login ends with the
    /// server's connection, so the app's has to end too; and nobody takes the rest of a request's body after the response.
    fn keeps_app(&self, response: &ResponseHead, received: &[u8]) -> bool {
        let is_whole = match response.body {
            BodyLength::None => true,
            BodyLength::Exact(length) => received.len() as u64 >= length,
            BodyLength::Chunked | BodyLength::UntilClose => false,
        };
        let ends_early = self.has_body_left.load(Relaxed) && (is_whole || !response.keep_alive);
        self.request.keep_alive && !ends_early && (response.keep_alive || !self.has_login.load(Relaxed))
    }

    fn write_head(&self, response: &ResponseHead, body_as: BodyLength, keep_alive: bool, out: &mut BytesMut) {
        let to = Recipient { version: self.request.version, keep_alive };
        response.write_forward(&self.local.name, to, body_as, SystemTime::now(), out);
    }

    /// Passes on a body of `length` bytes, whose beginning is in `buffer`. What follows it stays there. It goes in chunks if the
    /// app gets another body than the server has sent; and comes over several gateways if there is a prospect of it. Returns
    /// whether the server has sent all of the body on this connection.
    pub(super) async fn exact(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        length: u64,
        (progress, as_chunks, mut prospect): (&Progress<'_>, bool, Option<Prospect>),
    ) -> Result<bool, Trouble> {
        let mut left = length;
        let mut data = buffer.split().freeze();
        loop {
            let count = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
            let rest = data.split_off(count);
            if count > 0 {
                self.put_body(server, head, data, as_chunks).await?;
                left -= count as u64;
                progress.add_received(count);
                if let Some((_, still)) = self.point().as_mut() {
                    *still = left;
                }
            }
            if left == 0 {
                buffer.extend_from_slice(&rest);
                return Ok(true);
            }
            let Some(several) = &mut prospect else {
                data = self.next_of_body(server, head).await?;
                continue;
            };
            let since = Instant::now();
            data = self.next_of_body(server, head).await?;
            several.waited(since.elapsed());
            if several.is_due(left)
                && let Some(prospect) = prospect.take()
            {
                Box::pin(self.over_several(prospect, server, data, left, progress)).await?;
                return Ok(false);
            }
        }
    }

    /// Passes on a chunked body, whose beginning is in `buffer`. What follows it stays there. Returns whether the connection
    /// ended with it.
    async fn chunked(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        as_chunks: bool,
        progress: &Progress<'_>,
    ) -> Result<bool, Trouble> {
        let mut decoder = ChunkedDecoder::of_response();
        loop {
            match decoder.decode(buffer) {
                Ok(Step::Data(data)) => {
                    let data = decoder.gather(data, buffer);
                    progress.add_received(data.len());
                    self.put_body(server, head, data, as_chunks).await?;
                }
                Ok(Step::Done) => return Ok(false),
                Ok(Step::NeedMore) if decoder.may_end() => match self.next(server, head).await? {
                    Some(data) => buffer.extend_from_slice(&data),
                    None => return Ok(true),
                },
                Ok(Step::NeedMore) => {
                    let data = self.next_of_body(server, head).await?;
                    if buffer.is_empty() {
                        *buffer = BytesMut::from(data);
                    } else {
                        buffer.extend_from_slice(&data);
                    }
                }
                Err(malformed) => return Err(self.bad(malformed)),
            }
        }
    }

    /// Passes on a body that ends with the connection and begins with `data`.
    async fn until_close(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        mut data: Bytes,
        as_chunks: bool,
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        self.guard();
        loop {
            if !data.is_empty() {
                progress.add_received(data.len());
                self.put_body(server, head, data, as_chunks).await?;
            }
            match self.next(server, head).await? {
                Some(next) => data = next,
                // If a write has met a reset, this end stands for it.
                None => return self.broken.checked(0).map(drop).map_err(|error| cut_off(&error.into())),
            }
        }
    }

    /// The next bytes of a body that has not ended.
    pub(super) async fn next_of_body(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
    ) -> Result<Bytes, Trouble> {
        let next = self.next(server, head).await?;
        next.ok_or_else(|| Trouble::Truncated("the server ended the response too early".into()))
    }

    /// The next bytes, or `None` at the end. If there are none yet, what is left of the head is written meanwhile.
    async fn next(&self, server: &mut FromServer<'_>, head: &mut BytesMut) -> Result<Option<Bytes>, Trouble> {
        if !head.is_empty() {
            tokio::select! {
                biased;
                next = server.next() => return next.map_err(|error| cut_off(&error)),
                () = std::future::ready(()) => self.put(server, head, &[], false).await?,
            }
        }
        if self.started.load(Relaxed) {
            self.guard();
        }
        let is_resumable = self.point().is_some();
        tokio::select! {
            biased;
            next = server.next() => next.map_err(|error| cut_off(&error)),
            () = self.until_cut_off(), if is_resumable => {
                Err(Trouble::Lost("the gateway has lost its way out".into()))
            }
        }
    }

    /// Has the app's connection end with a reset, whatever ends it: what the app has is a part. [`Self::finish_body`] undoes
    /// that.
    pub(super) fn guard(&self) {
        if !self.is_guarded.swap(true, Relaxed) {
            net::reset_on_drop(self.app);
        }
    }

    /// Passes on bytes of the body, by way of the filter if there is one.
    pub(super) async fn put_body(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        data: Bytes,
        as_chunks: bool,
    ) -> Result<(), Trouble> {
        if self.filter().is_none() {
            return self.put(server, head, &data, as_chunks).await;
        }
        self.filter_takes(data);
        self.put_filtered(server, head, as_chunks).await
    }

    /// Passes on what the filter makes of the bytes that it was given.
    async fn put_filtered(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        as_chunks: bool,
    ) -> Result<(), Trouble> {
        while let Some(out) = self.filtered().await? {
            self.put(server, head, &out, as_chunks && !out.is_empty()).await?;
        }
        Ok(())
    }

    /// Passes on what is left of the head, what was held back of the body, and its end.
    pub(super) async fn finish_body(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        as_chunks: bool,
    ) -> Result<(), Trouble> {
        self.filter_has_all()?;
        self.put_filtered(server, head, as_chunks).await?;
        let (last, _held) = self.filter_ends().await?;
        if as_chunks {
            if !last.is_empty() {
                self.put(server, head, &last, true).await?;
            }
            head.extend_from_slice(ChunkedEncoder::END);
            self.put(server, head, &[], false).await?;
        } else {
            self.put(server, head, &last, false).await?;
        }
        if self.is_guarded.swap(false, Relaxed) {
            net::end_orderly(self.app);
        }
        Ok(())
    }

    /// Writes what is left of the head and then `data`, with `as_chunk` as a chunk, in one call.
    async fn put(
        &self,
        server: &mut FromServer<'_>,
        head: &mut BytesMut,
        data: &[u8],
        as_chunk: bool,
    ) -> Result<(), Trouble> {
        if head.is_empty() && data.is_empty() {
            return Ok(());
        }
        self.started.store(true, Relaxed);
        let frame = NonZeroUsize::new(data.len()).filter(|_| as_chunk).map(ChunkedEncoder::frame);
        let (before, after) = match &frame {
            Some(frame) => (frame.as_ref(), ChunkedEncoder::CHUNK_END),
            None => (&[][..], &[][..]),
        };
        let mut pieces = [head, before, data, after].map(IoSlice::new);
        // To resume a download, it must be known exactly what the app has received.
        let finish_work = self.point().is_some();
        let written = server.while_filling(net::write_all_vectored(self.app, &mut pieces), finish_work).await;
        head.clear();
        written.map_err(|error| cut_off(&error))?.map_err(Trouble::App)
    }
}

pub(super) fn cut_off(error: &ServerError) -> Trouble {
    if error.is_link_lost() {
        Trouble::Lost(error.to_string())
    } else if error.is_cut() {
        Trouble::CutOff(error.to_string())
    } else {
        Trouble::Truncated(error.to_string())
    }
}
