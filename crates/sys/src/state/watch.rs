//! Whether files of a state directory may have changed, without checking each of them.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use super::StateDir;

/// The coarsest clock by which a file system times changes (FAT has 2 s). A change that follows another one within it may leave
/// the time of the directory as it is.
const GRANULARITY: Duration = Duration::from_secs(3);
/// How often files are checked although the directory seems unchanged: a file may have been overwritten in place, and a few
/// network file systems keep no such time.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Notices by the time of a state directory that files in it were created, replaced or removed: one system call a look.
#[derive(Debug)]
pub struct Watch {
    state: StateDir,
    time: Option<SystemTime>,
    changed: Option<Instant>,
    looked: Option<Instant>,
}

impl Watch {
    /// Watches this directory. The first look says that files may have changed.
    pub fn new(state: StateDir) -> Self {
        Self { state, time: None, changed: None, looked: None }
    }

    /// Whether the caller should look at its files at `now`: some may have changed since the last time that it was told so. One
    /// that was overwritten in place is reported within 5 s.
    pub fn may_have_changed(&mut self, now: Instant) -> bool {
        let time = fs::metadata(self.state.path()).and_then(|directory| directory.modified()).ok();
        if time != self.time || self.changed.is_none() {
            (self.time, self.changed) = (time, Some(now));
        }
        let is_within = |since: Option<Instant>, span| {
            since.is_some_and(|since| now.saturating_duration_since(since) < span)
        };
        let should_look = is_within(self.changed, GRANULARITY) || !is_within(self.looked, LOOK_ANYWAY);
        if should_look {
            self.looked = Some(now);
        }
        should_look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_directory_is_looked_into_rarely_and_each_change_is_noticed_at_the_next_look() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        let mut watch = Watch::new(state.clone());
        let mut now = Instant::now();
        assert!(watch.may_have_changed(now));
        now += GRANULARITY - Duration::from_millis(1);
        assert!(watch.may_have_changed(now), "a second change may have had the same time");
        let mut looks = 0;
        for _ in 0..400 {
            now += Duration::from_millis(250);
            looks += u32::from(watch.may_have_changed(now));
        }
        assert!((1..=20).contains(&looks), "{looks} looks in 100 s");
        // Whatever clock stamps the directory, these times differ from all earlier ones.
        let changes: [&dyn Fn(); 3] = [
            &|| state.write("maintenance", b"").unwrap(),
            &|| state.write("maintenance", b"again").unwrap(),
            &|| state.remove("maintenance").unwrap(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            now += GRANULARITY;
            watch.may_have_changed(now);
            now += Duration::from_millis(1);
            assert!(!watch.may_have_changed(now), "before change {number}");
            let before = fs::metadata(state.path()).unwrap().modified().unwrap();
            while fs::metadata(state.path()).unwrap().modified().unwrap() == before {
                change();
            }
            assert!(watch.may_have_changed(now), "after change {number}");
        }
    }

    #[test]
    fn a_file_overwritten_in_place_and_a_directory_that_was_moved_away_are_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        state.write("group.json", b"old").unwrap();
        let mut watch = Watch::new(state.clone());
        let start = Instant::now();
        assert!(watch.may_have_changed(start));
        fs::write(state.file("group.json"), b"new").unwrap();
        let looks = (1..=40).map(|tick| start + GRANULARITY + Duration::from_millis(250) * tick);
        assert!(looks.into_iter().any(|now| watch.may_have_changed(now)));
        let now = start + Duration::from_secs(60);
        watch.may_have_changed(now);
        assert!(!watch.may_have_changed(now + Duration::from_millis(250)));
        fs::rename(state.path(), parent.path().join("away")).unwrap();
        assert!(watch.may_have_changed(now + Duration::from_millis(250)));
    }
}
