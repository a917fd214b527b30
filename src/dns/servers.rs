//! Asks name servers: UDP, then TCP where the answer does not fit, the next server where one is silent.

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

/// The deadline of one question to all servers together: below what apps wait (RFC 1035 §7.2 leaves it open; the usual
/// stub resolver asks again after 5 s).
const DEADLINE: Duration = Duration::from_secs(4);

/// Name servers that are asked for the same names.
#[derive(Clone)]
pub struct NameServers(NameServerPool<Runtime>);

impl NameServers {
    /// These ones, asked as `options` say.
    ///
    /// # Errors
    /// A sentence, when that cannot be prepared.
    pub fn new(servers: Vec<NameServerConfig>, mut options: ResolverOpts) -> Result<Self, String> {
        options.timeout = DEADLINE;
        let tls = TlsConfig::new().map_err(|error| error.to_string())?;
        let context = Arc::new(PoolContext::new(options, tls));
        Ok(Self(NameServerPool::from_config(servers, context, Runtime::default())))
    }

    /// This one.
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

    /// The answer of one of them. There is always one: SERVFAIL says that nobody gave any.
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
                return failure(code, Reason::Other, "the name server said so");
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        tracing::debug!(question = %query.question(), reason = failed, "name servers not asked");
        failure(ResponseCode::ServFail, Reason::NetworkError, "the name servers did not answer")
    }
}
