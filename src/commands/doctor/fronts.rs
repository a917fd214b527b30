//! The fronts of the node that runs here: whether a gateway gets an answer of each registry.

use std::time::Duration;

use tokio::time::timeout;

use super::gateways::hint_for;
use super::machine::Node;
use super::report::{Finding, Layer};
use super::request::by_front;
use crate::failure::{Failure, Kind, Side};
use crate::fronts::url::Url;

/// Maximum fronts that are checked.
const MAX_FRONTS: usize = 8;
/// The deadline of one registry.
const DEADLINE: Duration = Duration::from_secs(15);

/// Asks each registry for the beginning of its pages, by the local port, as software does.
pub(super) async fn check(node: &Node) -> Vec<Finding> {
    if node.seen.node.needs_login && !node.seen.fronts.is_empty() {
        let what = "the fronts of this node serve nobody, because its local port asks for a login";
        let hint = "remove --proxy-logins and --proxy-login, or the fronts: tools send no login to a front";
        return vec![Finding::wrong(Layer::Request, what).hint(hint)];
    }
    let mut found = Vec::new();
    for front in node.seen.fronts.iter().take(MAX_FRONTS) {
        let late = |_| Err(Failure::new(Kind::ConnectTimeout, Side::Link, "there was no answer in time"));
        let answered = timeout(DEADLINE, by_front(node.proxy, &front.name)).await;
        found.push(match answered.unwrap_or_else(late) {
            Ok(answer) => {
                Finding::ok(Layer::Request, format!("front /{}/ for {}: {answer}", front.name, front.url))
            }
            Err(failure) => {
                let what = format!("the front /{}/ gets no answer of {}", front.name, front.url);
                let hint = hint(&failure, &front.url, node);
                Finding::wrong(Layer::Request, what).because(failure.sentence).hint(hint)
            }
        });
    }
    found
}

/// What to do about a registry that is not reached.
fn hint(failure: &Failure, url: &str, node: &Node) -> String {
    let used = node.seen.links.first().filter(|_| !node.seen.node.goes_direct).map(|link| link.name.as_str());
    // It may have asked another gateway than the first.
    let used = failure.reporter().or(used);
    let on = used.map_or_else(|| "on this machine".to_owned(), |name| format!("on {name}"));
    match (failure.kind, Url::parse(url)) {
        (Kind::Certificate, _) => format!(
            "{on}: if its issuer is your own, name that certificate with --front-ca FILE, and start the node again. \
             One with CA:TRUE has to be replaced on the server by one with CA:FALSE, an expired one renewed; 'date' shows whether \
             the clock is right"
        ),
        (Kind::NoGateway, _) | (_, None) => "the findings above say why no gateway serves this node".into(),
        (_, Some(url)) => hint_for(failure, &url.target, used),
    }
}
