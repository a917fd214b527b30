//! Name servers on s1 that answer in odd ways, as seen in the field.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Lab;

/// How a name server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// As it should.
    Usual,
    /// Never to questions for IPv6 addresses.
    DropsAaaa,
    /// With this code to questions for IPv6 addresses.
    CodeForAaaa(ResponseCode),
    /// With this code, and the bare header, to questions with an EDNS record.
    CodeForEdns(ResponseCode),
    /// Never to questions with an EDNS record.
    DropsEdns,
    /// With this code to every question.
    Code(ResponseCode),
    /// As a server that neither knows the name nor asks others.
    Lame,
    /// Not at all.
    Silent,
    /// With additional records that nobody can read.
    BrokenAdditionals,
    /// With as many bytes of a long answer as fit, up to the middle of a record.
    CutsRecords,
}

/// The zone: a name and its addresses, or what it is an alias of; after `@` an address that is said to be another name's.
const ZONE: &[(&str, &[&str])] = &[
    ("web.lab.", &["10.88.0.100", "2001:db8::100"]),
    ("four.lab.", &["10.88.0.4"]),
    ("six.lab.", &["2001:db8::6"]),
    ("a_b.lab.", &["10.88.0.11"]),
    ("_srv.lab.", &["10.88.0.12"]),
    ("some_host.corp.lab.", &["10.88.0.13"]),
    ("short.corp.lab.", &["10.88.0.14"]),
    ("short.other.lab.", &["10.88.0.15"]),
    ("host.sub.corp.lab.", &["10.88.0.16"]),
    ("dotted.lab.", &["10.88.0.17"]),
    ("xn--caf-dma.lab.", &["10.88.0.18"]),
    ("-dash-.lab.", &["10.88.0.19"]),
    ("empty.lab.", &[]),
    ("www.lab.", &["=web.lab."]),
    ("chain.lab.", &["=link.lab."]),
    ("link.lab.", &["=www.lab."]),
    ("dangling.lab.", &["=none.lab."]),
    ("127.lab.", &["10.88.0.20"]),
    ("stray.lab.", &["@10.88.0.22"]),
];

/// A name of 253 characters.
pub(crate) fn longest_name() -> String {
    ["n".repeat(63), "n".repeat(63), "n".repeat(63), "n".repeat(57), "lab".to_owned()].join(".")
}

impl Lab {
    /// Starts name servers at 10.88.0.101, 10.88.0.102 and so on. They end with the trials.
    pub(crate) fn odd_name_servers(&self, habits: &[Habit]) {
        for (number, &habit) in (101..).zip(habits) {
            let address = SocketAddr::from((Ipv4Addr::new(10, 88, 0, number), 53));
            self.server.ip(&format!("address add {}/24 dev out", address.ip()));
            let (udp, tcp) = self
                .server
                .inside(|| (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap()));
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    if let Some(answer) = answer(&buffer[..length], habit, true) {
                        let _ = udp.send_to(&answer, from);
                    }
                }
            });
            thread::spawn(move || {
                for mut app in tcp.incoming().flatten() {
                    let _ = app.set_read_timeout(Some(Duration::from_secs(5)));
                    let mut length = [0; 2];
                    while app.read_exact(&mut length).is_ok() {
                        let mut question = vec![0; u16::from_be_bytes(length).into()];
                        if app.read_exact(&mut question).is_err() {
                            break;
                        }
                        let Some(answer) = answer(&question, habit, false) else { break };
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        let _ = app.write_all(&[&length[..], &answer].concat());
                    }
                }
            });
        }
    }
}

fn answer(bytes: &[u8], habit: Habit, by_udp: bool) -> Option<Vec<u8>> {
    let asked = Message::from_vec(bytes).ok()?;
    let question = asked.queries.first()?;
    let is_six = question.query_type() == RecordType::AAAA;
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    match habit {
        Habit::Silent => return None,
        Habit::DropsAaaa if is_six => return None,
        Habit::DropsEdns if asked.edns.is_some() => return None,
        Habit::CodeForEdns(code) if asked.edns.is_some() => {
            answer.metadata.response_code = code;
            return answer.to_vec().ok();
        }
        _ => {}
    }
    answer.queries = asked.queries.clone();
    match habit {
        Habit::Code(code) => answer.metadata.response_code = code,
        Habit::CodeForAaaa(code) if is_six => answer.metadata.response_code = code,
        Habit::Lame => answer.metadata.recursion_available = false,
        _ => fill(&mut answer, question.name(), question.query_type()),
    }
    let mut bytes = answer.to_vec().ok()?;
    if by_udp && bytes.len() > 512 && habit == Habit::CutsRecords {
        bytes.truncate(507);
        bytes[2] |= 2;
    } else if by_udp && bytes.len() > 512 && asked.edns.is_none() {
        answer.answers.clear();
        answer.metadata.truncation = true;
        bytes = answer.to_vec().ok()?;
    }
    if habit == Habit::BrokenAdditionals {
        // One additional record: the root, type A, class IN, TTL 0, with three bytes of address.
        bytes[11] = 1;
        bytes.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    }
    Some(bytes)
}

/// Adds the records of a name, and those that it is an alias of.
fn fill(answer: &mut Message, name: &Name, kind: RecordType) {
    let text = name.to_ascii().to_ascii_lowercase();
    let many: Vec<String> = (1..=60).map(|number| format!("10.99.0.{number}")).collect();
    let values: Vec<&str> = match ZONE.iter().find(|(known, _)| *known == text) {
        Some((_, values)) => values.to_vec(),
        None if text == "many.lab." => many.iter().map(String::as_str).collect(),
        None if text.trim_end_matches('.') == longest_name() => vec!["10.88.0.21"],
        None => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return;
        }
    };
    for value in values {
        let (owner, value) = match value.strip_prefix('@') {
            Some(value) => (Name::from_ascii("other.lab.").unwrap(), value),
            None => (name.clone(), value),
        };
        let data = match (value.strip_prefix('='), value.parse::<IpAddr>()) {
            (Some(alias), _) => {
                let alias = Name::from_ascii(alias).unwrap();
                answer.add_answer(Record::from_rdata(name.clone(), 5, RData::CNAME(CNAME(alias.clone()))));
                fill(answer, &alias, kind);
                continue;
            }
            (None, Ok(IpAddr::V4(ip))) if kind == RecordType::A => RData::A(A(ip)),
            (None, Ok(IpAddr::V6(ip))) if kind == RecordType::AAAA => RData::AAAA(AAAA(ip)),
            _ => continue,
        };
        answer.add_answer(Record::from_rdata(owner, 5, data));
    }
}
