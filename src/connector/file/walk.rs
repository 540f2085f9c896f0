//! A pattern to the paths that match it. What lies there is not looked at further than finding the way takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::connector::{Error, Result};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Paths that match, each once.
    pub(super) paths: HashSet<PathBuf>,
    /// Paths in the folders looked through whose names are not UTF-8, which no pattern matches and no position could name.
    pub(super) unnamed: Vec<PathBuf>,
}

/// One component of a pattern.
enum Part {
    Literal(PathBuf),
    Name(Pattern),
    /// `**`: any number of folders, also none.
    Folders,
}

/// The paths that a pattern matches; none for what is not a pattern. `*`, `?`, `[…]` and `**` match no name that starts
/// with a dot.
pub(super) fn matches(pattern: &Path) -> Result<Found> {
    let mut found = Found::default();
    if let Some(parts) = parts(pattern) {
        walk(Path::new(""), &parts, &mut found)?;
    }
    Ok(found)
}

fn parts(pattern: &Path) -> Option<Vec<Part>> {
    let components = pattern.components().filter(|component| *component != Component::CurDir);
    components.map(|component| part(Path::new(component.as_os_str()))).collect()
}

fn part(component: &Path) -> Option<Part> {
    match component.to_str() {
        Some("**") => Some(Part::Folders),
        Some(name) if name.contains(['*', '?', '[']) => Pattern::new(name).ok().map(Part::Name),
        _ => Some(Part::Literal(component.to_owned())),
    }
}

fn walk(folder: &Path, parts: &[Part], found: &mut Found) -> Result<()> {
    let Some((first, rest)) = parts.split_first() else {
        found.paths.insert(folder.to_owned());
        return Ok(());
    };
    match first {
        Part::Literal(name) => walk(&folder.join(name), rest, found),
        Part::Name(pattern) => {
            for name in names(folder, found)? {
                let path = folder.join(&name);
                if pattern.matches(&name) && (rest.is_empty() || path.is_dir()) {
                    walk(&path, rest, found)?;
                }
            }
            Ok(())
        }
        Part::Folders if matches!(rest.first(), Some(Part::Folders)) => walk(folder, rest, found),
        Part::Folders => {
            walk(folder, rest, found)?;
            for name in names(folder, found)? {
                let path = folder.join(name);
                if path.is_dir() {
                    walk(&path, parts, found)?;
                }
            }
            Ok(())
        }
    }
}

/// The names in a folder that a pattern can match; none where there is no folder.
fn names(folder: &Path, found: &mut Found) -> Result<Vec<String>> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = Error::io("list", here);
    let entries = match fs::read_dir(here) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry.map_err(&failed)?.file_name().into_string() {
            Ok(name) if name.starts_with('.') => {}
            Ok(name) => names.push(name),
            Err(name) => found.unnamed.push(folder.join(name)),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn found(dir: &Path, pattern: &str) -> Vec<String> {
        let found = matches(&dir.join(pattern)).unwrap();
        let below = |path: &PathBuf| path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
        let mut paths: Vec<String> = found.paths.iter().filter(|path| path.is_file()).map(below).collect();
        paths.sort();
        paths
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn patterns_match_names_folders_and_whole_trees() {
        let dir = tree(&["a.csv", "x/b.csv", "x/y/c.csv", "x/y/d.txt", ".h/e.csv", "x/.f.csv"]);
        assert_eq!(found(dir.path(), "*.csv"), ["a.csv"]);
        assert_eq!(found(dir.path(), "*/b.csv"), ["x/b.csv"]);
        assert_eq!(found(dir.path(), "x/../?.csv"), ["x/../a.csv"]);
        assert_eq!(found(dir.path(), "**/*.csv"), ["a.csv", "x/b.csv", "x/y/c.csv"]);
        assert_eq!(found(dir.path(), "**/**/[cd].*"), ["x/y/c.csv", "x/y/d.txt"]);
        assert_eq!(found(dir.path(), ".h/*"), [".h/e.csv"]);
        assert_eq!(found(dir.path(), "nothing/*/here"), [""; 0]);
        assert_eq!(found(dir.path(), "a**b"), [""; 0]);
    }

    #[test]
    fn the_same_files_match_as_for_the_glob_crate() {
        let dir = tree(&["a.csv", "x/b.csv", "x/y/c.csv", "x/y/x/d.csv", ".h/e.csv", "x/.f.csv", "a1/a/b.csv"]);
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        for pattern in
            ["*", "**/*", "**", "x/**/*.csv", "**/x/*", "*/*/*.csv", "**/y/**/d.csv", "[ax]*/**/b.csv", "./*/b.csv"]
        {
            let whole = dir.path().join(pattern);
            let globbed = glob::glob_with(whole.to_str().unwrap(), options).unwrap().map(|path| path.unwrap());
            let globbed = globbed.filter(|path| path.is_file());
            let mut globbed: Vec<String> =
                globbed.map(|path| path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned()).collect();
            globbed.sort();
            globbed.dedup();
            assert_eq!(found(dir.path(), pattern), globbed, "{pattern}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_told_and_hides_no_other() {
        let dir = tree(&["a.csv", "x/b.csv"]);
        let odd = dir.path().join(OsStr::from_bytes(b"caf\xe9.csv"));
        fs::write(&odd, "").unwrap();
        assert_eq!(found(dir.path(), "*.csv"), ["a.csv"]);
        assert_eq!(matches(&dir.path().join("*.csv")).unwrap().unnamed, [odd]);
    }
}
