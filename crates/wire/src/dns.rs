//! DNS messages (RFC 1035, RFC 6891): from the bytes of a query to what becomes of it, and back to the bytes of an
//! answer. Pure; what asks whom, and what is kept, is elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

pub use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::op::{self, Edns, Message, MessageType, OpCode};
use hickory_resolver::proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_resolver::proto::rr::rdata::{A, AAAA, HINFO};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::target::Host;

/// The longest message, over TCP and over a link (RFC 1035 §4.2.2), in bytes.
pub const LONGEST: usize = u16::MAX as usize;
/// The header's length (RFC 1035 §4.1.1), in bytes: who sends less is not answered.
const HEADER: usize = 12;
/// What every peer takes by UDP (RFC 1035 §4.2.1), in bytes.
const LEAST_PAYLOAD: u16 = 512;
/// The most that is sent by UDP, whatever the peer says that it takes.
const MOST_PAYLOAD: u16 = 4096;
/// What this side says that it takes by UDP: no fragments on any usual network (RFC 9715 §3).
const OWN_PAYLOAD: u16 = 1232;
/// How long the answers are good that are made here, in seconds.
const OWN_TTL: u32 = 3600;

/// Extended DNS Errors (RFC 8914 §4): why there is no answer, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something else; the text says what.
    Other = 0,
    /// The rules of the gateway do not let this name be asked for.
    Prohibited = 18,
    /// What was asked for is not done here.
    NotSupported = 21,
    /// Nobody could be asked.
    NoReachableAuthority = 22,
    /// A name server could not be asked, or did not answer.
    NetworkError = 23,
}

/// A question that can be asked.
#[derive(Clone, Debug)]
pub struct Query {
    id: u16,
    question: op::Query,
    /// How much the peer takes by UDP and whether it wants signatures; none without EDNS.
    edns: Option<(u16, bool)>,
    recursion_desired: bool,
    checking_disabled: bool,
    authentic_data: bool,
}

/// What two queries have in common that have the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    kind: RecordType,
    signatures: bool,
    unchecked: bool,
}

/// What becomes of the bytes of a query.
#[derive(Debug)]
pub enum Decision {
    /// No query: there is nothing to say, or nobody to say it to.
    Ignore,
    /// The answer is known, to this query or to none that could be read, with this code.
    Answer(Box<Option<Query>>, ResponseCode, Vec<u8>),
    /// Somebody has to be asked.
    Ask(Box<Query>),
}

/// The word for a code, for counts: those that are usual have one.
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
    /// Reads a query. Whatever is not one, and whatever is not asked here, is answered as its protocol says: FORMERR,
    /// NOTIMP, BADVERS, REFUSED, the smallest possible answer to ANY (RFC 8482 §4.2), and the names that mean this
    /// machine or nobody (RFC 6761 §6.3, §6.4, RFC 7686 §2).
    pub fn of(bytes: &[u8]) -> Self {
        let Some([id_high, id_low, flags, ..]) = bytes.get(..HEADER) else { return Self::Ignore };
        if flags & 0x80 > 0 {
            return Self::Ignore;
        }
        let bare = |code: ResponseCode| {
            // The header alone: what follows it was not understood. QR, the opcode and RD.
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
                let bytes = encode(&query.answer(&answer), LONGEST);
                Self::Answer(Box::new(Some(query)), answer.metadata.response_code, bytes)
            }
            None => Self::Ask(Box::new(query)),
        }
    }
}

impl Query {
    /// What can be said without asking anybody.
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

    /// What the answer depends on. Names are compared without regard to case (RFC 4343).
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

    /// The same question for a name server, with this `id`. Nothing else of what the app said goes along: no client
    /// subnet, no cookie.
    pub fn to_server(&self, id: u16) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.authentic_data = true;
        message.add_query(self.question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(OWN_PAYLOAD).set_version(0).set_dnssec_ok(self.wants_signatures());
        message.set_edns(edns);
        message
    }

    /// The bytes of the same question for a link (RFC 8484 §4.1: the id is 0).
    pub fn to_link(&self) -> Vec<u8> {
        encode(&self.to_server(0), LONGEST)
    }

    /// What was `found`, as the answer to this query: its id, its question as it was spelt, its flags.
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

    /// How much the peer takes by UDP, in bytes (RFC 6891 §6.2.3, §6.2.5).
    pub fn payload(&self) -> usize {
        let said = self.edns.map_or(LEAST_PAYLOAD, |(payload, _)| payload);
        said.clamp(LEAST_PAYLOAD, MOST_PAYLOAD).into()
    }

    /// What the rules of a gateway judge: the address that a reverse name is about, else the name, without the labels
    /// in front that say which service of it is meant (RFC 8552). Characters that no host name has become `?`.
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
        Host::Name(labels.join("."))
    }
}

/// The option code of extended errors.
const EXTENDED_ERROR: u16 = 15;

fn is(label: &[u8], name: &str) -> bool {
    label.eq_ignore_ascii_case(name.as_bytes())
}

fn found(answers: impl IntoIterator<Item = Record>) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.add_answers(answers.into_iter().collect::<Vec<_>>());
    message
}

/// An answer that says why there is none.
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

/// The bytes of a message, at most so many: one that is longer says so with TC and holds no records (RFC 2181 §9), and
/// one that is longer than any becomes SERVFAIL.
pub fn encode(message: &Message, most: usize) -> Vec<u8> {
    let whole = message.to_vec().ok().filter(|bytes| bytes.len() <= most && bytes.len() <= LONGEST);
    if let Some(bytes) = whole {
        return bytes;
    }
    let mut short = message.truncate();
    // An explanation that does not fit is none.
    if let Ok(bytes) = short.to_vec()
        && bytes.len() <= most
    {
        return bytes;
    }
    short.edns = None;
    short.to_vec().unwrap_or_default()
}

/// How long an answer may be kept, in seconds: the shortest life of its records, or for one that there are none what
/// the zone says (RFC 2308 §5); nothing when it must not be kept.
pub fn lifetime(message: &Message) -> u32 {
    /// A day, and for what does not exist an hour (RFC 2308 §5): mistakes are to pass.
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

/// Lets the records of an answer age by so many seconds.
pub fn age(message: &mut Message, seconds: u32) {
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    for record in sections.into_iter().flatten() {
        record.ttl = record.ttl.saturating_sub(seconds);
    }
}

#[cfg(test)]
mod tests;
