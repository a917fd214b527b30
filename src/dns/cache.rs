//! A cache of answers for the lifetime that they state (RFC 1035 §7.4), negative answers included (RFC 2308).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::time::Instant;

use crate::wire::dns::{Key, age, lifetime};
use crate::wire::id::NodeId;

/// The memory of an entry beside its message and its question, at most about this many bytes.
const ENTRY: usize = 512;

/// A cache that is bounded in answers and in bytes; the oldest answer is evicted first.
pub struct Cache {
    most: usize,
    most_bytes: usize,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    by_key: HashMap<Key, CacheEntry>,
    /// By number; the oldest answer has the smallest one.
    order: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
}

struct CacheEntry {
    /// Encoded: a decoded message may take thirty times as much, because each string of a text has an allocation of its own.
    message: Arc<[u8]>,
    since: Instant,
    until: Instant,
    bytes: usize,
    number: u64,
    /// The gateway that gave the answer.
    gateway: Option<NodeId>,
}

impl Cache {
    /// An empty cache for at most `most` answers, and `most_bytes` bytes of memory.
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, answers: Mutex::default() }
    }

    /// The cached answer, with its lifetime reduced by the time that it has been cached.
    pub fn find(&self, key: &Key) -> Option<Message> {
        self.find_unless(key, |_| false)
    }

    /// As `find`, but forgets an answer from a gateway that is not trusted any more.
    pub fn find_unless(&self, key: &Key, is_distrusted: impl Fn(NodeId) -> bool) -> Option<Message> {
        let now = Instant::now();
        let mut answers = self.lock();
        let entry = answers.by_key.get(key)?;
        if entry.until <= now || entry.gateway.is_some_and(is_distrusted) {
            answers.remove(key);
            return None;
        }
        let (message, seconds) = (entry.message.clone(), now.duration_since(entry.since).as_secs());
        drop(answers);
        let mut message = Message::from_vec(&message).ok()?;
        age(&mut message, u32::try_from(seconds).unwrap_or(u32::MAX));
        Some(message)
    }

    /// Caches an answer, if its lifetime allows it.
    pub fn keep(&self, key: Key, message: &Message) {
        self.keep_of(key, message, None);
    }

    /// Caches an answer that this gateway gave, if its lifetime allows it.
    pub fn keep_of(&self, key: Key, message: &Message, gateway: Option<NodeId>) {
        let seconds = lifetime(message);
        if seconds == 0 {
            return;
        }
        let Ok(message) = message.to_vec() else { return };
        let bytes = message.len() + ENTRY;
        if bytes > self.most_bytes {
            return;
        }
        let now = Instant::now();
        let until = now + Duration::from_secs(seconds.into());
        let mut answers = self.lock();
        answers.remove(&key);
        while answers.by_key.len() >= self.most || answers.bytes + bytes > self.most_bytes {
            let Some((_, oldest)) = answers.order.pop_first() else { break };
            answers.remove(&oldest);
        }
        let number = answers.next;
        answers.next += 1;
        answers.bytes += bytes;
        answers.order.insert(number, key.clone());
        let message = message.into();
        answers.by_key.insert(key, CacheEntry { message, since: now, until, bytes, number, gateway });
    }

    /// Forgets all answers.
    pub fn clear(&self) {
        *self.lock() = Answers::default();
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.by_key.remove(key) {
            self.order.remove(&entry.number);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::{Decision, Query};
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use hickory_proto::{op, rr};

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
    async fn an_answer_ages_and_expires_and_case_does_not_matter() {
        let cache = Cache::new(10, 10_000);
        cache.keep(query("www.example.org.").key(), &address("www.example.org.", 60));
        tokio::time::advance(Duration::from_secs(25)).await;
        let found = cache.find(&query("WWW.Example.org.").key()).unwrap();
        assert_eq!(found.answers[0].ttl, 35);
        tokio::time::advance(Duration::from_secs(35)).await;
        assert!(cache.find(&query("www.example.org.").key()).is_none());
        assert_eq!(cache.lock().bytes, 0, "its room is free again");
    }

    #[tokio::test]
    async fn an_answer_of_a_gateway_that_was_removed_from_the_group_is_not_given_any_more() {
        let cache = Cache::new(10, 10_000);
        let (trusted, removed) = (NodeId([1; 16]), NodeId([2; 16]));
        let names = ["www.example.org.", "mail.example.org."];
        for (name, gateway) in names.iter().zip([trusted, removed]) {
            cache.keep_of(query(name).key(), &address(name, 60), Some(gateway));
        }
        let found = names.map(|name| cache.find_unless(&query(name).key(), |id| id == removed).is_some());
        assert_eq!(found, [true, false]);
        assert!(cache.find(&query(names[1]).key()).is_none(), "it is forgotten");
    }

    #[tokio::test]
    async fn an_answer_comes_out_as_it_went_in() {
        let cache = Cache::new(10, 1 << 20);
        let mut large = address("www.example.org.", 60);
        large.answers = vec![large.answers[0].clone(); 2000];
        large.metadata.authentic_data = true;
        cache.keep(query("www.example.org.").key(), &large);
        assert_eq!(cache.find(&query("www.example.org.").key()), Some(large));
    }

    #[tokio::test(start_paused = true)]
    async fn a_negative_answer_is_cached_for_the_lifetime_of_its_zone() {
        let cache = Cache::new(10, 10_000);
        let mut none = address("none.example.org.", 60);
        none.answers.clear();
        none.metadata.response_code = op::ResponseCode::NXDomain;
        cache.keep(query("none.example.org.").key(), &none);
        assert!(cache.find(&query("none.example.org.").key()).is_none(), "without a lifetime from the zone");
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
    async fn the_oldest_answer_is_evicted_when_there_are_too_many_or_they_are_too_large() {
        let names: Vec<_> = (0..100).map(|number| format!("host{number:03}.example.org.")).collect();
        let one = address(&names[0], 60).to_vec().unwrap().len() + ENTRY;
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
