//! Files and streams that stages of one pipeline would contend for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use crate::config::{Fault, Holes, Input, LineSource, Output, Pipeline, Sink, Source, Spanned, Stage, Work};

const PARTITION: &str = "{partition}";

/// What one sink writes.
struct Written {
    span: Range<usize>,
    path: PathBuf,
    tasks: u32,
}

/// Notes where two stages want the same. `tasks` has the number of tasks of each stage.
pub(super) fn check(pipeline: &Pipeline, holes: &Holes, tasks: &[u32], faults: &mut Vec<Fault>) {
    let known = |stage: &Stage| !holes.get(&stage.name.value).is_some_and(|hole| hole.work);
    let written: Vec<Written> = pipeline
        .stages
        .iter()
        .zip(tasks)
        .filter(|(stage, _)| known(stage))
        .filter_map(|(stage, tasks)| match &stage.work {
            Work::Sink(Spanned { value: Sink::Lines(sink), span, .. }) => match &sink.output {
                Output::File { path } => Some(Written { span: span.clone(), path: plain(path), tasks: *tasks }),
                Output::Stdout => None,
            },
            _ => None,
        })
        .collect();
    shared_among_tasks(&written, faults);
    shared_among_sinks(&written, faults);
    let sources = pipeline.stages.iter().filter(|stage| known(stage)).filter_map(|stage| match &stage.work {
        Work::Source(Spanned { value: Source::Lines(source), span, .. }) => Some((source, span)),
        _ => None,
    });
    let sources: Vec<(&LineSource, &Range<usize>)> = sources.collect();
    read_and_written(&sources, &written, faults);
    one_standard_input(&sources, faults);
}

fn shared_among_tasks(written: &[Written], faults: &mut Vec<Fault>) {
    for sink in written.iter().filter(|sink| sink.tasks > 1 && !names_partition(&sink.path)) {
        let message = format!("{} tasks of this sink would write the same file", sink.tasks);
        let help = "put `{partition}` into the path, which stands for the number of the task; or give the stage before \
                    a `key` and `partitions = 1`";
        faults.push(Fault::new(sink.span.clone(), message).help(help));
    }
}

fn shared_among_sinks(written: &[Written], faults: &mut Vec<Fault>) {
    let mut owners: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (index, sink) in written.iter().enumerate() {
        let taken = files(sink).any(|file| *owners.entry(file).or_insert(index) != index);
        if taken {
            let fault = Fault::new(sink.span.clone(), "another sink writes this file already");
            faults.push(
                fault.label("the second one").help("give each sink a file of its own, or one sink both in `from`"),
            );
        }
    }
}

fn read_and_written(sources: &[(&LineSource, &Range<usize>)], written: &[Written], faults: &mut Vec<Fault>) {
    for (source, span) in sources {
        let Input::File { path, .. } = &source.input else { continue };
        let pattern = glob::Pattern::new(&plain(path).to_string_lossy());
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        let reads = |file: PathBuf| pattern.as_ref().is_ok_and(|pattern| pattern.matches_path_with(&file, options));
        if written.iter().flat_map(files).any(reads) {
            let fault = Fault::new((*span).clone(), "this source reads what a sink of the pipeline writes");
            faults.push(fault.help("chain stages by `from`, or read and write in different folders"));
        }
    }
}

fn one_standard_input(sources: &[(&LineSource, &Range<usize>)], faults: &mut Vec<Fault>) {
    let readers = sources.iter().filter(|(source, _)| source.input == Input::Stdin);
    for (_, span) in readers.skip(1) {
        let fault = Fault::new((*span).clone(), "another source reads standard input already");
        faults.push(fault.label("the second one").help("let both stages take rows from one source, by `from`"));
    }
}

/// The files of a sink, one for each task where its path tells them apart.
fn files(sink: &Written) -> impl Iterator<Item = PathBuf> {
    let tasks = if names_partition(&sink.path) { sink.tasks } else { 1 };
    let pattern = sink.path.to_string_lossy().into_owned();
    (0..tasks).map(move |task| PathBuf::from(pattern.replace(PARTITION, &task.to_string())))
}

fn names_partition(path: &Path) -> bool {
    path.to_string_lossy().contains(PARTITION)
}

/// The path without `.` and `..` where that can be said without looking at the disk.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_of_writing_a_path_are_one_path() {
        assert_eq!(plain(Path::new("a/./b/../c")), Path::new("a/c"));
        assert_eq!(plain(Path::new("../c")), Path::new("../c"));
    }

    #[test]
    fn a_path_with_the_partition_is_a_file_for_each_task() {
        let sink = Written { span: 0..0, path: "out/{partition}.csv".into(), tasks: 2 };
        let files: Vec<PathBuf> = files(&sink).collect();
        assert_eq!(files, [Path::new("out/0.csv"), Path::new("out/1.csv")]);
    }
}
