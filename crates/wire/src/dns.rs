//! DNS messages (RFC 1035, RFC 6891): decides how to handle the bytes of a query, and encodes the answer. Without I/O;
//! forwarding and caching are elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

pub use hickory_proto::op::ResponseCode;
use hickory_proto::op::{self, Edns, Message, MessageType, OpCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, HINFO};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::target::Host;

/// Maximum length of a message over TCP and over a link (RFC 1035 §4.2.2), in bytes.
pub const LONGEST: usize = u16::MAX as usize;
/// Length of the header (RFC 1035 §4.1.1), in bytes. A shorter message is not answered.
const HEADER: usize = 12;
/// Message size that every peer accepts over UDP (RFC 1035 §4.2.1), in bytes.
const LEAST_PAYLOAD: u16 = 512;
/// Maximum size of a message sent over UDP, in bytes, even if the peer accepts more.
const MOST_PAYLOAD: u16 = 4096;
/// Maximum UDP message size that this side announces, in bytes: not fragmented on any usual network (RFC 9715 §3).
const OWN_PAYLOAD: u16 = 1232;
/// TTL of the records that are made here, in seconds.
const OWN_TTL: u32 = 3600;

/// Extended DNS Errors (RFC 8914 §4): tell the user why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another reason, which the text explains.
    Other = 0,
    /// The rules of the gateway forbid this name.
    Prohibited = 18,
    /// This kind of query is not supported.
    NotSupported = 21,
    /// No name server could be reached.
    NoReachableAuthority = 22,
    /// A name server could not be queried, or did not answer.
    NetworkError = 23,
}

/// A valid query.
#[derive(Clone, Debug)]
pub struct Query {
    id: u16,
    question: op::Query,
    /// Maximum UDP message size of the peer in bytes, and whether it wants signatures; `None` without EDNS.
    edns: Option<(u16, bool)>,
    recursion_desired: bool,
    checking_disabled: bool,
    authentic_data: bool,
}

/// The part of a query that determines the answer: queries with equal keys have the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    kind: RecordType,
    signatures: bool,
    unchecked: bool,
}

/// How to handle the bytes of a query.
#[derive(Debug)]
pub enum Decision {
    /// Do not answer: the message is a response, or is too short for a header.
    Ignore,
    /// The answer is known: the query (`None` if it could not be parsed), the response code and the bytes to send.
    Answer(Box<Option<Query>>, ResponseCode, Vec<u8>),
    /// A name server must be queried.
    Ask(Box<Query>),
}

/// The label of a response code in metrics; uncommon codes share one.
pub fn word(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "noerror",
        ResponseCode::FormErr => "formerr",
        ResponseCode::ServFail => "servfail",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::NotImp => "notimp",
        ResponseCode::Refused => "refused",
        ResponseCode::BADVERS => "badvers",
        _ => "other",
    }
}

impl Decision {
    /// Parses a query. Malformed and unsupported queries are answered with FORMERR, NOTIMP, BADVERS or REFUSED. Also
    /// answered without a name server: ANY, with the smallest possible answer (RFC 8482 §4.2), and names that mean this
    /// machine or do not exist (RFC 6761 §6.3, §6.4, RFC 7686 §2).
    pub fn of(bytes: &[u8]) -> Self {
        let Some([id_high, id_low, flags, ..]) = bytes.get(..HEADER) else { return Self::Ignore };
        if flags & 0x80 > 0 {
            return Self::Ignore;
        }
        let bare = |code: ResponseCode| {
            // Only the header, because the rest was not parsed: QR is set; the opcode and RD are copied.
            let mut answer = vec![*id_high, *id_low, 0x80 | flags & 0x79, 0x80 | code.low()];
            answer.resize(HEADER, 0);
            Self::Answer(Box::new(None), code, answer)
        };
        if flags & 0x78 > 0 {
            return bare(ResponseCode::NotImp);
        }
        let Ok(message) = Message::from_vec(bytes) else { return bare(ResponseCode::FormErr) };
        let [question] = &message.queries[..] else { return bare(ResponseCode::FormErr) };
        let query = Query {
            id: message.metadata.id,
            question: question.clone(),
            edns: message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            authentic_data: message.metadata.authentic_data,
        };
        let version = message.edns.as_ref().map_or(0, Edns::version);
        match query.known(version) {
            Some(answer) => {
                let bytes = encode(&query.answer(&answer));
                Self::Answer(Box::new(Some(query)), answer.metadata.response_code, bytes)
            }
            None => Self::Ask(Box::new(query)),
        }
    }
}

impl Query {
    /// A question for the addresses of `name`, of the type A or AAAA.
    pub fn for_addresses(name: Name, kind: RecordType, edns: bool) -> Self {
        Self {
            id: 0,
            question: op::Query::query(name, kind),
            edns: edns.then_some((OWN_PAYLOAD, false)),
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
        }
    }

    /// The answer, if no name server is needed for it.
    fn known(&self, edns_version: u8) -> Option<Message> {
        if edns_version > 0 {
            return Some(failure(ResponseCode::BADVERS, Reason::NotSupported, "only EDNS version 0"));
        }
        if self.question.query_class() != DNSClass::IN {
            return Some(failure(ResponseCode::Refused, Reason::NotSupported, "only the class IN"));
        }
        let (name, kind) = (self.question.name(), self.question.query_type());
        match u16::from(kind) {
            255 => {
                let nothing = HINFO::new("RFC8482".into(), String::new());
                return Some(found([self.record(RData::HINFO(nothing))]));
            }
            0 | 41 | 128..=254 => {
                let sentence = "a query for one type of records only";
                return Some(failure(ResponseCode::Refused, Reason::NotSupported, sentence));
            }
            _ => {}
        }
        if name.is_localhost() || name.iter().next_back().is_some_and(|top| is(top, "localhost")) {
            return Some(match kind {
                RecordType::A => found([self.record(RData::A(A(Ipv4Addr::LOCALHOST)))]),
                RecordType::AAAA => found([self.record(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)))]),
                _ => found([]),
            });
        }
        let top = name.iter().next_back();
        top.is_some_and(|top| is(top, "invalid") || is(top, "onion")).then(|| {
            let mut message = found([]);
            message.metadata.response_code = ResponseCode::NXDomain;
            message
        })
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.question.name().clone(), OWN_TTL, data)
    }

    /// The question: name, type and class.
    pub fn question(&self) -> &op::Query {
        &self.question
    }

    /// The part of the query that determines the answer. Names are compared case-insensitively (RFC 4343).
    pub fn key(&self) -> Key {
        Key {
            name: self.question.name().to_lowercase(),
            kind: self.question.query_type(),
            signatures: self.wants_signatures(),
            unchecked: self.checking_disabled,
        }
    }

    fn wants_signatures(&self) -> bool {
        self.edns.is_some_and(|(_, signatures)| signatures)
    }

    /// Whether the question for a name server has an EDNS record.
    pub fn has_edns(&self) -> bool {
        self.edns.is_some()
    }

    /// This question for a name server, with this `id`, and with an EDNS record where `edns` says so. The app's EDNS
    /// options, such as client subnet and cookie, are not forwarded.
    pub fn to_server(&self, id: u16, edns: bool) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.authentic_data = edns;
        message.add_query(self.question.clone());
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OWN_PAYLOAD).set_version(0).set_dnssec_ok(self.wants_signatures());
            message.set_edns(edns);
        }
        message
    }

    /// The bytes of this question for a link; the id is 0 (RFC 8484 §4.1).
    pub fn to_link(&self) -> Vec<u8> {
        encode(&self.to_server(0, true))
    }

    /// Turns `found` into the answer to this query, with the query's id, flags and exact spelling of the name.
    pub fn answer(&self, found: &Message) -> Message {
        let mut answer = Message::response(self.id, OpCode::Query);
        let metadata = &mut answer.metadata;
        metadata.response_code = found.metadata.response_code;
        metadata.authoritative = false;
        metadata.recursion_desired = self.recursion_desired;
        metadata.recursion_available = true;
        metadata.checking_disabled = self.checking_disabled;
        let wants_to_know = self.authentic_data || self.wants_signatures();
        metadata.authentic_data = found.metadata.authentic_data && wants_to_know;
        answer.queries = vec![self.question.clone()];
        answer.answers.clone_from(&found.answers);
        answer.authorities.clone_from(&found.authorities);
        answer.additionals.clone_from(&found.additionals);
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OWN_PAYLOAD).set_version(0).set_dnssec_ok(self.wants_signatures());
            let error = found.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(EXTENDED_ERROR)));
            if let Some(error) = error {
                edns.options_mut().insert(error.clone());
            }
            answer.set_edns(edns);
        }
        answer.maybe_strip_dnssec_records(self.wants_signatures())
    }

    /// Maximum size of an answer to the peer over UDP, in bytes (RFC 6891 §6.2.3, §6.2.5).
    pub fn payload(&self) -> usize {
        let said = self.edns.map_or(LEAST_PAYLOAD, |(payload, _)| payload);
        said.clamp(LEAST_PAYLOAD, MOST_PAYLOAD).into()
    }

    /// The host that the rules of a gateway apply to: the address in a reverse name, otherwise the name without its
    /// leading service labels (RFC 8552). Characters that are not allowed in a host name become `?`.
    pub fn subject(&self) -> Host {
        let name = self.question.name();
        if let Ok(net) = name.parse_arpa_name()
            && net.prefix_len() == net.max_prefix_len()
        {
            return Host::Address(net.addr());
        }
        let plain = |byte: &u8| match byte.to_ascii_lowercase() {
            byte if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) => char::from(byte),
            _ => '?',
        };
        let labels = name.iter().skip_while(|label| label.starts_with(b"_"));
        let labels: Vec<String> = labels.map(|label| label.iter().map(plain).collect()).collect();
        let name = labels.join(".");
        match Host::parse(&name) {
            Ok(address @ Host::Address(_)) => address,
            _ => Host::Name(name),
        }
    }
}

/// The EDNS option code of extended errors (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

fn is(label: &[u8], name: &str) -> bool {
    label.eq_ignore_ascii_case(name.as_bytes())
}

fn found(answers: impl IntoIterator<Item = Record>) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.add_answers(answers.into_iter().collect::<Vec<_>>());
    message
}

/// A response that carries an error code and the reason.
pub fn failure(code: ResponseCode, reason: Reason, sentence: &str) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    let mut data = (reason as u16).to_be_bytes().to_vec();
    data.extend_from_slice(sentence.as_bytes());
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    message.set_edns(edns);
    message
}

/// What a message of [`failure`] says if its reason is [`Reason::NetworkError`].
pub fn network_error(message: &Message) -> Option<String> {
    said(message, Reason::NetworkError)
}

/// Whether a message is one of [`failure`] whose reason is [`Reason::Prohibited`].
pub fn is_prohibited(message: &Message) -> bool {
    said(message, Reason::Prohibited).is_some()
}

fn said(message: &Message, reason: Reason) -> Option<String> {
    let option = message.edns.as_ref()?.option(EdnsCode::from(EXTENDED_ERROR))?;
    let EdnsOption::Unknown(EXTENDED_ERROR, data) = option else { return None };
    let (code, sentence) = data.split_first_chunk::<2>()?;
    let is_it = *code == (reason as u16).to_be_bytes();
    is_it.then(|| String::from_utf8_lossy(sentence).into_owned())
}

/// The bytes of a message for TCP or a link. One that exceeds [`LONGEST`] becomes SERVFAIL: truncation would mean "ask
/// again by TCP", which cannot help.
pub fn encode(message: &Message) -> Vec<u8> {
    if let Some(bytes) = within(message, LONGEST) {
        return bytes;
    }
    let mut failed = failure(ResponseCode::ServFail, Reason::Other, "the answer exceeds 65,535 bytes");
    failed.metadata.id = message.metadata.id;
    failed.metadata.recursion_desired = message.metadata.recursion_desired;
    failed.metadata.recursion_available = true;
    failed.queries.clone_from(&message.queries);
    if message.edns.is_none() {
        failed.edns = None;
    }
    failed.to_vec().unwrap_or_default()
}

/// The bytes of a message for UDP, at most `most`. Records that the answer does not need are left out first, which is no
/// truncation; an answer that is too long without them is truncated: it has TC set and contains no records
/// (RFC 2181 §9), and the peer asks again by TCP.
pub fn encode_datagram(message: &Message, most: usize) -> Vec<u8> {
    if let Some(bytes) = within(message, most) {
        return bytes;
    }
    let mut shorter = message.clone();
    shorter.additionals.clear();
    if let Some(bytes) = within(&shorter, most) {
        return bytes;
    }
    // Beside an answer these records only tell who is responsible, unless they are proofs; without an answer they tell why.
    let has_proofs = message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    if !message.answers.is_empty() && !has_proofs {
        shorter.authorities.clear();
        if let Some(bytes) = within(&shorter, most) {
            return bytes;
        }
    }
    let mut short = message.truncate();
    // If it still does not fit, the EDNS record with the explanation is left out.
    within(&short, most).unwrap_or_else(|| {
        short.edns = None;
        short.to_vec().unwrap_or_default()
    })
}

/// The bytes of the whole message, if they are at most `most`. The encoder leaves out records that exceed a message, and
/// sets TC.
fn within(message: &Message, most: usize) -> Option<Vec<u8>> {
    let is_whole =
        |bytes: &Vec<u8>| message.metadata.truncation || bytes.get(2).is_some_and(|flags| flags & 2 == 0);
    message.to_vec().ok().filter(|bytes| bytes.len() <= most && is_whole(bytes))
}

/// How long an answer may be cached, in seconds: the shortest TTL of its records, or for a negative answer at most the
/// minimum in the zone's SOA record (RFC 2308 §5); 0 if it must not be cached.
pub fn lifetime(message: &Message) -> u32 {
    /// Maximum lifetimes in seconds: a day, and an hour for a negative answer (RFC 2308 §5), so that mistakes expire.
    const LONGEST: u32 = 86_400;
    const LONGEST_NEGATIVE: u32 = 3_600;
    let code = message.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) || message.metadata.truncation {
        return 0;
    }
    let shortest = message.all_sections().map(|record| record.ttl).min();
    let start_of_authority = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    });
    let kind = message.queries.first().map(op::Query::query_type);
    let is_negative = code == ResponseCode::NXDomain
        || !message.answers.iter().any(|record| Some(record.record_type()) == kind);
    match (is_negative, start_of_authority) {
        (false, _) => shortest.unwrap_or(0).min(LONGEST),
        (true, Some(minimum)) => shortest.unwrap_or(0).min(minimum).min(LONGEST_NEGATIVE),
        (true, None) => 0,
    }
}

/// Reduces the TTL of every record of an answer by `seconds`.
pub fn age(message: &mut Message, seconds: u32) {
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in sections.into_iter().flatten() {
        record.ttl = record.ttl.saturating_sub(seconds);
    }
}

#[cfg(test)]
mod tests;
