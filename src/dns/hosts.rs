//! The hosts file, as hosts(5) describes it.

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::op::{self, Message, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::conf::absolute;
use crate::wire::target::without_dot;

/// The time to live of its answers, in seconds: the file may change at any time.
const TTL: u32 = 5;

/// The names in a hosts file, in lower case, and their addresses.
#[derive(Debug, Default)]
pub struct Hosts {
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, String>,
}

impl Hosts {
    /// The names in `text`, the content of the file. Lines that do not begin with an address are passed over.
    pub fn read(text: &[u8]) -> Self {
        let mut hosts = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            let address = address.to_canonical();
            for (at, name) in words.enumerate() {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                if at == 0 {
                    hosts.by_address.entry(address).or_insert_with(|| name.clone());
                }
                let addresses = hosts.by_name.entry(name).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts
    }

    /// The names of this machine's file; none if it cannot be read.
    pub fn system() -> Self {
        Self::read(&crate::sys::resolver::hosts())
    }

    /// The addresses of a name in lower case, on all lines that have it. A name with a trailing dot is the same one, which the
    /// C library does not find.
    pub fn find(&self, name: &str) -> Option<&[IpAddr]> {
        self.by_name.get(without_dot(name)).map(Vec::as_slice)
    }

    /// The answer to a question, if the file has the name or the address. A name with addresses of one family has none of
    /// the other: a name server that was asked for those could answer that the name does not exist.
    pub fn answer(&self, question: &op::Query) -> Option<Message> {
        let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
        let text = || question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let answers = match question.query_type() {
            RecordType::A => self
                .find(&text())?
                .iter()
                .filter_map(|ip| match ip {
                    IpAddr::V4(ip) => Some(record(RData::A(A(*ip)))),
                    IpAddr::V6(_) => None,
                })
                .collect(),
            RecordType::AAAA => self
                .find(&text())?
                .iter()
                .filter_map(|ip| match ip {
                    IpAddr::V6(ip) => Some(record(RData::AAAA(AAAA(*ip)))),
                    IpAddr::V4(_) => None,
                })
                .collect(),
            RecordType::PTR => vec![record(RData::PTR(PTR(self.reverse(question.name())?)))],
            _ => return None,
        };
        let mut message = Message::response(0, OpCode::Query);
        message.queries = vec![question.clone()];
        message.answers = answers;
        Some(message)
    }

    /// The name of the address in a reverse name.
    fn reverse(&self, name: &Name) -> Option<Name> {
        let net = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len())?;
        absolute(self.by_address.get(&net.addr())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_lines_of_a_name_count_and_case_does_not() {
        let hosts = Hosts::read(
            b"# comment\n10.0.0.1 One one.lab  # alias\n10.0.0.2\tone\r\n2001:db8::1 one\n::ffff:10.0.0.3 mapped\nbad line\n10.0.0.256 no\n10.0.0.4\n10.0.0.1 one",
        );
        let find = |name: &str| {
            hosts.find(name).unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(find("one"), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
        assert_eq!(find("one.lab"), ["10.0.0.1"]);
        assert_eq!((find("one."), find("one.lab.")), (find("one"), find("one.lab")));
        assert_eq!(find("mapped"), ["10.0.0.3"]);
        assert!(hosts.find("no").is_none() && hosts.find("alias").is_none());
        let ask = |name: &str, kind| hosts.answer(&op::Query::query(Name::from_ascii(name).unwrap(), kind));
        assert_eq!(ask("ONE.", RecordType::A).unwrap().answers.len(), 2);
        assert_eq!(
            ask("one.lab.", RecordType::AAAA).unwrap().answers.len(),
            0,
            "and no name server is asked"
        );
        assert!(ask("one.", RecordType::TXT).is_none() && ask("two.", RecordType::A).is_none());
        let name = ask("1.0.0.10.in-addr.arpa.", RecordType::PTR).unwrap();
        assert_eq!(name.answers[0].data.to_string(), "one.");
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in proptest::collection::vec(any::<u8>(), 0..200), address in any::<[u8; 4]>()) {
            let line = format!("\n{} name", IpAddr::from(address));
            let hosts = Hosts::read(&[&text[..], line.as_bytes()].concat());
            let found = hosts.find("name").is_some_and(|found| found.contains(&address.into()));
            prop_assert!(found);
        }
    }
}
