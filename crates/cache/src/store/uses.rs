//! How often each stored response was used, and by how many members. A text file keeps it over restarts and shows it to
//! commands: the id, the uses, the bytes and the members of one response on each line.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use laneway_sys::files;
use laneway_wire::id::NodeId;

/// The file in the store's directory, and the name under which a new one is written.
const FILE: &str = "uses";
const NEW: &str = "uses.new";
/// The longest such file that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;
/// How many of the responses that saved most are listed, and the longest URI that is kept for that, in bytes.
const TOP: usize = 8;
const MAX_URI: usize = 512;
/// Maximum number of members that are told apart; further ones are not counted.
const MOST_MEMBERS: usize = 1024;

/// How a response was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// How often it was sent without a transfer of its own from the server.
    pub hits: u64,
    /// The bytes of its body that members got in this way.
    pub saved: u64,
    /// The members that got it, the one that fetched it included.
    pub members: u32,
}

/// One of the responses that have saved most bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MostUsed {
    /// The beginning of its URI.
    pub uri: String,
    /// How it was used.
    pub used: Used,
    id: u64,
}

#[derive(Debug, Default)]
struct Entry {
    hits: u64,
    saved: u64,
    /// The members counted in earlier runs, who may be among those of this run.
    before: u32,
    /// One bit for each member, by its number.
    members: Vec<u64>,
}

/// The uses of all responses that were used.
#[derive(Debug, Default)]
pub(super) struct Uses {
    entries: HashMap<u64, Entry>,
    numbers: HashMap<NodeId, usize>,
    /// The responses that have saved most, the first one most.
    top: Vec<MostUsed>,
}

impl Uses {
    /// Notes one use of the response for `uri`. Returns the number of members that got it, if there is one more now.
    pub(super) fn note(&mut self, id: u64, uri: &str, member: NodeId, saved: Option<u64>) -> Option<u32> {
        let next = self.numbers.len();
        let number = match self.numbers.get(&member) {
            Some(number) => Some(*number),
            None if next < MOST_MEMBERS => Some(*self.numbers.entry(member).or_insert(next)),
            None => None,
        };
        let entry = self.entries.entry(id).or_default();
        let before = entry.used().members;
        entry.hits += u64::from(saved.is_some());
        entry.saved += saved.unwrap_or(0);
        if let Some(number) = number {
            let needed = number / 64 + 1;
            if entry.members.len() < needed {
                entry.members.resize(needed, 0);
            }
            entry.members[number / 64] |= 1 << (number % 64);
        }
        let used = entry.used();
        self.rank(id, uri, used);
        (used.members > before).then_some(used.members)
    }

    fn rank(&mut self, id: u64, uri: &str, used: Used) {
        let least = self.top.last().map_or(0, |last| last.used.saved);
        if used.saved == 0 || self.top.len() == TOP && used.saved <= least {
            return;
        }
        let before = self.top.iter().position(|one| one.id == id).map(|at| self.top.remove(at));
        let uri = before.map_or_else(|| uri.chars().take(MAX_URI).collect(), |before| before.uri);
        let at = self.top.partition_point(|other| other.used.saved >= used.saved);
        self.top.insert(at, MostUsed { uri, used, id });
        self.top.truncate(TOP);
    }

    /// Whether the response `id` was sent before without a transfer from the server.
    pub(super) fn was_used(&self, id: u64) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.hits > 0)
    }

    pub(super) fn restore(&mut self, id: u64, used: Used) {
        let Used { hits, saved, members: before } = used;
        self.entries.insert(id, Entry { hits, saved, before, members: Vec::new() });
    }

    #[cfg(test)]
    pub(super) fn of(&self, id: u64) -> Used {
        self.entries.get(&id).map(Entry::used).unwrap_or_default()
    }

    pub(super) fn remove(&mut self, id: u64) {
        if self.entries.remove(&id).is_some() {
            self.top.retain(|one| one.id != id);
        }
    }

    /// Those that saved most bytes.
    pub(super) fn top(&self) -> Vec<MostUsed> {
        self.top.clone()
    }

    /// The memory that it takes, in bytes. What the store counts for each of its entries is not included.
    pub(super) fn memory(&self) -> usize {
        self.entries.len() * self.numbers.len().div_ceil(64) * 8 + self.numbers.len() * 64
    }

    /// The text of the file.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (id, entry) in &self.entries {
            let Used { hits, saved, members } = entry.used();
            let _ = writeln!(text, "{id:016x} {hits} {saved} {members}");
        }
        text
    }
}

impl Entry {
    fn used(&self) -> Used {
        let members = self.members.iter().map(|word| word.count_ones()).sum::<u32>();
        Used { hits: self.hits, saved: self.saved, members: members.max(self.before) }
    }
}

/// What the file in `directory` says, by id. Lines that cannot be read are left out.
pub(crate) fn read(directory: &Path) -> HashMap<u64, Used> {
    let text = || {
        let file = files::open(&directory.join(FILE)).ok()?;
        let length = file.metadata().ok()?.len();
        let mut text = vec![0; usize::try_from(length).ok().filter(|_| length <= MAX_FILE)?];
        files::read_exact_at(&file, &mut text, 0).ok()?;
        String::from_utf8(text).ok()
    };
    let line = |line: &str| {
        let mut words = line.split(' ');
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        let (hits, saved) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((id, Used { hits, saved, members: words.next()?.parse().ok()? }))
    };
    text().unwrap_or_default().lines().filter_map(line).collect()
}

/// Replaces the file in `directory`.
pub(super) fn write(directory: &Path, text: &str) -> io::Result<()> {
    let new = directory.join(NEW);
    // Left by a run that was killed.
    let _ = std::fs::remove_file(&new);
    let file = files::create(&new)?;
    files::write_all_at(&file, text.as_bytes(), 0)?;
    std::fs::rename(&new, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    #[test]
    fn each_member_counts_once_and_each_use_every_time() {
        let mut uses = Uses::default();
        assert_eq!(uses.note(1, "one", member(1), None), Some(1));
        for number in 2..90 {
            assert_eq!(uses.note(1, "one", member(number), Some(10)), Some(u32::from(number)));
            assert_eq!(uses.note(1, "one", member(number), Some(10)), None);
        }
        assert_eq!(uses.of(1), Used { hits: 176, saved: 1760, members: 89 });
        for id in 2..20 {
            uses.note(id, "other", member(1), Some(5000 - id));
        }
        uses.note(20, "never", member(1), None);
        assert_eq!(uses.top().iter().map(|one| one.id).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        uses.note(1, "one", member(1), Some(5000));
        uses.remove(3);
        let top = uses.top();
        assert_eq!((top.len(), &*top[0].uri, top[1].id), (7, "one", 2));
        uses.remove(1);
        assert_eq!(uses.of(1), Used::default());
    }

    #[test]
    fn what_was_counted_outlasts_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut uses = Uses::default();
        uses.note(7, "u", member(1), Some(10));
        uses.note(7, "u", member(2), None);
        write(directory.path(), &uses.text()).unwrap();
        write(directory.path(), &format!("{}broken line\n", uses.text())).unwrap();
        let read = read(directory.path());
        assert_eq!(read, HashMap::from([(7, Used { hits: 1, saved: 10, members: 2 })]));
        let mut again = Uses::default();
        again.restore(7, read[&7]);
        again.note(7, "u", member(1), Some(1));
        assert_eq!(again.of(7), Used { hits: 2, saved: 11, members: 2 });
    }
}
