//! From what was read before, and what files there are now, to what is to be read. Decisions only: nothing here touches
//! a file.
//!
//! | the file of a former entry | read once | followed |
//! | --- | --- | --- |
//! | is there, as large as when it was done | nothing to do | wait for more |
//! | is there, larger | go on from the offset | go on from the offset |
//! | is elsewhere in its folder | refused | go on from the offset, to its end |
//! | is gone, or is shorter than the offset | refused, unless it was done and is gone | on record as a reject |
//! | another file is in its place | refused | the new one is read from its start |
//!
//! A torn archive that has changed is refused as well: its torn rest is on record already.

use std::path::PathBuf;

use super::discover::Seen;
use super::place::Entry;
use crate::config::Compression;
use crate::connector::{Error, Result};

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which one.
    pub file: Seen,
    /// From where on, in bytes after decompression.
    pub offset: u64,
    /// Rows before that.
    pub rows: u64,
    /// What was said about it before, if it is not new.
    pub former: Option<Entry>,
}

/// What is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to read, in this order.
    pub starts: Vec<Start>,
    /// Of what there is nothing to read now.
    pub kept: Vec<Entry>,
    /// Followed files that are not where they were, to be looked for in their folders, before anything else is read.
    pub missing: Vec<Entry>,
}

impl Plan {
    /// What was said before about the files that are read, in the order in which they are.
    pub fn entries(&self) -> impl Iterator<Item = Option<&Entry>> {
        let starts = self.starts.iter().map(|start| start.former.as_ref());
        self.missing.iter().map(Some).chain(starts)
    }
}

/// Plans to read each file once.
pub fn once(seen: Vec<Seen>, mut former: Vec<Entry>) -> Result<Plan> {
    let mut plan = Plan::default();
    for file in seen {
        let entry = take_same(&mut former, &file).or_else(|| take_path(&mut former, &file));
        match entry {
            Some(entry) => match change(&entry, &file) {
                Some(what) => return Err(Error::Changed { path: file.path, what }),
                None if entry.done.is_some_and(|done| done.size == file.size) => plan.kept.push(entry),
                None => plan.starts.push(Start::after(entry, file)),
            },
            None if file.mine => plan.starts.push(Start::new(file)),
            None => {}
        }
    }
    for entry in former {
        if entry.done.is_none() {
            let what = format!(
                "it is gone, and was read only up to byte {} (row {}): put it back, or start with another data directory",
                entry.offset, entry.rows
            );
            return Err(Error::Changed { path: PathBuf::from(entry.path), what });
        }
        plan.kept.push(entry);
    }
    Ok(plan)
}

/// Plans to follow files. Archives are not followed: they are what rotation leaves of files that were.
pub fn follow(seen: Vec<Seen>, mut former: Vec<Entry>) -> Plan {
    let mut plan = Plan::default();
    for file in seen.into_iter().filter(|file| file.compression == Compression::None) {
        match take_same(&mut former, &file) {
            Some(entry) if entry.offset <= file.size => plan.starts.push(Start::after(entry, file)),
            Some(entry) => {
                plan.missing.push(entry);
                plan.starts.push(Start::new(file));
            }
            None if file.mine => plan.starts.push(Start::new(file)),
            None => {}
        }
    }
    // What was rotated away is read to its end before what came after it.
    plan.missing.extend(former.into_iter().filter(|entry| entry.done.is_none()));
    plan
}

/// Whether a file that was found elsewhere is the one that the entry is about, with everything that was read of it.
pub fn is_rest_of(entry: &Entry, file: &Seen) -> bool {
    is_same(entry, file) && entry.offset <= file.size
}

fn is_same(entry: &Entry, file: &Seen) -> bool {
    entry.inode == file.inode && entry.head.matches(&file.head)
}

fn take_same(former: &mut Vec<Entry>, file: &Seen) -> Option<Entry> {
    let same = |entry: &Entry| is_same(entry, file);
    // An inode is unique on its device only, so the one at the same path comes first.
    let at = former
        .iter()
        .position(|entry| same(entry) && file.path.to_string_lossy() == entry.path)
        .or_else(|| former.iter().position(|entry| same(entry) && entry.device == file.device))?;
    Some(former.swap_remove(at))
}

fn take_path(former: &mut Vec<Entry>, file: &Seen) -> Option<Entry> {
    let at = former.iter().position(|entry| file.path.to_string_lossy() == entry.path)?;
    Some(former.swap_remove(at))
}

/// What keeps the file from being read on.
fn change(entry: &Entry, file: &Seen) -> Option<String> {
    let advice = "give the new content a file of its own name, or start with another data directory";
    let (offset, rows) = (entry.offset, entry.rows);
    let shorter = match (file.compression, entry.done) {
        (Compression::None, _) => file.size < offset,
        (_, Some(done)) => file.size < done.size,
        (_, None) => false,
    };
    if shorter {
        return Some(format!("it is shorter than the {offset} bytes ({rows} rows) that were read of it: {advice}"));
    }
    if !is_same(entry, file) {
        return Some(format!("it was replaced after {offset} bytes ({rows} rows) of it were read: {advice}"));
    }
    if entry.done.is_some_and(|done| done.torn && done.size != file.size) {
        return Some(format!("it was torn after {rows} rows when it was read, and has changed since: {advice}"));
    }
    None
}

impl Start {
    /// Reads a file from its start.
    pub fn new(file: Seen) -> Self {
        Self { file, offset: 0, rows: 0, former: None }
    }

    /// Reads a file on.
    pub fn after(entry: Entry, file: Seen) -> Self {
        Self { file, offset: entry.offset, rows: entry.rows, former: Some(entry) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::place::{Done, Head};
    use super::*;

    fn seen(inode: u64, content: u8, size: u64) -> Seen {
        Seen {
            path: format!("{inode}").into(),
            compression: Compression::None,
            device: 1,
            inode,
            size,
            head: vec![content; size as usize],
            mine: true,
        }
    }

    fn entry(inode: u64, content: u8, offset: u64, done: bool) -> Entry {
        Entry {
            path: inode.to_string(),
            device: 1,
            inode,
            head: Head::of(&vec![content; offset as usize]),
            offset,
            rows: offset,
            done: done.then_some(Done { size: offset, torn: false }),
        }
    }

    fn files() -> impl Strategy<Value = Vec<Seen>> {
        proptest::collection::btree_map(0..6_u64, (0..2_u8, 0..6_u64), 0..6)
            .prop_map(|files| files.into_iter().map(|(inode, (content, size))| seen(inode, content, size)).collect())
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        proptest::collection::btree_map(0..6_u64, (0..2_u8, 0..6_u64, any::<bool>()), 0..6).prop_map(|entries| {
            let entries = entries.into_iter();
            entries.map(|(inode, (content, offset, done))| entry(inode, content, offset, done)).collect()
        })
    }

    /// Whether reading from `start` on gives exactly what was not given before.
    fn is_honest(start: &Start, former: &[Entry]) -> bool {
        match former.iter().find(|entry| is_same(entry, &start.file)) {
            Some(entry) if entry.offset <= start.file.size => (start.offset, start.rows) == (entry.offset, entry.rows),
            _ => start.offset == 0,
        }
    }

    proptest! {
        #[test]
        fn reading_once_accounts_for_every_file_and_every_former_entry(files in files(), former in entries()) {
            let Ok(plan) = once(files.clone(), former.clone()) else {
                let fits = |entry: &Entry| match files.iter().find(|file| file.inode == entry.inode) {
                    Some(file) => is_rest_of(entry, file),
                    None => entry.done.is_some(),
                };
                prop_assert!(!former.iter().all(fits), "refused without a reason");
                return Ok(());
            };
            prop_assert!(plan.missing.is_empty());
            prop_assert!(plan.starts.iter().all(|start| is_honest(start, &former)));
            for file in &files {
                let started = plan.starts.iter().filter(|start| start.file == *file).count();
                let kept = plan.kept.iter().filter(|entry| entry.inode == file.inode).count();
                prop_assert_eq!(started + kept, 1);
            }
            for entry in &former {
                let kept = plan.kept.iter().chain(plan.starts.iter().filter_map(|start| start.former.as_ref()));
                prop_assert_eq!(kept.filter(|kept| *kept == entry).count(), 1);
            }
        }

        #[test]
        fn following_reads_every_file_and_looks_for_what_is_not_there(files in files(), former in entries()) {
            let plan = follow(files.clone(), former.clone());
            prop_assert!(plan.starts.iter().all(|start| is_honest(start, &former)));
            let started: Vec<Seen> = plan.starts.iter().map(|start| start.file.clone()).collect();
            prop_assert_eq!(started, files);
            for entry in former.iter().filter(|entry| entry.done.is_none()) {
                let known = plan.entries().flatten();
                prop_assert_eq!(known.filter(|known| *known == entry).count(), 1);
            }
        }
    }

    #[test]
    fn the_same_inode_on_another_device_is_another_file() {
        let mut other = seen(1, 0, 5);
        (other.device, other.path) = (2, "elsewhere".into());
        let plan = once(vec![seen(1, 0, 5), other.clone()], vec![entry(1, 0, 5, true)]).unwrap();
        assert_eq!(plan.starts, [Start::new(other)]);
    }

    #[test]
    fn a_file_is_recognised_though_its_device_has_another_number_since_the_machine_started() {
        let mut file = seen(1, 0, 5);
        file.device = 7;
        assert!(once(vec![file], vec![entry(1, 0, 5, true)]).unwrap().starts.is_empty());
    }
}
