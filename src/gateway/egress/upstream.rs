//! The way out by another proxy: which one, for what, and what is judged before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Egress, MOST_ADDRESSES, Terms, failure, interleave, race};
use crate::failure::{Failure, Kind, Side};
use crate::gateway::access::Rule;
use crate::gateway::proxy::Proxy;
use crate::wire::target::{Host, Target};

/// A proxy that does not take a connection in this time is left for the next one. Less than a probe may take.
const PROXY: Duration = Duration::from_millis(1500);

/// The proxies to leave by, tried in this order; none to leave directly.
#[derive(Default)]
pub(super) struct Upstream {
    proxies: Vec<Proxy>,
    /// Of each, whether it was said that it does not take the login.
    complained: Vec<AtomicBool>,
    /// What is left for directly all the same.
    except: Vec<Rule>,
}

impl Upstream {
    /// Whether this target is reached by them.
    pub(super) fn is_for(&self, target: &Target) -> bool {
        !self.proxies.is_empty() && !self.except.iter().any(|rule| rule.covers(target))
    }
}

/// Whether no proxy was reached, or took the login: then no server is reached.
pub(super) fn is_cut_off(failure: &Failure) -> bool {
    matches!((failure.kind, failure.side), (Kind::NetworkUnreachable | Kind::UpstreamLogin, Side::Gateway))
}

impl Egress {
    /// Leaves by these proxies from now on, the first that can be reached, but for what the rules `except`.
    pub fn leave_by(&self, proxies: Vec<Proxy>, except: Vec<Rule>) {
        let complained = proxies.iter().map(|_| AtomicBool::new(false)).collect();
        let upstream = Arc::new(Upstream { proxies, complained, except });
        *self.upstream.write().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    pub(super) fn upstream(&self) -> Arc<Upstream> {
        self.upstream.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects by way of the first proxy that can be reached and takes the login. A name is judged by itself alone.
    pub(super) async fn dial_upstream(
        &self,
        terms: &Terms,
        upstream: &Upstream,
        target: &Target,
    ) -> Result<TcpStream, Failure> {
        match &target.host {
            Host::Name(_) => terms.access.judge_name_alone(target)?,
            Host::Address(ip) => {
                terms.access.judge_address(target, *ip)?;
                let own = self.own.addresses().map_err(|error| failure(target, &error))?;
                terms.access.judge_own(target, *ip, &own)?;
                self.judge_loop(target, *ip)?;
            }
        }
        let limit = terms.connect_timeout;
        let until = Instant::now() + limit;
        let none = "the gateway has no upstream proxy";
        let mut trouble = Failure::new(Kind::NetworkUnreachable, Side::Gateway, none);
        for (proxy, complained) in upstream.proxies.iter().zip(&upstream.complained) {
            match timeout_at(until, self.reach(&proxy.at)).await.unwrap_or_else(|_| Err("no answer".into())) {
                Ok(stream) => match proxy.connect(stream, target, until, limit, complained).await {
                    // Nothing has reached the destination.
                    Err(failure) if failure.kind == Kind::UpstreamLogin => trouble = failure,
                    outcome => return outcome,
                },
                Err(why) => {
                    tracing::debug!(%proxy, why, "upstream proxy not reached");
                    let sentence = format!("the gateway cannot reach its upstream proxy {proxy}: {why}");
                    trouble = Failure::new(Kind::NetworkUnreachable, Side::Gateway, sentence);
                }
            }
        }
        Err(trouble)
    }

    /// A connection to one of this gateway's own proxies.
    async fn reach(&self, proxy: &Target) -> Result<TcpStream, String> {
        let found = match &proxy.host {
            Host::Address(ip) => vec![*ip],
            Host::Name(name) => self.resolver.resolve(name).await.map_err(|failure| failure.sentence)?,
        };
        let addresses = interleave(found).into_iter().take(MOST_ADDRESSES);
        let addresses: VecDeque<_> = addresses.map(|ip| SocketAddr::new(ip, proxy.port)).collect();
        if addresses.iter().any(|address| self.own.is_this_node(*address)) {
            return Err("it is this node itself".into());
        }
        let stream = timeout(PROXY, race(addresses)).await.map_err(|_late| "no answer".to_owned())?;
        let stream = stream.map_err(|error| error.to_string())?;
        // Fails only on a connection that is gone, which the first write tells.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}
