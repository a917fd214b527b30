//! The reasons for which a message is refused.

use super::MAX_HEAD;

/// Why a message is refused. The text is one plain sentence without any bytes of the message, so it can be shown to
/// either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// RFC 6585 §5.
    #[error("a message head larger than {} KiB is refused", MAX_HEAD / 1024)]
    HeadTooLarge,
    /// RFC 9112 §3: the head is too large before its request line has ended.
    #[error("a request target longer than {} KiB is refused", MAX_HEAD / 1024)]
    TargetTooLong,
    /// The bytes given end before the blank line, or continue after it.
    #[error("the message head does not end with exactly one empty line")]
    Unfinished,
    /// RFC 9112 §2.2.
    #[error(
        "a line that does not end with CR LF, or has a lone CR or LF inside, is refused (request smuggling)"
    )]
    LineBreak,
    /// RFC 9112 §3.
    #[error("the request line is not `method target HTTP/1.1`")]
    RequestLine,
    /// RFC 9110 §9.1.
    #[error("the request method is not a valid token")]
    Method,
    /// RFC 9112 §3.2.
    #[error("the request target contains white space, a control character or a fragment")]
    TargetBytes,
    /// RFC 9112 §3.2: none of the four forms, or one that does not belong to the method.
    #[error("the request target does not fit the request method")]
    TargetForm,
    /// An `https:` target, which a proxy could serve only by terminating TLS itself.
    #[error("an https:// address must be requested with CONNECT, not with a plain request")]
    HttpsInAbsoluteForm,
    /// RFC 9110 §4.2: `ftp:` and the like.
    #[error("only http:// addresses can be requested with a plain request")]
    Scheme,
    /// RFC 9110 §4.2.4, §9.3.6: in `Host` or the target of CONNECT, or with a byte that could end the host.
    #[error("a user name or password is not allowed here in an address")]
    UserInfo,
    /// The host of the target is empty, not ASCII, or not a name, IPv4 address or bracketed IPv6 address.
    #[error("the host name in the request target is not valid")]
    Host,
    /// RFC 9110 §4.2.1, §9.3.6.
    #[error("the port in the request target is missing or not a number from 1 to 65535")]
    Port,
    /// RFC 9110 §15.6.6.
    #[error("only HTTP/1.0 and HTTP/1.1 are supported")]
    Version,
    /// RFC 9112 §4.
    #[error("the status line is not `HTTP/1.1 status reason`")]
    StatusLine,
    /// The first bytes of a response are not those of a status line: another protocol, or HTTP/0.9, which has none.
    #[error("it does not begin with `HTTP/1.1`, so it is another protocol")]
    NotHttp,
    /// RFC 9112 §5.2.
    #[error("a header field folded over several lines is refused")]
    ObsFold,
    /// RFC 9110 §5.1.
    #[error("a header field name is missing or not a valid token")]
    FieldName,
    /// RFC 9112 §5.1.
    #[error("white space between a header field name and its colon is refused (request smuggling)")]
    SpaceBeforeColon,
    /// RFC 9110 §5.5.
    #[error("a header field value contains a control character")]
    FieldValue,
    /// RFC 9112 §3.2.
    #[error("an HTTP/1.1 request without a Host field is refused")]
    HostMissing,
    /// RFC 9112 §3.2.
    #[error("a request with several Host fields is refused (request smuggling)")]
    SeveralHosts,
    /// RFC 9112 §3.2.
    #[error("the Host field is not a valid host and port")]
    HostField,
    /// RFC 9112 §6.1, §11.2.
    #[error("a message with both Content-Length and Transfer-Encoding is refused (request smuggling)")]
    BothLengths,
    /// RFC 9112 §6.3.
    #[error("Content-Length is not a decimal number below 2^64")]
    ContentLength,
    /// RFC 9112 §6.3. A response may repeat the same length (RFC 9110 §8.6).
    #[error("a message with several Content-Length values is refused (request smuggling)")]
    SeveralContentLengths,
    /// RFC 9112 §6.1: in a request any but `chunked`; in a response one that is not a token, one after `chunked`, or any
    /// but `chunked` for an HTTP/1.0 client.
    #[error("a Transfer-Encoding other than `chunked` is not supported")]
    TransferEncoding,
    /// RFC 9112 §6.1.
    #[error("a message with several Transfer-Encoding fields is refused (request smuggling)")]
    SeveralTransferEncodings,
    /// RFC 9112 §6.1.
    #[error("Transfer-Encoding in an HTTP/1.0 message is refused (request smuggling)")]
    TransferEncodingInHttp10,
    /// RFC 9110 §9.3.6.
    #[error("a CONNECT request with a chunked body is refused (request smuggling)")]
    BodyOfConnect,
    /// RFC 9112 §7.1.
    #[error("a chunk size is not a hexadecimal number below 2^64")]
    ChunkSize,
    /// RFC 9112 §7.1.1.
    #[error("the chunk extensions are too long or contain a control character")]
    ChunkExtension,
    /// RFC 9112 §7.1.
    #[error("a chunk is not followed by CR LF (request smuggling)")]
    ChunkEnd,
    /// RFC 9112 §7.1.2.
    #[error("the trailer section is too large")]
    TrailerTooLarge,
}

impl Malformed {
    /// The status with which a *request* is refused for this reason: 400, 414, 431, 501 or 505. A refused *response* is
    /// always a 502: the server is at fault.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Malformed::HeadTooLarge | Malformed::TrailerTooLarge => 431,
            Malformed::TargetTooLong => 414,
            Malformed::TransferEncoding => 501,
            Malformed::Version => 505,
            _ => 400,
        }
    }
}
