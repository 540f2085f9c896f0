//! Which files there are: a path or a pattern to what the file system says of each match. What is to be read of them is
//! `plan`'s business.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::walk;
use crate::config::Compression;
use crate::connector::intake::{HEAD_BYTES, Identity};
use crate::connector::{Error, Result};
use crate::partition::partition;

/// What a source reads.
#[derive(Debug, Clone)]
pub struct Selection {
    /// A path, or a pattern.
    pub path: PathBuf,
    /// How the files are compressed; `None` if their names say it.
    pub compression: Option<Compression>,
    /// The task that reads them, of `tasks`.
    pub task: u32,
    /// The number of tasks that share them.
    pub tasks: u32,
}

/// A file, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its path.
    pub path: PathBuf,
    /// How it is compressed.
    pub compression: Compression,
    /// The device it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its size on the disk, in bytes.
    pub size: u64,
    /// Its first bytes, as many as there are of [`HEAD_BYTES`].
    pub head: Vec<u8>,
    /// Whether it is this task's to read.
    pub mine: bool,
}

impl Selection {
    /// The paths of all files that match, in the order in which they are read: by the bytes of the path. A file whose name
    /// is not UTF-8 is left out, with a warning the first time, which `warned` remembers.
    pub fn paths(&self, warned: &mut HashSet<PathBuf>) -> Result<Vec<PathBuf>> {
        // A name with brackets in it is meant literally if there is a file of that name.
        if self.path.is_file() {
            return Ok(vec![self.path.clone()]);
        }
        let found = walk::matches(&self.path)?;
        for path in found.unnamed {
            if !warned.contains(&path) {
                tracing::warn!(path = %path.display(), "a file or folder is left out: its name is not UTF-8");
                warned.insert(path);
            }
        }
        let mut paths: Vec<PathBuf> = found.paths.into_iter().filter(|path| path.is_file()).collect();
        paths.sort_by(|one, other| one.as_os_str().as_encoded_bytes().cmp(other.as_os_str().as_encoded_bytes()));
        Ok(paths)
    }

    /// Looks at all files that match. One that is gone by the time it is looked at is left out.
    pub fn look(&self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for path in self.paths(&mut HashSet::new())? {
            all.extend(self.look_at(path)?);
        }
        Ok(all)
    }

    /// Looks at one file.
    pub fn look_at(&self, path: PathBuf) -> Result<Option<Seen>> {
        let failed = Error::io("read", &path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(&failed)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let head = head(&file).map_err(&failed)?;
        Ok(Some(self.seen(path, &metadata, head)))
    }

    fn seen(&self, path: PathBuf, metadata: &Metadata, head: Vec<u8>) -> Seen {
        Seen {
            compression: self.compression.unwrap_or_else(|| compression_of(&path)),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            head,
            mine: self.is_mine(&path),
            path,
        }
    }

    /// Files are shared out by their path below the folder where the pattern starts, which stays the same from wherever
    /// the pipeline is run.
    pub fn is_mine(&self, path: &Path) -> bool {
        let below = path.strip_prefix(self.base()).unwrap_or(path);
        self.tasks <= 1 || partition(below.as_os_str().as_encoded_bytes(), self.tasks) == self.task
    }

    fn base(&self) -> PathBuf {
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let literal = |part: &std::path::Component| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
        parent.components().take_while(literal).collect()
    }
}

impl Seen {
    /// What the rows of the file are said to be from.
    pub fn identity(&self) -> Identity {
        Identity {
            path: self.path.to_string_lossy().into(),
            device: self.device,
            inode: self.inode,
            packed: self.compression != Compression::None,
        }
    }
}

/// What a file's name says about its compression.
pub fn compression_of(path: &Path) -> Compression {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        _ => Compression::None,
    }
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn selection(path: impl Into<PathBuf>) -> Selection {
        Selection { path: path.into(), compression: None, task: 0, tasks: 1 }
    }

    fn names(selection: &Selection) -> Vec<String> {
        let paths = selection.paths(&mut HashSet::new()).unwrap();
        paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn files_are_read_in_the_byte_order_of_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.ndjson", "a10.ndjson", "a2.ndjson", "B.ndjson", ".hidden.ndjson", "other.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("folder.ndjson")).unwrap();
        let selection = selection(dir.path().join("*.ndjson"));
        assert_eq!(names(&selection), ["B.ndjson", "a10.ndjson", "a2.ndjson", "b.ndjson"]);
    }

    #[test]
    fn a_file_whose_name_is_not_utf_8_is_left_out() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.csv"), "").unwrap();
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.csv")), "").unwrap();
        assert_eq!(names(&selection(dir.path().join("*.csv"))), ["a.csv"]);
        assert_eq!(selection(dir.path().join("**/*.csv")).look().unwrap().len(), 1);
    }

    #[test]
    fn a_name_with_brackets_is_meant_literally_where_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a[1].csv"), "").unwrap();
        fs::write(dir.path().join("a1.csv"), "").unwrap();
        assert_eq!(names(&selection(dir.path().join("a[1].csv"))), ["a[1].csv"]);
    }

    #[test]
    fn every_file_is_read_by_exactly_one_task_wherever_the_folder_lies() {
        let owner = |dir: &str, name: &str| {
            let task = |task| Selection { task, tasks: 5, ..selection(format!("{dir}/**/*.csv")) };
            let owners: Vec<u32> = (0..5).filter(|n| task(*n).is_mine(&Path::new(dir).join(name))).collect();
            assert_eq!(owners.len(), 1);
            owners[0]
        };
        for name in ["a.csv", "b.csv", "2013/01.csv", "2013/02.csv"] {
            assert_eq!(owner("/data/flights", name), owner("flights", name));
        }
    }

    #[test]
    fn a_files_name_says_how_it_is_compressed() {
        assert_eq!(compression_of(Path::new("a.ndjson.gz")), Compression::Gzip);
        assert_eq!(compression_of(Path::new("a.csv.zst")), Compression::Zstd);
        assert_eq!(compression_of(Path::new("gz")), Compression::None);
    }
}
