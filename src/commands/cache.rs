//! `laneway cache`: what this machine stores as a gateway, and what it keeps for other members. Files are read by the command
//! itself; beside a running node it is the node that removes them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{ask, beside, hung, progress, say};
use crate::cache::inspect::{Checked, Directory};
use crate::cache::policy;
use crate::cache::store::Used;
use crate::cache::stored::Stored;
use crate::control::{self, Ask, Stores};
use crate::failure::printable;
use crate::gateway::options::CACHE;
use crate::problem::Problem;
use crate::sharing;
use crate::sys::state::{StateDir, quoted};
use crate::telemetry::report;

/// How long a running node may take to remove one batch, or to say how its responses were used.
const NOTICE: Duration = Duration::from_secs(10);
/// How many responses the node is asked to remove at a time.
const BATCH: usize = 4096;

/// `laneway cache`
#[derive(Debug, clap::Subcommand)]
pub enum Cache {
    /// List the stored responses: size, age, how long they are fresh, hits, URL; and the files kept for other members
    Ls {
        /// Only URLs that contain PATTERN or, if it has a *, match it as a whole
        pattern: Option<String>,
        /// Print the list as one line of JSON; sizes are in bytes, times in seconds
        #[arg(long)]
        json: bool,
    },
    /// Remove stored responses, and files kept for other members; the next request for each goes to the server
    Rm {
        /// URLs that contain PATTERN or, if it has a *, match it as a whole
        #[arg(required_unless_present = "all")]
        pattern: Option<String>,
        /// Remove everything
        #[arg(long, conflicts_with = "pattern")]
        all: bool,
    },
    /// Check the checksums of everything that is stored, and remove what is damaged. Exits with 1 if anything is
    Verify {
        /// Print the result as one line of JSON
        #[arg(long)]
        json: bool,
    },
}

/// One stored response.
// fields: the schema of a JSON document
#[derive(Debug, Serialize)]
struct Row {
    url: String,
    /// `cache` for what a gateway serves to clients, `peer-cache` for what is kept for other members.
    store: &'static str,
    /// How many bytes of the body are stored, and how many it has.
    stored: u64,
    size: u64,
    /// Which bytes are stored, each part with the offset of its first byte and of the one after its last; none if all are.
    parts: Vec<(u64, u64)>,
    status: u16,
    /// Time since the server sent or validated it; none when the clock was set back.
    age: Option<u64>,
    /// How long it is used without asking the server.
    fresh_for: u64,
    hits: u64,
    members: u32,
    saved: u64,
}

/// What is damaged.
#[derive(Debug, Serialize)]
struct Damage {
    url: Option<String>,
    why: &'static str,
    store: &'static str,
    #[serde(skip)]
    id: u64,
}

/// The stores of this machine.
struct Here<'a> {
    state: &'a StateDir,
    places: Vec<NamedStore>,
}

/// One store.
struct NamedStore {
    store: Stores,
    /// The name of its directory.
    name: &'static str,
    path: PathBuf,
    directory: Directory,
}

impl Cache {
    /// Runs the command on the store in this state directory.
    ///
    /// # Errors
    /// When there is no store, it cannot be read, or the node does not follow.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let stores = [CACHE, sharing::DIRECTORY];
        if let Some(problem) =
            beside::elsewhere(state).filter(|_| !stores.iter().any(|name| state.path().join(name).exists()))
        {
            return Err(problem);
        }
        let here = Here::of(state)?;
        match self {
            Self::Ls { pattern, json } => here.list(pattern.as_deref(), json),
            Self::Rm { pattern, all: _ } => here.remove(pattern.as_deref()),
            Self::Verify { json } => here.verify(json),
        }
    }
}

impl<'a> Here<'a> {
    /// The stores that there are.
    fn of(state: &'a StateDir) -> Result<Self, Problem> {
        let places = [(Stores::Cache, CACHE), (Stores::PeerCache, sharing::DIRECTORY)];
        let places = places.map(|(store, name)| {
            let path = state.path().join(name);
            let directory = Directory::new(&path);
            NamedStore { store, name, path, directory }
        });
        let mut here = Self { state, places: Vec::new() };
        for place in places {
            match place.directory.lock() {
                Ok(_) => here.places.push(place),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(place.unreadable(error)),
            }
        }
        if here.places.is_empty() {
            let (cache, path) = (state.path().join(CACHE), state.path().join(sharing::DIRECTORY));
            return Err(Problem::new("this machine stores no responses")
                .after(Problem::new(format!("there is neither {} nor {}", cache.display(), path.display())))
                .hint("nodes store them while they run; name the directory of the node with --state DIR"));
        }
        Ok(here)
    }

    fn list(&self, pattern: Option<&str>, json: bool) -> Result<(), Problem> {
        let (now, mut rows) = (SystemTime::now(), Vec::new());
        for place in &self.places {
            if place.store == Stores::Cache && place.lock()?.is_none() {
                // A node that does not answer has written them before.
                control::ask(self.state, Ask::SaveUses, NOTICE)?;
            }
            let uses = place.directory.uses();
            let found = place.matching(pattern);
            rows.extend(found.into_iter().map(|(id, stored)| row(place.name, (id, stored), &uses, now)));
        }
        rows.sort_by(|one, other| (one.store, &one.url).cmp(&(other.store, &other.url)));
        if json {
            let line = serde_json::to_string(&rows);
            say(line.map_err(|error| Problem::new("the list cannot be written").because(error))?);
            return Ok(());
        }
        if rows.is_empty() {
            say(match pattern {
                Some(pattern) => format!("No stored response matches '{}'.", printable(pattern)),
                None => "Nothing is stored.".into(),
            });
            self.say_unused();
            return Ok(());
        }
        let sum = |rows: &[Row]| {
            rows.iter().fold((0, 0), |(size, saved), row| (size + row.stored, saved + row.saved))
        };
        let kept = rows.split_off(rows.partition_point(|row| row.store == CACHE));
        if !rows.is_empty() {
            let (mut text, (size, saved)) = (String::new(), sum(&rows));
            let head = ["SIZE", "AGE", "FRESH FOR", "HITS", "MACHINES", "SAVED", "URL"];
            report::table(&mut text, head, rows.iter().map(Row::cells).collect());
            say(text.trim_end());
            let count = report::counted(rows.len() as u64, "response");
            say(format!("{count}, {}; {} saved", report::bytes(size), report::bytes(saved)));
        }
        if !kept.is_empty() {
            let (mut text, (size, _)) = (String::new(), sum(&kept));
            let cells = kept.iter().map(|row| {
                let [size, age, .., url] = row.cells();
                [size, age, url]
            });
            report::table(&mut text, ["SIZE", "AGE", "KEPT FOR OTHER MEMBERS"], cells.collect());
            say(text.trim_end());
            say(format!("{}, {}", report::counted(kept.len() as u64, "file"), report::bytes(size)));
        }
        Ok(())
    }

    /// Says in which of these directories the node that runs with them can store nothing.
    fn say_unused(&self) {
        let proxies = control::running_proxies(self.state.path()).unwrap_or_default();
        let seen = proxies.into_iter().find_map(|proxy| ask::snapshot(ask::reachable(proxy)).ok());
        seen.iter().flat_map(|seen| &seen.unused).for_each(|directory| say(report::unused(directory)));
    }

    fn remove(&self, pattern: Option<&str>) -> Result<(), Problem> {
        let found: Vec<_> = self.places.iter().map(|place| place.matching(pattern)).collect();
        if let Some(pattern) = pattern.filter(|_| found.iter().all(Vec::is_empty)) {
            return Err(Problem::new(format!("no stored response matches '{}'", printable(pattern)))
                .hint("'laneway cache ls' lists them"));
        }
        let size = found.iter().flatten().map(|(_, stored)| stored.length()).sum();
        let mut count = 0;
        for (place, found) in self.places.iter().zip(&found) {
            let ids: Vec<u64> = match pattern {
                Some(_) => found.iter().map(|(id, _)| *id).collect(),
                // Also those that cannot be read.
                None => place.directory.ids(),
            };
            self.remove_all(place, &ids)?;
            count += ids.len();
        }
        let count = report::counted(count as u64, "response");
        say(format!("Removed {count}, {}.", report::bytes(size)));
        Ok(())
    }

    fn verify(&self, json: bool) -> Result<(), Problem> {
        let (mut count, mut size, mut damaged) = (0_u64, 0, Vec::new());
        for place in &self.places {
            let _waiting = (!json).then(|| progress::waiting("reading everything that is stored"));
            let before = damaged.len();
            for id in place.directory.ids() {
                match place.directory.check(id) {
                    Checked::Sound(stored) => (count, size) = (count + 1, size + stored.length()),
                    Checked::Damaged { uri, why } => {
                        let url = uri.as_deref().map(shown);
                        damaged.push(Damage { url, why, store: place.name, id });
                    }
                    Checked::Gone => {}
                }
            }
            let ids: Vec<u64> = damaged[before..].iter().map(|damage| damage.id).collect();
            self.remove_all(place, &ids)?;
        }
        if json {
            let line = serde_json::json!({ "sound": count, "bytes": size, "removed": damaged }).to_string();
            say(line);
        } else {
            for Damage { url, why, .. } in &damaged {
                let url = url.as_deref().map_or("a response".into(), printable);
                say(format!("removed {url}: {why}"));
            }
            let verb = if count == 1 { "is" } else { "are" };
            say(format!("{} {verb} intact, {}.", report::counted(count, "response"), report::bytes(size)));
            self.say_unused();
        }
        match damaged.len() {
            0 => Ok(()),
            1 => Err(Problem::new("1 damaged response was removed")
                .hint("it is fetched again when somebody asks for it; check the disk if this recurs")),
            removed => Err(Problem::new(format!("{removed} damaged responses were removed"))
                .hint("they are fetched again when somebody asks for them; check the disk if this recurs")),
        }
    }

    fn remove_all(&self, place: &NamedStore, ids: &[u64]) -> Result<(), Problem> {
        for batch in ids.chunks(BATCH) {
            // While it is locked here, no node begins to use it.
            let lock = place.lock()?;
            if lock.is_some() {
                batch
                    .iter()
                    .try_for_each(|id| place.directory.remove(*id))
                    .map_err(|error| place.fixed(error))?;
            } else if !control::ask(self.state, Ask::Remove(place.store, batch), NOTICE)? {
                return Err(hung::with(self.state, NOTICE, ""));
            } else if batch.iter().any(|id| place.directory.stored(*id).is_some()) {
                return Err(place.fixed(io::ErrorKind::PermissionDenied.into()));
            }
        }
        Ok(())
    }
}

impl NamedStore {
    /// Locks the store; `None` while a node uses it.
    fn lock(&self) -> Result<Option<File>, Problem> {
        self.directory.lock().map_err(|error| self.unreadable(error))
    }

    /// The problem that files in the store cannot be removed.
    fn fixed(&self, error: io::Error) -> Problem {
        let path = printable(&quoted(&self.path));
        Problem::new(format!("not everything could be removed from {path}")).because(error).hint(format!(
            "run it as root or as the user of the node; 'ls -laR {path}' shows whose the files are"
        ))
    }

    fn unreadable(&self, error: io::Error) -> Problem {
        let path = printable(&quoted(&self.path));
        let hint = match error.kind() {
            io::ErrorKind::NotADirectory => format!(
                "move {path} away: a node needs a directory there, which it makes when it starts again"
            ),
            io::ErrorKind::PermissionDenied => "run it as root, or as the user of the node".into(),
            _ => format!("'ls -la {path}' shows what is there"),
        };
        Problem::new(format!("{path}, where responses are stored, cannot be read")).because(error).hint(hint)
    }

    /// The responses whose URL matches, all without a pattern.
    fn matching(&self, pattern: Option<&str>) -> Vec<(u64, Stored)> {
        let all = self.directory.ids().into_iter();
        let stored = all.filter_map(|id| Some((id, self.directory.stored(id)?)));
        stored.filter(|(_, stored)| pattern.is_none_or(|pattern| is_named(pattern, &stored.uri))).collect()
    }
}

fn row(store: &'static str, (id, stored): (u64, Stored), uses: &HashMap<u64, Used>, now: SystemTime) -> Row {
    let Used { hits, saved, members } = uses.get(&id).copied().unwrap_or_default();
    Row {
        stored: stored.length(),
        size: stored.total,
        parts: match stored.is_complete() {
            true => Vec::new(),
            false => stored.parts.iter().map(|part| (part.start, part.end)).collect(),
        },
        status: stored.status,
        age: policy::age(&stored, now).map(|age| age.as_secs()),
        fresh_for: policy::remaining(&stored, now).as_secs(),
        hits,
        members,
        saved,
        store,
        url: shown(&stored.uri),
    }
}

/// A URI of the store, which names each port, without the port that its scheme implies.
fn shown(uri: &str) -> String {
    for (scheme, port) in [("http://", ":80"), ("https://", ":443")] {
        if let Some(rest) = uri.strip_prefix(scheme) {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            return format!("{scheme}{}{path}", authority.strip_suffix(port).unwrap_or(authority));
        }
    }
    uri.to_owned()
}

/// Whether a pattern names this URI of the store: with or without the port that its scheme implies.
fn is_named(pattern: &str, uri: &str) -> bool {
    matches(pattern, uri) || matches(pattern, &shown(uri))
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    fn cells(&self) -> [String; 7] {
        let time = |seconds: u64| report::age(seconds as f64);
        let (stored, all) = (report::bytes(self.stored), report::bytes(self.size));
        let size = match &*self.parts {
            _ if self.stored == self.size => all,
            [(0, _)] => format!("first {stored} of {all}"),
            [(start, _)] => format!("{stored} after {} of {all}", report::bytes(*start)),
            [] => format!("{stored} of {all}"),
            parts => format!("{stored} in {} parts of {all}", parts.len()),
        };
        [
            size,
            self.age.map_or_else(|| "-".into(), time),
            if self.fresh_for == 0 { "-".into() } else { time(self.fresh_for) },
            self.hits.to_string(),
            self.members.to_string(),
            report::bytes(self.saved),
            // A server's path may contain anything.
            printable(&self.url),
        ]
    }
}

/// Whether `text` contains `pattern`, or, if that has a `*`, matches it as a whole.
fn matches(pattern: &str, text: &str) -> bool {
    if !pattern.contains('*') {
        return text.contains(pattern);
    }
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_part_of_the_url_or_with_a_star_all_of_it() {
        let url = "http://deb.example:80/pool/main/b/bash_5.2.deb";
        for (pattern, wanted) in [
            ("bash", true),
            ("BASH", false),
            ("*.deb", true),
            ("*.de", false),
            ("http://*", true),
            ("deb*", false),
            ("http://deb.example:80/*/bash*", true),
            ("*bash*bash*", false),
            ("*", true),
            ("http*deb", true),
            ("", true),
        ] {
            assert_eq!(matches(pattern, url), wanted, "{pattern}");
        }
    }

    #[test]
    fn what_is_there_of_a_file_is_listed() {
        const MB: u64 = 1_000_000;
        for (parts, stored, expected) in [
            (vec![], 9 * MB, "9.00 MB"),
            (vec![(0, 2 * MB)], 2 * MB, "first 2.00 MB of 9.00 MB"),
            (vec![(2 * MB, 5 * MB)], 3 * MB, "3.00 MB after 2.00 MB of 9.00 MB"),
            (vec![(0, MB), (5 * MB, 6 * MB)], 2 * MB, "2.00 MB in 2 parts of 9.00 MB"),
            (vec![], 0, "0 B of 9.00 MB"),
        ] {
            let row = Row {
                url: "http://h/f".into(),
                store: "cache",
                stored,
                size: 9 * MB,
                parts,
                status: 200,
                age: None,
                fresh_for: 0,
                hits: 0,
                members: 0,
                saved: 0,
            };
            assert_eq!(row.cells()[0], expected);
        }
    }

    #[test]
    fn a_url_is_listed_and_named_without_the_port_that_its_scheme_implies() {
        for (uri, url) in [
            ("http://h:80/x", "http://h/x"),
            ("https://h:443/x?at=/:443", "https://h/x?at=/:443"),
            ("http://[::80]:80/", "http://[::80]/"),
            ("http://h:8080/x", "http://h:8080/x"),
            ("http://h:443/x", "http://h:443/x"),
            ("https://h:80/x", "https://h:80/x"),
            ("sha256:80", "sha256:80"),
        ] {
            assert_eq!(shown(uri), url);
            assert!(is_named(url, uri) && is_named(uri, uri) && is_named(&format!("{url}*"), uri), "{uri}");
        }
        assert!(!is_named("http://h/x", "http://h:8080/x"));
    }
}
