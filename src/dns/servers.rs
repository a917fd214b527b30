//! Asks name servers: by UDP, by TCP where the answer does not fit, and the next server where one is silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Message, OpCode, ResponseCode};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::time::timeout;

use super::runtime::Runtime;
use crate::wire::dns::{Query, Reason, failure};

/// The deadline of one question to all servers together, below the time that apps wait: RFC 1035 §7.2 leaves it open; the
/// usual stub resolver asks again after 5 s.
const DEADLINE: Duration = Duration::from_secs(4);

/// Name servers that are responsible for the same names.
#[derive(Clone)]
pub struct NameServers(NameServerPool<Runtime>);

impl NameServers {
    /// These name servers, asked according to `options`.
    ///
    /// # Errors
    /// A sentence, when TLS cannot be set up.
    pub fn new(servers: Vec<NameServerConfig>, mut options: ResolverOpts) -> Result<Self, String> {
        options.timeout = DEADLINE;
        let tls = TlsConfig::new().map_err(|error| error.to_string())?;
        let context = Arc::new(PoolContext::new(options, tls));
        Ok(Self(NameServerPool::from_config(servers, context, Runtime::default())))
    }

    /// One name server.
    ///
    /// # Errors
    /// As for [`NameServers::new`].
    pub fn one(server: SocketAddr) -> Result<Self, String> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        Self::new(vec![NameServerConfig::new(server.ip(), true, connections.into())], ResolverOpts::default())
    }

    /// The answer of one of them. There is always one: SERVFAIL when none of them answered.
    pub async fn ask(&self, query: &Query) -> Message {
        let request = query.to_server(Message::query().metadata.id);
        let options = DnsRequestOptions::default();
        let asked = self.0.send(DnsRequest::new(request, options)).first_answer();
        let failed = match timeout(DEADLINE, asked).await {
            Ok(Ok(response)) => return response.into_message(),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                let mut message = Message::response(0, OpCode::Query);
                message.metadata.response_code = none.response_code;
                message.queries = vec![query.question().clone()];
                message.authorities =
                    none.authorities.iter().flat_map(|records| records.iter()).cloned().collect();
                return message;
            }
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => {
                return failure(code, Reason::Other, "the name server answered with this code");
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        tracing::debug!(question = %query.question(), reason = failed, "no answer from the name servers");
        failure(ResponseCode::ServFail, Reason::NetworkError, "the name servers did not answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::Decision;
    use hickory_resolver::proto::op::MessageType;
    use hickory_resolver::proto::op::Query as Question;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    use std::str::FromStr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio::task::JoinHandle;

    /// A name server: names that begin with `long` exist and are answered by TCP; no other name exists.
    fn answer(bytes: &[u8], by_udp: bool) -> Vec<u8> {
        let asked = Message::from_vec(bytes).unwrap();
        let name = asked.queries[0].name().clone();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.message_type = MessageType::Response;
        answer.queries = asked.queries.clone();
        match (name.to_ascii().starts_with("long"), by_udp) {
            (true, true) => answer.metadata.truncation = true,
            (true, false) => {
                answer.answers.push(Record::from_rdata(name, 1, RData::TXT(TXT::new(vec!["x".into()]))));
            }
            (false, _) => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.to_vec().unwrap()
    }

    /// A name server that closes each TCP connection after `each` questions.
    async fn name_server(each: usize) -> (SocketAddr, [JoinHandle<()>; 2]) {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let by_udp = tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                udp.send_to(&answer(&buffer[..length], true), from).await.unwrap();
            }
        });
        let by_tcp = tokio::spawn(async move {
            loop {
                let (mut app, _) = tcp.accept().await.unwrap();
                tokio::spawn(async move {
                    for _ in 0..each {
                        let Ok(length) = app.read_u16().await else { return };
                        let mut question = vec![0; length.into()];
                        app.read_exact(&mut question).await.unwrap();
                        let answer = answer(&question, false);
                        app.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                        app.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        (address, [by_udp, by_tcp])
    }

    fn query(name: &str) -> Query {
        let mut message = Message::query();
        message.queries = vec![Question::query(Name::from_str(name).unwrap(), RecordType::TXT)];
        match Decision::of(&message.to_vec().unwrap()) {
            Decision::Ask(query) => *query,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_is_asked_for_by_tcp_and_later_questions_are_answered() {
        for each in [1, 2, usize::MAX] {
            let (address, tasks) = name_server(each).await;
            let servers = NameServers::one(address).unwrap();
            for _ in 0..3 {
                let answer = servers.ask(&query("long.lab.")).await;
                assert_eq!(
                    (answer.metadata.response_code, answer.answers.len()),
                    (ResponseCode::NoError, 1),
                    "{each}"
                );
                let answer = servers.ask(&query("none.lab.")).await;
                assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{each}");
            }
            tasks.iter().for_each(JoinHandle::abort);
        }
    }
}
