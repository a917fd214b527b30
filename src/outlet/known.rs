//! Which names the command has asked for, by the addresses in the answers.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hickory_proto::op::Message;

/// Maximum number of addresses whose names are known; the oldest makes room.
const MOST: usize = 4096;

/// The names that addresses were the answers for.
#[derive(Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Default)]
struct Known {
    names: HashMap<IpAddr, String>,
    /// The addresses, the oldest first.
    order: VecDeque<IpAddr>,
}

impl Names {
    /// The name whose answer had this address last.
    pub(super) fn name_of(&self, ip: IpAddr) -> Option<String> {
        self.known().names.get(&ip).cloned()
    }

    /// Notes the addresses of an answer.
    pub(super) fn learn(&self, answer: &Message) {
        let [question] = &answer.queries[..] else { return };
        let name = question.name().to_ascii();
        let name = name.trim_end_matches('.');
        let mut known = self.known();
        for ip in answer.answers.iter().filter_map(|record| record.data.ip_addr()) {
            if known.names.insert(ip, name.to_owned()).is_none() {
                known.order.push_back(ip);
            }
            if known.order.len() > MOST
                && let Some(oldest) = known.order.pop_front()
            {
                known.names.remove(&oldest);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use std::net::Ipv4Addr;

    fn answer(name: &str, ip: Ipv4Addr) -> Message {
        let name = Name::from_ascii(name).unwrap();
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name, 60, RData::A(A(ip))));
        message
    }

    #[test]
    fn the_oldest_address_makes_room() {
        let names = Names::default();
        let ip = |number: usize| Ipv4Addr::from(u32::try_from(number).unwrap());
        for number in 0..=MOST {
            names.learn(&answer(&format!("n{number}.example."), ip(number)));
        }
        assert_eq!(names.name_of(ip(0).into()), None);
        assert_eq!(names.name_of(ip(1).into()).as_deref(), Some("n1.example"));
        names.learn(&answer("other.example.", ip(MOST)));
        assert_eq!(names.name_of(ip(MOST).into()).as_deref(), Some("other.example"));
    }
}
