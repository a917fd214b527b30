//! Members that ask for pieces of bodies, as many as they can, and do not take them.

use laneway::cache::draft::Draft;
use laneway::cache::pieces;
use laneway::cache::store::Store;
use laneway::cache::stored::Stored;
use laneway::link::tls::pieces_client;
use laneway::memory::Budget;
use laneway::sharing::DIRECTORY;
use laneway::wire::sharing::PIECE;
use std::path::Path;
use std::time::SystemTime;

use super::{GET, MAX_LINKS, Victim, streams, until_taken};
use crate::raw::{END_STREAM, Raw, request};

/// How many pieces the node keeps.
const KEPT: u8 = 40;

/// Has the node with this state directory keep pieces, as if it had got them in an earlier run. Each is of one byte, repeated.
fn keep(state: &Path) {
    let memory = Budget::new(1 << 30);
    let store = Store::open(&state.join(DIRECTORY), 1 << 30, 1 << 20, memory.reserve()).unwrap();
    let mut draft = Draft::new(&store).unwrap();
    draft.hash_pieces();
    for number in 0..KEPT {
        draft.append(&piece(number)).unwrap();
    }
    let total = u64::from(KEPT) * PIECE;
    draft.store(Stored::of_body("http://h/f".into(), total, SystemTime::now())).unwrap();
}

fn piece(number: u8) -> Vec<u8> {
    vec![number; usize::try_from(PIECE).unwrap()]
}

#[tokio::test]
async fn pieces_that_members_ask_for_and_do_not_take_do_not_fill_the_nodes_memory() {
    let victim = Victim::start_with("127.0.0.86", &[], keep).await;
    let hashes: Vec<_> = (0..KEPT).map(|number| pieces::hash(&piece(number)).to_string()).collect();
    let config = || pieces_client(&victim.hostile).unwrap();
    let mut served = Raw::by(victim.link, pieces_client(&victim.other).unwrap(), 1 << 30).await;
    served.output.say(request(1, END_STREAM, GET, &format!("/laneway/piece/{}", hashes[0]))).await;
    assert_eq!(served.next(crate::raw::HEADERS).await.payload[0], 0x88, "it has the piece");
    let mut links = Vec::new();
    for window in [0, 65_535, 1 << 30] {
        for _ in 0..2 * MAX_LINKS {
            let mut raw = Raw::by(victim.link, config(), window).await;
            for part in streams(2000).collect::<Vec<_>>().chunks(100) {
                let asked = part.iter().map(|stream| {
                    // Now and then a piece that it does not have.
                    let hash = hashes.get(*stream as usize / 2 % 50).map_or("0".repeat(64), Clone::clone);
                    request(*stream, END_STREAM, GET, &format!("/laneway/piece/{hash}"))
                });
                raw.output.try_say(asked.collect::<Vec<_>>().concat()).await;
            }
            links.push(match window {
                0 => until_taken(raw).await,
                // The member reads nothing more.
                _ => raw,
            });
        }
        victim.has_kept_its_limit().await;
    }
}
