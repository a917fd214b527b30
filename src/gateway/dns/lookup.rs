//! The addresses of a name in DNS: both families at once (RFC 8305 §3), in the domains of the search list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, ready, select};
use hickory_proto::op::{self, Message};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use crate::dns::cache::Cache;
use crate::dns::conf::Conf;
use crate::dns::servers::{NameServers, Unanswered};
use crate::wire::dns::{Query, ResponseCode};

/// The deadline for resolving one name, with all retries.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Maximum length of a chain of aliases.
const MOST_ALIASES: usize = 32;
/// How long IPv4 addresses wait for the IPv6 addresses of the same name (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// The addresses of a name.
pub(in crate::gateway) struct Found {
    /// Those that are known.
    pub(in crate::gateway) known: Vec<IpAddr>,
    /// Those of the other family, for which a name server has not answered yet (RFC 8305 §3).
    pub(in crate::gateway) later: Option<BoxFuture<'static, Vec<IpAddr>>>,
}

impl From<Vec<IpAddr>> for Found {
    fn from(known: Vec<IpAddr>) -> Self {
        Self { known, later: None }
    }
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAddress {
    /// The name does not exist, or has no address.
    NotFound,
    /// The name servers answered with this code.
    Failed(ResponseCode),
    /// There was no answer.
    Unanswered(Unanswered),
}

/// The addresses of one family, or that the name does not exist at all (RFC 8020).
enum Answer {
    Addresses(Vec<IpAddr>),
    NoSuchName,
}

type Answering = BoxFuture<'static, Result<Answer, NoAddress>>;

/// What a lookup uses.
pub(super) struct Lookup<'a> {
    pub(super) conf: &'a Conf,
    pub(super) servers: &'a NameServers,
    pub(super) cache: &'a std::sync::Arc<Cache>,
}

/// The addresses of this machine itself.
pub(super) fn localhost() -> Vec<IpAddr> {
    vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]
}

impl Lookup<'_> {
    /// The addresses of the first name in the search list that has any.
    pub(super) async fn find(&self, name: &str) -> Result<Found, NoAddress> {
        let mut worst = NoAddress::NotFound;
        for name in self.conf.candidates(name) {
            match self.find_name(&name).await {
                Ok(found) => return Ok(found),
                Err(NoAddress::NotFound) => {}
                // A server that fails for one domain may know the next one.
                Err(why @ NoAddress::Failed(_)) => worst = why,
                Err(why @ NoAddress::Unanswered(_)) => return Err(why),
            }
        }
        Err(worst)
    }

    async fn find_name(&self, name: &Name) -> Result<Found, NoAddress> {
        let four = self.ask(name, RecordType::A);
        if self.conf.no_ipv6 {
            return first(four.await, None);
        }
        let six = self.ask(name, RecordType::AAAA);
        if self.conf.one_at_a_time {
            return after_four(four.await, six).await;
        }
        match select(four, six).await {
            Either::Left((four, six)) => after_four(four, six).await,
            Either::Right((Ok(Answer::Addresses(known)), four)) if !known.is_empty() => {
                Ok(Found { known, later: Some(later(four)) })
            }
            Either::Right((six, four)) => first(four.await, Some(six)),
        }
    }

    fn ask(&self, name: &Name, kind: RecordType) -> Answering {
        let query = Query::for_addresses(name.clone(), kind, self.conf.edns);
        let key = query.key();
        if let Some(answer) = self.cache.find(&key) {
            return ready(judge(&query, &answer)).boxed();
        }
        let (servers, cache) = (self.servers.clone(), self.cache.clone());
        async move {
            let answer = servers.ask_within(&query, DEADLINE).await.map_err(NoAddress::Unanswered)?;
            cache.keep(key, &answer);
            judge(&query, &answer)
        }
        .boxed()
    }
}

/// What is known once the IPv4 query is answered. Neither its addresses nor a nonexistent name wait long for the other answer:
/// some name servers never send it.
async fn after_four(four: Result<Answer, NoAddress>, mut six: Answering) -> Result<Found, NoAddress> {
    let is_enough = match &four {
        Ok(Answer::Addresses(known)) => !known.is_empty(),
        Ok(Answer::NoSuchName) => true,
        Err(_) => false,
    };
    if !is_enough {
        return first(four, Some(six.await));
    }
    match (timeout(RESOLUTION_DELAY, &mut six).await, four) {
        (Ok(six), four) => first(four, Some(six)),
        (Err(_), Ok(Answer::Addresses(known))) => Ok(Found { known, later: Some(later(six)) }),
        (Err(_), _) => Err(NoAddress::NotFound),
    }
}

fn later(asked: Answering) -> BoxFuture<'static, Vec<IpAddr>> {
    asked
        .map(|answer| match answer {
            Ok(Answer::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        })
        .boxed()
}

/// The addresses of both answers. If there are none, the reason: a query that failed counts more than one that found nothing.
fn first(
    four: Result<Answer, NoAddress>,
    six: Option<Result<Answer, NoAddress>>,
) -> Result<Found, NoAddress> {
    let (mut known, mut worst) = (Vec::new(), NoAddress::NotFound);
    for answer in [six, Some(four)].into_iter().flatten() {
        match answer {
            Ok(Answer::Addresses(addresses)) => known.extend(addresses),
            Ok(Answer::NoSuchName) => {}
            Err(why) => worst = why,
        }
    }
    if known.is_empty() { Err(worst) } else { Ok(known.into()) }
}

fn judge(query: &Query, answer: &Message) -> Result<Answer, NoAddress> {
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(Answer::Addresses(addresses(query.question(), &answer.answers))),
        ResponseCode::NXDomain => Ok(Answer::NoSuchName),
        code => Err(NoAddress::Failed(code)),
    }
}

/// The addresses that answer a question: those of the name, or of the last of its aliases. Neither other names in the answer nor
/// addresses of the other family count.
fn addresses(question: &op::Query, records: &[Record]) -> Vec<IpAddr> {
    let mut name = question.name();
    for _ in 0..MOST_ALIASES {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(CNAME(target)) if record.name.eq_ignore_root(name) => Some(target),
            _ => None,
        });
        name = match alias {
            Some(target) => target,
            None => break,
        };
    }
    let of_name = records
        .iter()
        .filter(|record| record.record_type() == question.query_type() && record.name.eq_ignore_root(name));
    of_name.filter_map(|record| record.data.ip_addr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, AAAA};
    use std::sync::Arc;
    use tokio::net::UdpSocket;
    use tokio::task::JoinHandle;

    const FOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    /// What a name server answers to a question for IPv4 or for IPv6 addresses.
    #[derive(Clone, Copy)]
    enum Says {
        Address,
        Nothing,
        Code(ResponseCode),
        /// No answer at all.
        Drops,
    }

    fn answer(asked: &Message, says: Says) -> Option<Message> {
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        answer.queries.clone_from(&asked.queries);
        let question = &asked.queries[0];
        let data = match (question.query_type(), FOUR, SIX) {
            (RecordType::A, IpAddr::V4(four), _) => RData::A(A(four)),
            (_, _, IpAddr::V6(six)) => RData::AAAA(AAAA(six)),
            _ => unreachable!(),
        };
        match says {
            Says::Address => drop(answer.add_answer(Record::from_rdata(question.name().clone(), 60, data))),
            Says::Nothing => {}
            Says::Code(code) => answer.metadata.response_code = code,
            Says::Drops => return None,
        }
        Some(answer)
    }

    /// A name server that answers so for IPv4 and for IPv6 addresses.
    async fn server(four: Says, six: Says) -> (NameServers, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = NameServers::one(socket.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let says = if asked.queries[0].query_type() == RecordType::A { four } else { six };
                if let Some(answer) = answer(&asked, says) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        (servers, task)
    }

    #[tokio::test]
    async fn addresses_of_one_family_do_not_depend_on_the_other() {
        use Says::{Address, Code, Drops, Nothing};
        let fail = Code(ResponseCode::ServFail);
        let missing = Code(ResponseCode::NXDomain);
        for (four, six, expected) in [
            (Address, Address, Ok(vec![SIX, FOUR])),
            (Address, Nothing, Ok(vec![FOUR])),
            (Nothing, Address, Ok(vec![SIX])),
            (Address, fail, Ok(vec![FOUR])),
            (Address, missing, Ok(vec![FOUR])),
            (fail, Address, Ok(vec![SIX])),
            (missing, Address, Ok(vec![SIX])),
            (Address, Drops, Ok(vec![FOUR])),
            (missing, Drops, Err(NoAddress::NotFound)),
            (missing, missing, Err(NoAddress::NotFound)),
            (Nothing, Nothing, Err(NoAddress::NotFound)),
            (Nothing, fail, Err(NoAddress::Failed(ResponseCode::ServFail))),
            (fail, fail, Err(NoAddress::Failed(ResponseCode::ServFail))),
        ] {
            for one_at_a_time in [false, true] {
                let (servers, task) = server(four, six).await;
                let (conf, cache) =
                    (Conf { one_at_a_time, ..Conf::default() }, Arc::new(Cache::new(9, 9999)));
                let lookup = Lookup { conf: &conf, servers: &servers, cache: &cache };
                let found = lookup.find("name_with_underscore.lab").await.map(async |found| {
                    let Found { mut known, later } = found;
                    // An answer that never comes is not waited for; one that comes later still counts.
                    if let (Some(later), false) = (later, matches!(six, Drops)) {
                        known.extend(later.await);
                    }
                    known.sort_unstable_by_key(IpAddr::is_ipv4);
                    known
                });
                let found = match found {
                    Ok(found) => Ok(found.await),
                    Err(why) => Err(why),
                };
                assert_eq!(found, expected);
                task.abort();
            }
        }
    }

    #[test]
    fn only_what_is_said_of_the_name_itself_or_of_what_it_is_an_alias_of_counts() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let (IpAddr::V4(four), IpAddr::V6(six)) = (FOUR, SIX) else { unreachable!() };
        let record = |owner: &str, data| Record::from_rdata(name(owner), 60, data);
        let alias = |owner: &str, target: &str| record(owner, RData::CNAME(CNAME(name(target))));
        let four_of = |owner: &str| record(owner, RData::A(A(four)));
        let six_of = |owner: &str| record(owner, RData::AAAA(AAAA(six)));
        for (records, found) in [
            (vec![four_of("WEB.lab.")], &[FOUR][..]),
            (vec![four_of("other.lab.")], &[]),
            (vec![six_of("web.lab.")], &[]),
            (vec![four_of("b.lab."), alias("a.lab.", "B.lab."), alias("web.lab.", "a.lab.")], &[FOUR]),
            (vec![alias("web.lab.", "a.lab."), four_of("web.lab.")], &[]),
            (vec![alias("web.lab.", "a.lab."), alias("a.lab.", "web.lab.")], &[]),
        ] {
            let question = op::Query::query(name("web.lab."), RecordType::A);
            assert_eq!(addresses(&question, &records), found, "{records:?}");
        }
    }

    #[tokio::test]
    async fn a_name_is_found_in_a_later_domain_and_a_refusing_server_is_told() {
        let (servers, _task) = server(Says::Address, Says::Nothing).await;
        let cache = Arc::new(Cache::new(9, 9999));
        let find = async |servers: &NameServers, search: &[&str]| {
            let search = search.iter().map(|domain| (*domain).to_owned()).collect();
            let conf = Conf { search, ..Conf::default() };
            Lookup { conf: &conf, servers, cache: &cache }.find("web").await.map(|found| found.known)
        };
        assert_eq!(find(&servers, &["a..b", "lab"]).await, Ok(vec![FOUR]));
        let (refusing, _task) =
            server(Says::Code(ResponseCode::Refused), Says::Code(ResponseCode::Refused)).await;
        assert_eq!(find(&refusing, &["other"]).await, Err(NoAddress::Failed(ResponseCode::Refused)));
    }
}
