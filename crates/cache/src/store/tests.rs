use std::os::unix::fs::symlink;

use laneway_limits::memory::Budget;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::draft::Draft;
use crate::stored::BLOCK;
use crate::stored::tests::example;

pub(crate) fn store(directory: &TempDir, limit: u64) -> Arc<Store> {
    let reserve = Budget::new(1 << 30).reserve();
    let store = Store::open(&directory.path().join("cache"), limit, 1 << 20, reserve).unwrap();
    store.load();
    store
}

fn put(store: &Arc<Store>, uri: &str, body: &[u8]) -> u64 {
    let mut draft = Draft::new(store).unwrap();
    body.chunks(50_000).for_each(|piece| draft.append(piece).unwrap());
    let stored = Stored { uri: uri.into(), total: body.len() as u64, ..example() };
    draft.store(stored).unwrap().0
}

/// The body of the newest response for `uri`; `None` without one.
fn get(store: &Arc<Store>, uri: &str) -> Option<io::Result<Vec<u8>>> {
    let (id, stored) = store.find(uri).into_iter().next()?;
    let body = match store.body(id, &stored) {
        Ok(body) => body,
        Err(error) => return Some(Err(error)),
    };
    let mut all = Vec::new();
    while (all.len() as u64) < stored.length() {
        match body.read(all.len() as u64, stored.length(), 2) {
            Ok(bytes) => all.extend(bytes),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(all))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[test]
fn what_is_stored_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77];
    let first = store(&directory, 1 << 30);
    for size in sizes {
        put(&first, &format!("http://h/{size}"), &pattern(size));
    }
    let size = first.size();
    drop(first);
    let second = store(&directory, 1 << 30);
    assert_eq!(second.size(), size);
    for size in sizes {
        assert_eq!(get(&second, &format!("http://h/{size}")).unwrap().unwrap(), pattern(size), "{size}");
    }
    assert!(get(&second, "http://h/other").is_none());
}

#[test]
fn a_second_process_does_not_use_the_same_store() {
    let directory = tempfile::tempdir().unwrap();
    let _first = store(&directory, 1 << 30);
    let reserve = Budget::new(1 << 30).reserve();
    assert!(Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, reserve).is_err());
}

#[test]
fn parts_of_a_body_are_read_from_any_offset() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let whole = pattern(3 * BLOCK + 100);
    let id = put(&store, "http://h/f", &whole);
    let stored = &store.find("http://h/f")[0].1;
    let body = store.body(id, stored).unwrap();
    let block = BLOCK as u64;
    for (start, end) in [
        (0, 1),
        (block - 1, block + 1),
        (block, 2 * block),
        (5, 3 * block + 100),
        (3 * block + 99, 3 * block + 100),
    ] {
        let mut all = Vec::new();
        while start + (all.len() as u64) < end {
            all.extend(body.read(start + all.len() as u64, end, 2).unwrap());
        }
        assert_eq!(
            all,
            whole[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()],
            "{start}..{end}"
        );
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap().hasher();
    hasher.add(bytes);
    hasher.finish()
}

#[test]
fn a_body_is_known_by_the_digest_that_it_was_proved_to_have() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let (body, other) = (pattern(3 * BLOCK + 5), pattern(77));
    let mut draft = Draft::new(&first).unwrap();
    draft.check(sha256(&body));
    body.chunks(50_000).for_each(|piece| draft.append(piece).unwrap());
    let stored = Stored { uri: "http://h/f".into(), total: body.len() as u64, ..example() };
    let (id, stored) = draft.store(stored).unwrap();
    assert_eq!(stored.digests, [sha256(&body)]);
    // What claims to have it is not stored, and what has none is known by none.
    let mut draft = Draft::new(&first).unwrap();
    draft.check(sha256(&body));
    draft.append(&other).unwrap();
    let error = draft.store(Stored { total: other.len() as u64, ..example() }).unwrap_err();
    assert!(crate::draft::WrongFile::is(&error));
    let unknown = put(&first, "http://h/g", &other);
    assert!(!first.stored(unknown).unwrap().is_proved());
    assert!(first.proved(&sha256(&other)).is_none());
    let proved = first.prove(unknown, sha256(&other)).unwrap();
    assert_eq!(proved.digests, [sha256(&other)]);
    drop(first);
    let second = store(&directory, 1 << 30);
    assert_eq!(second.proved(&sha256(&body)).map(|(found, _)| found), Some(id));
    assert_eq!(second.proved(&sha256(&other)).map(|(found, _)| found), Some(unknown));
    second.remove(id);
    assert!(second.proved(&sha256(&body)).is_none());
}

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Digest::parse(&format!("sha512:{}", "0".repeat(128))).unwrap().hasher();
    hasher.add(bytes);
    hasher.finish()
}

/// Each time another one was asked for, the file had to be hashed again.
#[test]
fn digests_by_several_algorithms_are_known_beside_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let body = pattern(3 * BLOCK);
    let id = put(&first, "http://h/f", &body);
    for digest in [sha256(&body), sha512(&body)] {
        first.prove(id, digest).unwrap();
    }
    drop(first);
    let second = store(&directory, 1 << 30);
    for digest in [sha256(&body), sha512(&body)] {
        assert_eq!(second.proved(&digest).map(|(found, _)| found), Some(id), "{}", digest.shown());
    }
}

#[test]
fn what_was_proved_stays_under_its_digest_when_its_uri_stands_for_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let (body, other) = (pattern(100), pattern(77));
    let id = put(&first, "http://h/f", &body);
    first.prove(id, sha256(&body)).unwrap();
    put(&first, "http://h/f", &other);
    let before = first.size();
    assert_eq!(first.remove_uri("http://h/f"), 2);
    assert_eq!(first.size().entries, before.entries - 1);
    let check = |store: &Store| {
        assert!(store.find("http://h/f").is_empty() && !store.may_have("http://h/f"));
        let (found, stored) = store.proved(&sha256(&body)).unwrap();
        assert_eq!((found, stored.fields.len(), stored.selecting.len()), (id, 0, 0));
        assert_eq!(store.body(id, &stored).unwrap().read(0, 100, 4).unwrap(), body);
    };
    check(&first);
    drop(first);
    let second = store(&directory, 1 << 30);
    check(&second);
    // The same content once more, of which one copy is enough.
    let again = put(&second, "http://h/g", &body);
    second.prove(again, sha256(&body)).unwrap();
    second.release(id);
    assert!(!second.has(id) && second.proved(&sha256(&body)).is_some());
    second.remove(again);
    assert_eq!((second.size().entries, second.size().bytes), (0, 0));
}

#[test]
fn variants_of_a_uri_do_not_displace_what_was_proved() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let body = pattern(100);
    let id = put(&store, "http://h/f", &body);
    store.prove(id, sha256(&body)).unwrap();
    for number in 0..MOST_VARIANTS {
        put(&store, "http://h/f", &pattern(number + 1));
    }
    assert_eq!(store.find("http://h/f").len(), MOST_VARIANTS);
    assert!(store.proved(&sha256(&body)).is_some());
}

#[test]
fn a_body_that_is_completed_has_its_digest_or_nothing_of_it_stays() {
    for (is_right, is_hashed) in [(true, true), (true, false), (false, true), (false, false)] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory, 1 << 30);
        let body = pattern(4 * BLOCK);
        let total = body.len() as u64;
        let (begun, rest) = body.split_at(BLOCK);
        let mut draft = Draft::new(&store).unwrap();
        draft.append(begun).unwrap();
        let (id, stored) = draft.store(Stored { total, ..example() }).unwrap();
        let mut draft = Draft::of(&store, id, &stored).unwrap();
        draft.check(sha256(&body));
        draft.seek(begun.len() as u64);
        draft.append(if is_right { rest } else { &body[..rest.len()] }).unwrap();
        // What was there before can be hashed in steps.
        let mut steps = 0;
        while is_hashed && draft.hash_more().unwrap() {
            steps += 1;
        }
        assert_eq!(steps, if is_hashed { 2 } else { 0 });
        let stored = draft.store(stored);
        assert_eq!(stored.is_ok(), is_right);
        assert_eq!(store.proved(&sha256(&body)).is_some(), is_right);
        assert_eq!((store.size().entries, store.has(id)), (usize::from(is_right), is_right));
    }
}

/// A copy of a response is made when it is used for the second time.
fn use_twice(store: &Arc<Store>, id: u64) {
    let stored = store.stored(id).unwrap();
    store.copy(id, &stored);
    assert!(store.copies(&stored.uri).is_none(), "once is not often");
    store.served(id, &stored.uri, NodeId([1; 16]), Some(stored.total));
    store.copy(id, &stored);
}

#[test]
fn what_is_used_twice_is_copied_into_memory_and_read_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let whole = pattern(BLOCK);
    let id = put(&store, "http://h/f", &whole);
    use_twice(&store, id);
    let copies = store.copies("http://h/f").unwrap();
    assert_eq!(copies.iter().map(|copied| (copied.id, &*copied.body)).collect::<Vec<_>>(), [(id, &*whole)]);
    let large = put(&store, "http://h/large", &pattern(BLOCK + 1));
    use_twice(&store, large);
    assert!(store.copies("http://h/large").is_none(), "large bodies stay on the disk");
}

#[test]
fn a_copy_is_not_used_once_a_file_of_its_response_was_changed_or_removed() {
    for kind in ["head", "body"] {
        for is_removed in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(&directory, 1 << 30);
            let id = put(&store, "http://h/f", &pattern(100));
            use_twice(&store, id);
            assert!(store.copies("http://h/f").is_some());
            let path = store.path(id, kind);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[20] ^= 1;
            match is_removed {
                true => std::fs::remove_file(&path).unwrap(),
                false => std::fs::write(&path, bytes).unwrap(),
            }
            assert!(store.copies("http://h/f").is_none(), "{kind} {is_removed}");
        }
    }
}

#[test]
fn a_copy_leaves_with_its_response_and_when_that_is_updated() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let id = put(&store, "http://h/f", &pattern(100));
    use_twice(&store, id);
    let stored = store.stored(id).unwrap();
    store.update(id, &stored).unwrap();
    assert!(store.copies("http://h/f").is_none());
    store.copy(id, &stored);
    assert!(store.copies("http://h/f").is_some());
    put(&store, "http://h/f", &pattern(101));
    assert!(store.copies("http://h/f").is_none(), "there is another one that might be better");
    store.remove_uri("http://h/f");
    assert!(store.copies("http://h/f").is_none());
}

#[test]
fn copies_take_no_more_memory_than_they_may_and_those_in_use_stay() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30);
    let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, budget.reserve()).unwrap();
    let often = put(&store, "http://h/often", &pattern(30_000));
    use_twice(&store, often);
    let before = budget.used();
    for number in 0..40 {
        assert!(store.copies("http://h/often").is_some(), "{number}");
        let id = put(&store, &format!("http://h/{number}"), &pattern(30_000));
        use_twice(&store, id);
        assert!(budget.used() <= before + (256 << 10) + 40 * 1024, "{number}: {}", budget.used());
    }
    store.remove_uri("http://h/often");
    let removed: usize = (0..40).map(|number| store.remove_uri(&format!("http://h/{number}"))).sum();
    assert_eq!(removed, 40);
    assert_eq!(store.copies("http://h/0").map(|copies| copies.len()), None);
}

/// Every file of the store, damaged in every way that this knows: at worst the response is missing.
#[test]
fn parts_that_meet_become_one_and_many_pieces_of_a_file_become_the_whole() {
    const PIECES: usize = 300;
    let directory = TempDir::new().unwrap();
    let store = store(&directory, 1 << 30);
    let content = pattern(PIECES * BLOCK);
    let total = content.len() as u64;
    let piece = |id: Option<u64>, number: usize| {
        let before = id.and_then(|id| Some((id, store.stored(id)?)));
        let mut draft = match &before {
            Some((id, stored)) => Draft::of(&store, *id, stored).unwrap(),
            None => Draft::new(&store).unwrap(),
        };
        draft.seek((number * BLOCK) as u64);
        draft.append(&content[number * BLOCK..(number + 1) * BLOCK]).unwrap();
        let stored = Stored { uri: "http://h/pieces".into(), total, ..example() };
        draft.store(stored).unwrap()
    };
    let (id, mut stored) = piece(None, 0);
    // Every other one at first, as over two gateways.
    for number in (2..PIECES).step_by(2).chain((1..PIECES).step_by(2)) {
        stored = piece(Some(id), number).1;
    }
    assert_eq!(stored.parts.iter().map(|part| (part.start, part.end)).collect::<Vec<_>>(), [(0, total)]);
    assert_eq!(get(&store, "http://h/pieces").unwrap().unwrap(), content);
}

#[test]
fn damaged_files_are_never_delivered() {
    let whole = pattern(2 * BLOCK + 9);
    for damage in 0..7 {
        for kind in ["head", "body"] {
            let directory = tempfile::tempdir().unwrap();
            let first = store(&directory, 1 << 30);
            let id = put(&first, "http://h/f", &whole);
            let path = first.path(id, kind);
            drop(first);
            let bytes = std::fs::read(&path).unwrap();
            match damage {
                0 => std::fs::remove_file(&path).unwrap(),
                1 => std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap(),
                2 => std::fs::write(&path, []).unwrap(),
                3 => std::fs::write(&path, vec![0; bytes.len()]).unwrap(),
                4 => {
                    std::fs::remove_file(&path).unwrap();
                    std::fs::write(directory.path().join("elsewhere"), &bytes).unwrap();
                    symlink(directory.path().join("elsewhere"), &path).unwrap();
                }
                _ => {
                    let mut bytes = bytes;
                    let at = if damage == 5 { 20 } else { bytes.len() - 1 };
                    bytes[at] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
            let second = store(&directory, 1 << 30);
            let got = get(&second, "http://h/f");
            assert!(matches!(got, None | Some(Err(_))), "{damage} {kind}");
        }
    }
}

#[test]
fn a_draft_that_is_not_stored_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let mut draft = Draft::new(&store).unwrap();
    draft.append(&pattern(100_000)).unwrap();
    assert_eq!(store.size().bytes, 100_000);
    drop(draft);
    assert_eq!((store.size().bytes, ids(&store.directory).count()), (0, 0));
}

#[test]
fn a_body_that_is_larger_than_the_store_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 100_000);
    put(&store, "http://h/old", b"abc");
    let mut draft = Draft::new(&store).unwrap();
    let error = (0..3).find_map(|_| draft.append(&pattern(50_000)).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    drop(draft);
    assert_eq!(store.size().bytes, 0);
}

#[test]
fn an_updated_head_is_found_and_one_of_a_removed_response_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let id = put(&store, "http://h/f", b"abc");
    let mut stored = store.find("http://h/f").remove(0).1;
    stored.fields.push("X", b"1").unwrap();
    store.update(id, &stored).unwrap();
    assert_eq!(store.find("http://h/f")[0].1, stored);
    store.remove(id);
    store.update(id, &stored).unwrap();
    assert!(store.find("http://h/f").is_empty());
    assert_eq!(ids(&store.directory).count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Remove(u8),
    Get(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..6, 0_usize..150_000).prop_map(|(uri, size)| Step::Put(uri, size)),
        1 => (0_u8..6).prop_map(Step::Remove),
        3 => (0_u8..6).prop_map(Step::Get),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// Against a map of what was put last. An entry may be missing, because the store is small; it is never another one.
    #[test]
    fn a_response_is_the_one_that_was_stored_last_or_missing(steps in steps()) {
        const LIMIT: u64 = 400_000;
        let directory = tempfile::tempdir().unwrap();
        let mut open = store(&directory, LIMIT);
        let mut model: HashMap<u8, Vec<u8>> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(uri, size) => {
                    let body = pattern(size);
                    open.remove_uri(&format!("http://h/{uri}"));
                    put(&open, &format!("http://h/{uri}"), &body);
                    model.insert(uri, body);
                    prop_assert!(get(&open, &format!("http://h/{uri}")).is_some(), "the newest one stays");
                }
                Step::Remove(uri) => {
                    open.remove_uri(&format!("http://h/{uri}"));
                    model.remove(&uri);
                }
                Step::Get(uri) => match get(&open, &format!("http://h/{uri}")) {
                    Some(body) => prop_assert_eq!(Some(&body.unwrap()), model.get(&uri)),
                    None => _ = model.remove(&uri),
                },
                Step::Reopen => {
                    drop(open);
                    open = store(&directory, LIMIT);
                }
            }
            prop_assert!(open.size().bytes <= LIMIT);
        }
    }
}
