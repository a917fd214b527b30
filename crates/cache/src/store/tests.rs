use std::os::unix::fs::symlink;

use laneway_limits::memory::Budget;
use laneway_wire::sharing::PIECE;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::draft::Draft;
use crate::stored::BLOCK;
use crate::stored::tests::example;

pub(crate) fn store(directory: &TempDir, limit: u64) -> Arc<Store> {
    let reserve = Budget::new(1 << 30).reserve();
    let store = Store::open(&directory.path().join("cache"), limit, 16 << 20, reserve).unwrap();
    store.load();
    store
}

/// Closes a store once the thread that writes has ended.
fn close(store: Arc<Store>) {
    while Arc::strong_count(&store) > 1 {
        std::thread::yield_now();
    }
}

fn put(store: &Arc<Store>, uri: &str, body: &[u8]) -> u64 {
    let mut draft = Draft::new(store).unwrap();
    body.chunks(50_000).for_each(|piece| draft.append(piece).unwrap());
    let stored = Stored { uri: uri.into(), total: body.len() as u64, ..example() };
    draft.store(stored).unwrap().0
}

/// As `put`, for a response that is in memory until it is written: at once, if there is no runtime.
fn put_small(store: &Arc<Store>, uri: &str, body: &[u8]) -> u64 {
    let stored = Stored { uri: uri.into(), total: body.len() as u64, ..example() };
    let mut draft = Draft::small(store, store.room(&stored, Some(stored.total)).unwrap());
    body.chunks(50_000).for_each(|piece| draft.append(piece).unwrap());
    let (id, _) = draft.store(stored).unwrap();
    if tokio::runtime::Handle::try_current().is_err() {
        store.flush();
    }
    id
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
    for size in sizes.into_iter().filter(|size| *size <= MAX_SMALL) {
        put_small(&first, &format!("http://h/small/{size}"), &pattern(size));
    }
    let size = first.size();
    close(first);
    let second = store(&directory, 1 << 30);
    assert_eq!(second.size(), size);
    for size in sizes {
        assert_eq!(get(&second, &format!("http://h/{size}")).unwrap().unwrap(), pattern(size), "{size}");
        let small = get(&second, &format!("http://h/small/{size}"));
        assert_eq!(small.map(Result::unwrap), (size <= MAX_SMALL).then(|| pattern(size)), "{size}");
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
    // A body with the wrong digest is not stored, and one without is found by none.
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
    close(first);
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

/// Each time the digest by another algorithm was asked for, the file was hashed again.
#[test]
fn digests_by_several_algorithms_are_known_beside_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let body = pattern(3 * BLOCK);
    let id = put(&first, "http://h/f", &body);
    for digest in [sha256(&body), sha512(&body)] {
        first.prove(id, digest).unwrap();
    }
    close(first);
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
    close(first);
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
        while is_hashed && draft.hash_more(total).unwrap() {
            steps += 1;
        }
        assert_eq!(steps, if is_hashed { 2 } else { 0 });
        let stored = draft.store(stored);
        assert_eq!(stored.is_ok(), is_right);
        assert_eq!(store.proved(&sha256(&body)).is_some(), is_right);
        assert_eq!((store.size().entries, store.has(id)), (usize::from(is_right), is_right));
    }
}

/// Clients with a member to ask took such pieces from the gateway: a third of a file whose parts several gateways had fetched.
#[test]
fn a_piece_that_was_written_in_several_steps_is_hashed_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let mib = usize::try_from(PIECE).unwrap();
    let body: Vec<u8> = (0..4 * mib + 100).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
    let hashes: Vec<_> = body.chunks(mib).map(crate::pieces::hash).collect();
    let total = body.len() as u64;
    let write = |draft: &mut Draft, from: usize, to: usize| {
        draft.seek(from as u64);
        body[from..to].chunks(100_000).for_each(|bytes| draft.append(bytes).unwrap());
    };
    let (from, to) = (mib + 5, 3 * mib + BLOCK + 3);
    let mut first = Draft::new(&store).unwrap();
    write(&mut first, from, to);
    let (id, stored) = first.store(Stored { total, pieces: Vec::new(), ..example() }).unwrap();
    for (at, end, expected) in [(0, from, 0..3), (to, body.len(), 3..5)] {
        let mut next = Draft::of(&store, id, &stored).unwrap();
        next.seek(at as u64);
        next.hash_pieces();
        write(&mut next, at, end);
        if at == 0 {
            next.seek(to as u64);
        }
        while next.hash_more(total).unwrap() {}
        let mut listed: Vec<_> = next.listed(0).iter().map(|listed| (listed.index, listed.hash)).collect();
        listed.sort_by_key(|(index, _)| *index);
        let all = expected.map(|index| (u32::try_from(index).unwrap(), hashes[index]));
        assert_eq!(listed, all.collect::<Vec<_>>());
        let (_, stored) = next.store(stored.clone()).unwrap();
        assert_eq!(stored.pieces.len(), listed.len());
    }
}

/// A copy of a response is made when it is used for the second time.
pub(crate) fn use_twice(store: &Arc<Store>, id: u64) {
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

/// Each hit looked at the files, so a disk that did not answer blocked its thread, and all that the thread served.
#[tokio::test(start_paused = true)]
async fn a_copy_is_used_without_a_look_at_its_files_and_not_for_long() {
    for kind in ["head", "body", "small"] {
        for is_removed in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(&directory, 1 << 30);
            let put = if kind == "small" { put_small } else { put };
            let (id, whole) = (put(&store, "http://h/f", &pattern(100)), pattern(100));
            store.flush();
            use_twice(&store, id);
            let path = store.path(id, kind);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[20] ^= 1;
            match is_removed {
                true => std::fs::remove_file(&path).unwrap(),
                false => std::fs::write(&path, bytes).unwrap(),
            }
            let copies = store.copies("http://h/f").map(|copies| copies[0].body.clone());
            assert_eq!(copies.as_deref(), Some(&*whole), "{kind} {is_removed}");
            tokio::time::advance(hot::UNREAD).await;
            assert!(store.copies("http://h/f").is_none(), "{kind} {is_removed}");
            assert!(!matches!(get(&store, "http://h/f"), Some(Ok(_))), "{kind} {is_removed}");
        }
    }
}

#[test]
fn a_copy_of_what_was_there_before_a_change_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    for put in [put, put_small] {
        let id = put(&store, "http://h/f", &pattern(100));
        use_twice(&store, id);
        let mut stored = store.stored(id).unwrap();
        stored.fields.push("X", b"1").unwrap();
        let (changes, made) = (store.hot().changes(), hot::read(&store.directory, id).unwrap());
        store.update(id, &stored).unwrap();
        store.hot().insert(made, changes);
        assert!(store.copies("http://h/f").is_none());
        store.remove(id);
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

/// The kinds of the files in the store.
fn kinds(store: &Store) -> Vec<String> {
    let folders = std::fs::read_dir(&store.directory).unwrap().filter_map(|folder| {
        Some(std::fs::read_dir(folder.unwrap().path()).ok()?.map(|file| file.unwrap().path()))
    });
    folders.flatten().map(|path| path.extension().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Two files were made before the last byte of a response went out.
#[tokio::test]
async fn a_small_response_is_found_before_it_is_written_into_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30);
    let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, budget.reserve()).unwrap();
    let disk = store.writing.lock().unwrap();
    let whole = pattern(BLOCK + 5);
    let id = put_small(&store, "http://h/f", &whole);
    assert_eq!(kinds(&store), Vec::<String>::new());
    let held = budget.used();
    assert!(held > whole.len());
    assert_eq!(get(&store, "http://h/f").unwrap().unwrap(), whole);
    assert_eq!(store.copies("http://h/f").unwrap()[0].body, whole);
    assert_eq!((store.size().entries, store.has(id)), (1, true));
    drop(disk);
    store.flush();
    assert_eq!(kinds(&store), ["small"]);
    assert!(budget.used() + whole.len() < held, "{held} {}", budget.used());
    assert_eq!(get(&store, "http://h/f").unwrap().unwrap(), whole);
    use_twice(&store, id);
    assert!(store.copies("http://h/f").is_none(), "longer than what is copied");
}

#[tokio::test]
async fn what_is_changed_or_removed_before_it_is_written_is_not_written_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let disk = first.writing.lock().unwrap();
    let (body, other) = (pattern(100), pattern(77));
    let [removed, updated, released] =
        ["removed", "updated", "released"].map(|name| put_small(&first, &format!("http://h/{name}"), &body));
    first.remove(removed);
    assert!(get(&first, "http://h/removed").is_none());
    let mut stored = first.stored(updated).unwrap();
    stored.fields.push("X", b"1").unwrap();
    first.update(updated, &stored).unwrap();
    first.prove(released, sha256(&body)).unwrap();
    first.release(released);
    drop(disk);
    first.flush();
    assert_eq!(kinds(&first), ["small", "small"]);
    // Once more, now that there is a file.
    let again = put_small(&first, "http://h/again", &other);
    first.flush();
    let mut later = first.stored(again).unwrap();
    later.fields.push("X", b"2").unwrap();
    first.update(again, &later).unwrap();
    close(first);
    let second = store(&directory, 1 << 30);
    assert!(get(&second, "http://h/removed").is_none() && get(&second, "http://h/released").is_none());
    assert_eq!(second.stored(updated), Some(stored));
    assert_eq!(second.proved(&sha256(&body)).map(|(id, _)| id), Some(released));
    assert_eq!(
        (second.stored(again), get(&second, "http://h/again").unwrap().unwrap()),
        (Some(later), other)
    );
}

/// Copies a directory. A child process would have the locks of all stores for a moment, also those of other tests.
fn copy(from: &Path, to: &Path) {
    files::private_directory(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => _ = std::fs::copy(&path, &to).unwrap(),
        }
    }
}

/// As after a `kill -9`, the index is made from what is there.
#[tokio::test]
async fn what_was_not_written_by_the_end_of_the_process_is_missing_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    put_small(&first, "http://h/before", b"abc");
    first.flush();
    let disk = first.writing.lock().unwrap();
    put_small(&first, "http://h/after", b"def");
    // A copy of what is on the disk now.
    let after = tempfile::tempdir().unwrap();
    copy(&first.directory, &after.path().join("cache"));
    let second = store(&after, 1 << 30);
    assert_eq!(get(&second, "http://h/before").unwrap().unwrap(), b"abc");
    assert!(get(&second, "http://h/after").is_none());
    assert_eq!(second.size().entries, 1);
    drop(disk);
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30);
    let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, budget.reserve()).unwrap();
    let before = budget.used();
    let disk = store.writing.lock().unwrap();
    let id = put_small(&store, "http://h/f", b"abc");
    let folder = store.path(id, "small").parent().unwrap().to_owned();
    std::fs::remove_dir(&folder).unwrap();
    std::fs::write(&folder, "no directory").unwrap();
    drop(disk);
    store.flush();
    assert!(get(&store, "http://h/f").is_none() && !store.has(id) && !store.may_have("http://h/f"));
    assert!(budget.used() <= before + usize::try_from(ENTRY_MEMORY).unwrap(), "{}", budget.used());
    assert_eq!(store.size().bytes, 0);
}

/// Nothing more was stored until the node was restarted.
#[test]
fn a_directory_that_somebody_has_removed_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    for put in [put, put_small] {
        put(&store, "http://h/f", b"abc");
        std::fs::remove_dir_all(&store.directory).unwrap();
        assert!(get(&store, "http://h/f").is_none());
        let id = put(&store, "http://h/f", b"def");
        assert_eq!(get(&store, "http://h/f").unwrap().unwrap(), b"def");
        store.remove(id);
    }
    let other = Store::open(&store.directory, 1 << 30, 1 << 20, Reserve::default());
    assert!(other.is_err(), "it is in use");
}

/// A name with the largest number left no number for what came next.
#[test]
fn files_of_others_are_neither_taken_for_responses_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, 1 << 30);
    let id = put(&first, "http://h/f", b"abc");
    let foreign = [
        "3f/ffffffffffffffff.head",
        "00/fffffffffffffffe.body",
        "01/1.head",
        "02/+2.body",
        "03/notes",
        "04/a.b",
    ];
    foreign.iter().for_each(|name| std::fs::write(first.directory.join(name), "foreign").unwrap());
    (0..3000)
        .for_each(|number| std::fs::write(first.directory.join(format!("05/{number}.txt")), "").unwrap());
    close(first);
    let second = store(&directory, 1 << 30);
    assert_eq!(second.size().entries, 1);
    let next = put(&second, "http://h/g", b"def");
    assert!(id < next);
    assert_eq!(get(&second, "http://h/f").unwrap().unwrap(), b"abc");
    assert_eq!(get(&second, "http://h/g").unwrap().unwrap(), b"def");
    assert!(foreign.iter().all(|name| second.directory.join(name).exists()));
}

#[tokio::test]
async fn what_waits_for_the_disk_takes_no_more_memory_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30);
    let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, budget.reserve()).unwrap();
    let disk = store.writing.lock().unwrap();
    let stored = Stored { total: 20_000, ..example() };
    let mut count = 0;
    while store.room(&stored, Some(20_000)).is_some() {
        put_small(&store, &format!("http://h/{count}"), &pattern(20_000));
        count += 1;
    }
    assert_eq!(count, 6, "an eighth of the memory of the index");
    assert!(budget.used() < (1 << 17) + count * 1024, "{}", budget.used());
    let is_large = Stored { total: 1 << 20, ..example() };
    drop(disk);
    store.flush();
    assert!(store.room(&stored, Some(20_000)).is_some());
    assert!(store.room(&is_large, Some(1 << 20)).is_none() && store.room(&stored, None).is_none());
    assert_eq!(store.size().entries, count);
}

/// A body whose length is not known turns out to be longer than what is kept in memory.
#[tokio::test]
async fn a_body_that_outgrows_its_memory_goes_on_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30);
    let store = Store::open(&directory.path().join("cache"), 1 << 30, 16 << 20, budget.reserve()).unwrap();
    let before = budget.used();
    for length in [MAX_SMALL, MAX_SMALL + 1] {
        let (uri, whole) = (format!("http://h/{length}"), pattern(length));
        let stored = Stored { uri: uri.clone(), total: length as u64, ..example() };
        let mut draft = Draft::small(&store, store.room(&stored, None).unwrap());
        draft.check(sha256(&whole));
        whole.chunks(7_001).for_each(|piece| draft.append(piece).unwrap());
        assert_eq!(draft.file().is_some(), length > MAX_SMALL);
        let (id, stored) = draft.store(stored).unwrap();
        assert_eq!(stored.digests, [sha256(&whole)]);
        assert_eq!(store.proved(&sha256(&whole)).map(|(found, _)| found), Some(id));
        assert_eq!(get(&store, &uri).unwrap().unwrap(), whole);
    }
    // A body that is cut off is kept to be completed, or not at all.
    for is_kept in [true, false] {
        let stored = Stored { uri: "http://h/cut".into(), total: 1000, ..example() };
        let mut draft = Draft::small(&store, store.room(&stored, Some(1000)).unwrap());
        draft.append(&pattern(400)).unwrap();
        if is_kept {
            let (id, stored) = draft.store(stored).unwrap();
            let mut rest = Draft::of(&store, id, &stored).unwrap();
            rest.seek(400);
            rest.append(&pattern(1000)[400..]).unwrap();
            rest.store(stored).unwrap();
            assert_eq!(get(&store, "http://h/cut").unwrap().unwrap(), pattern(1000));
        }
    }
    store.flush();
    let entries = usize::try_from(ENTRY_MEMORY).unwrap() * store.size().entries;
    assert!(budget.used() <= before + entries, "{} {before} {entries}", budget.used());
}

/// Fifty downloads of one file by one node stood still forever: each waited for the disk, and had others in its queue that were
/// not polled meanwhile.
#[tokio::test]
async fn who_waits_for_the_disk_and_is_not_polled_keeps_it_from_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut waiting = Vec::new();
    for _ in 0..3 * disk::MOST_THREADS {
        let gate = gate.clone();
        let mut one = Box::pin(store.blocking(move |_| gate.lock().unwrap().recv().is_err()));
        assert!(one.as_mut().poll(&mut context).is_pending());
        waiting.push(one);
    }
    drop(open);
    let late = tokio::time::timeout(std::time::Duration::from_secs(60), store.blocking(|_| 7)).await;
    assert_eq!(late.unwrap().unwrap(), 7);
    for one in waiting {
        assert!(one.await.unwrap());
    }
}

/// Parts of a body whose beginnings were written in any order become one, and the store has the whole.
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
        for kind in ["head", "body", "small"] {
            let directory = tempfile::tempdir().unwrap();
            let first = store(&directory, 1 << 30);
            let put = if kind == "small" { put_small } else { put };
            let id = put(&first, "http://h/f", &whole);
            let path = first.path(id, kind);
            close(first);
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
    assert_eq!(store.size().bytes, 0);
    // A thread of the store removes the file.
    let directory = store.directory.clone();
    close(store);
    assert_eq!(ids(&directory).count(), 0);
}

/// A body of unknown length took the whole store before it was given up, and evicted everything else.
#[test]
fn a_body_that_takes_more_than_half_of_the_store_is_not_kept_and_displaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 100_000);
    put(&store, "http://h/old", b"abc");
    let before = store.size();
    let mut draft = Draft::new(&store).unwrap();
    draft.append(&pattern(50_000)).unwrap();
    assert_eq!(draft.append(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    drop(draft);
    assert_eq!(store.size(), before);
    assert_eq!(get(&store, "http://h/old").unwrap().unwrap(), b"abc");
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
    /// Compared with a map of what was put last. An entry may be missing, because the store is small; it is never another one.
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
                    let put = if size % 2 == 0 { put_small } else { put };
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
                    close(open);
                    open = store(&directory, LIMIT);
                }
            }
            prop_assert!(open.size().bytes <= LIMIT);
        }
    }
}

/// Only the log said so.
#[test]
fn what_keeps_responses_from_being_stored_is_known_until_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, 1 << 30);
    let path = directory.path().join("cache");
    assert_eq!((store.directory(), store.fault()), (&*path, None));
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(Draft::new(&store).is_err());
    assert!(store.fault().is_some_and(|why| why.contains("Not a directory")), "{:?}", store.fault());
    std::fs::remove_file(&path).unwrap();
    let mut draft = Draft::new(&store).unwrap();
    draft.append(b"x").unwrap();
    assert!(store.fault().is_some());
    draft.store(Stored { total: 1, ..example() }).unwrap();
    assert_eq!(store.fault(), None);
}
