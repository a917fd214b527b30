//! Answers that are kept as long as they say (RFC 1035 §7.4), also that there is none (RFC 2308).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::op::Message;
use tokio::time::Instant;

use crate::wire::dns::{Key, age, lifetime};

/// A cache that is bounded in answers and in bytes; who came first goes first.
pub struct Cache {
    most: usize,
    most_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<Key, Entry>,
    /// By age: the oldest has the smallest number.
    order: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
}

struct Entry {
    message: Message,
    since: Instant,
    until: Instant,
    bytes: usize,
    number: u64,
}

impl Cache {
    /// An empty one for so many answers and so many bytes of them, as messages.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, kept: Mutex::default() }
    }

    /// The answer that is kept, aged by the time that it has been here.
    pub fn find(&self, key: &Key) -> Option<Message> {
        let now = Instant::now();
        let mut kept = self.lock();
        let entry = kept.answers.get(key)?;
        if entry.until <= now {
            kept.remove(key);
            return None;
        }
        let mut message = entry.message.clone();
        let seconds = now.duration_since(entry.since).as_secs();
        age(&mut message, u32::try_from(seconds).unwrap_or(u32::MAX));
        Some(message)
    }

    /// Keeps an answer, if it may be kept.
    pub fn keep(&self, key: Key, message: &Message) {
        let seconds = lifetime(message);
        let bytes = message.to_vec().map_or(usize::MAX, |bytes| bytes.len());
        if seconds == 0 || bytes > self.most_bytes {
            return;
        }
        let now = Instant::now();
        let until = now + Duration::from_secs(seconds.into());
        let mut kept = self.lock();
        kept.remove(&key);
        while kept.answers.len() >= self.most || kept.bytes + bytes > self.most_bytes {
            let Some((_, oldest)) = kept.order.pop_first() else { break };
            kept.remove(&oldest);
        }
        let number = kept.next;
        kept.next += 1;
        kept.bytes += bytes;
        kept.order.insert(number, key.clone());
        kept.answers.insert(key, Entry { message: message.clone(), since: now, until, bytes, number });
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.answers.remove(key) {
            self.order.remove(&entry.number);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::{Decision, Query};
    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::rdata::A;
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use hickory_resolver::proto::{op, rr};

    fn query(name: &str) -> Query {
        let mut message = Message::query();
        message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        match Decision::of(&message.to_vec().unwrap()) {
            Decision::Ask(query) => *query,
            other => panic!("{other:?}"),
        }
    }

    fn address(name: &str, ttl: u32) -> Message {
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let data = RData::A(A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data));
        message
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ages_and_ends_and_case_is_no_difference() {
        let cache = Cache::new(10, 10_000);
        cache.keep(query("www.example.org.").key(), &address("www.example.org.", 60));
        tokio::time::advance(Duration::from_secs(25)).await;
        let found = cache.find(&query("WWW.Example.org.").key()).unwrap();
        assert_eq!(found.answers[0].ttl, 35);
        tokio::time::advance(Duration::from_secs(35)).await;
        assert!(cache.find(&query("www.example.org.").key()).is_none());
        assert_eq!(cache.lock().bytes, 0, "and its place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_name_does_not_exist_is_kept_as_long_as_its_zone_says() {
        let cache = Cache::new(10, 10_000);
        let mut none = address("none.example.org.", 60);
        none.answers.clear();
        none.metadata.response_code = op::ResponseCode::NXDomain;
        cache.keep(query("none.example.org.").key(), &none);
        assert!(cache.find(&query("none.example.org.").key()).is_none(), "the zone does not say");
        let names = ["ns.example.org.", "admin.example.org."].map(|name| Name::from_ascii(name).unwrap());
        let [ns, admin] = names;
        let soa = rr::rdata::SOA::new(ns, admin, 1, 1, 1, 1, 7);
        none.add_authority(Record::from_rdata(
            Name::from_ascii("example.org.").unwrap(),
            60,
            RData::SOA(soa),
        ));
        cache.keep(query("none.example.org.").key(), &none);
        tokio::time::advance(Duration::from_secs(6)).await;
        let found = cache.find(&query("none.example.org.").key()).unwrap();
        assert_eq!(found.metadata.response_code, op::ResponseCode::NXDomain);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.find(&query("none.example.org.").key()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_when_there_are_too_many_or_they_are_too_large() {
        let names: Vec<_> = (0..100).map(|number| format!("host{number:03}.example.org.")).collect();
        let one = address(&names[0], 60).to_vec().unwrap().len();
        for cache in [Cache::new(10, usize::MAX / 2), Cache::new(1000, 10 * one)] {
            for name in &names {
                cache.keep(query(name).key(), &address(name, 60));
            }
            let found = names.iter().filter(|name| cache.find(&query(name).key()).is_some());
            assert_eq!(found.collect::<Vec<_>>(), names[90..].iter().collect::<Vec<_>>());
            assert_eq!(cache.lock().order.len(), 10);
        }
    }
}
