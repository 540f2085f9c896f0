//! The thread that reads files once, one after the other. What comes after the end of a file is `follow`'s business.

use std::io::ErrorKind;

use bytes::Bytes;

use super::discover::Seen;
use super::plan::Start;
use super::unpack::{Counter, damage, fill, header, is_of_the_system, open_at, salvage};
use super::{Lines, Stop};
use crate::config::Compression;
use crate::connector::Error;
use crate::connector::frame::Ending;
use crate::connector::intake::{CHUNK_BYTES, Ended, Event, FileId, Opened, Sender};
use crate::time_of_day::now;

/// Reads all files, the first with the number 0.
pub fn read(starts: Vec<Start>, lines: Lines, counter: &Counter, sender: &Sender) -> Result<(), Stop> {
    let mut chunk = vec![0; CHUNK_BYTES];
    for (id, start) in (0..).zip(starts) {
        read_file(id, &start, lines, counter, &mut chunk, sender)?;
    }
    Stop::unless_sent(sender, Event::Finished)
}

fn read_file(
    id: FileId,
    start: &Start,
    lines: Lines,
    counter: &Counter,
    chunk: &mut [u8],
    sender: &Sender,
) -> Result<(), Stop> {
    let Start { file, offset, .. } = start;
    let header = if *offset > 0 { header(file, lines.format, lines.max_row_bytes)? } else { None };
    let mut reader = open_at(file, *offset, counter)?;
    Stop::unless_sent(sender, Event::Opened(id, opened(start, header)))?;
    let mut read = *offset;
    let mut send = |bytes: &[u8]| {
        read += bytes.len() as u64;
        Stop::unless_sent(sender, Event::Bytes(id, Bytes::copy_from_slice(bytes), now())).map(|()| read)
    };
    let ended = loop {
        let (filled, fault) = fill(reader.as_mut(), chunk);
        let end = send(chunk.get(..filled).unwrap_or_default())?;
        match fault {
            None if filled < chunk.len() => break end_of(file, end),
            None => {}
            Some(error) if file.compression == Compression::None || is_of_the_system(&error) => {
                return Err(Error::io("read", &file.path)(error).into());
            }
            Some(error) => {
                // Where the stream merely ends, everything before that was given.
                let end = if error.kind() == ErrorKind::UnexpectedEof { end } else { send(&salvage(file, end))? };
                break Ended { ending: Ending::Torn(damage(file, end, &error)), size: Some(file.size) };
            }
        }
    };
    Stop::unless_sent(sender, Event::Ended(id, ended))
}

/// What a file that is read from here on is announced with.
pub fn opened(start: &Start, header: Option<Bytes>) -> Opened {
    let Start { file, offset, rows, .. } = start;
    Opened { identity: file.identity(), head: file.head.clone(), header, offset: *offset, rows: *rows }
}

/// The size is that of what was really read, lest something that was added meanwhile be taken for read.
fn end_of(file: &Seen, end: u64) -> Ended {
    let size = if file.compression == Compression::None { end } else { file.size };
    Ended { ending: Ending::Whole, size: Some(size) }
}
