//! What the demo reports while it runs.

/// One piece of progress, to be shown. Text is one line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// A part of the demo begins.
    Title(&'a str),
    /// Something happened.
    Step(&'a str),
    /// Something takes a while, until the next report.
    Waiting(&'a str),
    /// A download begins.
    Download {
        /// What downloads.
        name: &'a str,
        /// The size of the file, in bytes.
        size: u64,
    },
    /// Bytes of the download that have arrived so far.
    Downloaded(u64),
    /// The download has ended.
    DownloadEnd,
    /// The demo is over; everything keeps running until its future is dropped.
    Kept,
}

/// Takes each report.
pub(crate) type Reporter<'a> = &'a dyn Fn(Report<'_>);
