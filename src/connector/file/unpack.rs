//! The bytes of a file after decompression, and what is wrong with an archive that cannot be read to its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::discover::Seen;
use crate::bus::Limit;
use crate::config::{Compression, LineFormat};
use crate::connector::frame::Framer;
use crate::connector::{Error, Result};

const HEADER_CHUNK_BYTES: usize = 64 << 10;

/// Counts the bytes that are read of a file as they lie on the disk.
pub type Counter = Arc<AtomicU64>;

struct Counted {
    file: File,
    read: Counter,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Opens a file for reading from byte `offset` after decompression on. What is skipped counts as read.
pub fn open_at(file: &Seen, offset: u64, read: &Counter) -> Result<Box<dyn Read>> {
    let failed = Error::io("read", &file.path);
    let mut raw = Counted { file: File::open(&file.path).map_err(&failed)?, read: read.clone() };
    if file.compression == Compression::None {
        raw.file.seek(SeekFrom::Start(offset)).map_err(&failed)?;
        raw.read.fetch_add(offset, Ordering::Relaxed);
        return Ok(Box::new(raw));
    }
    let mut unpacked = unpack(raw, file).map_err(&failed)?;
    let skipped = io::copy(&mut unpacked.by_ref().take(offset), &mut io::sink());
    match skipped {
        Err(error) if is_of_the_system(&error) => Err(failed(error)),
        Ok(skipped) if skipped == offset => Ok(unpacked),
        _ => Err(Error::Changed {
            path: file.path.clone(),
            what: format!(
                "{offset} bytes of it were read, which can no longer be unpacked: give the new content a file of its own \
                 name, or start with another data directory"
            ),
        }),
    }
}

fn unpack(raw: Counted, file: &Seen) -> io::Result<Box<dyn Read>> {
    Ok(match file.compression {
        // Not even an archive without content is empty, but a file without content has no rows.
        _ if file.size == 0 => Box::new(raw),
        Compression::None => Box::new(raw),
        Compression::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Compression::Zstd => Box::new(zstd::Decoder::new(raw)?),
    })
}

/// The header line of a file; `None` if the format has none.
pub fn header(file: &Seen, format: LineFormat, max_row_bytes: usize) -> Result<Option<Bytes>> {
    if format == LineFormat::Ndjson {
        return Ok(None);
    }
    let mut framer = Framer::new(format, max_row_bytes, 0, None);
    let mut reader = open_at(file, 0, &Counter::default())?;
    let mut chunk = vec![0; HEADER_CHUNK_BYTES];
    loop {
        let (read, fault) = fill(reader.as_mut(), &mut chunk);
        framer.push(chunk.get(..read).unwrap_or_default());
        framer.search(Limit::ONE);
        match fault {
            _ if framer.header().is_some() => return Ok(framer.header().cloned()),
            Some(error) if is_of_the_system(&error) => return Err(Error::io("read", &file.path)(error)),
            None if read > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// Reads until the chunk is full, the stream ends, or something is wrong; gives how much was read until then.
pub fn fill(reader: &mut dyn Read, chunk: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while let Some(room) = chunk.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// Whether the operating system gave this error, rather than a decompressor.
pub fn is_of_the_system(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// What can still be had of a damaged archive after its first `offset` bytes. A decompressor does not say how much it gave
/// in a call that ran into the damage, so it is asked byte by byte.
pub fn salvage(file: &Seen, offset: u64) -> Vec<u8> {
    // Whether the call that failed gave a byte shows in that it overwrites whatever was there.
    let (one, other) = (bytewise(file, offset, 0x00), bytewise(file, offset, 0xff));
    one.into_iter().zip(other).take_while(|(one, other)| one == other).map(|(byte, _)| byte).collect()
}

fn bytewise(file: &Seen, offset: u64, blank: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut reader) = open_at(file, offset, &Counter::default()) {
        let mut more = true;
        while more {
            let mut byte = [blank];
            more = matches!(reader.read(&mut byte), Ok(1));
            bytes.extend_from_slice(&byte);
        }
    }
    bytes
}

/// Words for an archive that is damaged after `offset` bytes.
pub fn damage(file: &Seen, offset: u64, error: &io::Error) -> String {
    let kind = if file.compression == Compression::Zstd { "zstd" } else { "gzip" };
    let path = file.path.display();
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("the {kind} stream of {path} ends early, at uncompressed byte {offset}")
        }
        _ => format!("the {kind} stream of {path} is corrupt at uncompressed byte {offset}: {error}"),
    }
}
