//! Standard output as a sink.
//!
//! What was written to it cannot be taken back, so after a crash the rows since the last commit are written once more:
//! at least once, where a file is exactly once.

use std::io::{self, Write};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Error, Position, Result, Sink, position};
use crate::codec::Text;
use crate::fault;

const VERSION: u32 = 1;
const NAME: &str = "stdout";
/// Rows are gathered up to this before they are written.
const GATHERED_BYTES: usize = 1 << 20;

/// How much was written, over all processes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    version: u32,
    bytes: u64,
}

/// Writes to standard output, or to whatever is written to like it.
pub struct StdoutSink<W> {
    output: Arc<Mutex<W>>,
    gathered: Text,
    /// How much was written, over all processes.
    bytes: u64,
    rows: u64,
    failed: bool,
}

impl<W: Write + Send + 'static> StdoutSink<W> {
    /// A sink to `output`.
    pub fn new(output: W) -> Self {
        Self { output: Arc::new(Mutex::new(output)), gathered: Text::default(), bytes: 0, rows: 0, failed: false }
    }

    /// Writes off the runtime, since whoever reads may take their time. Once that has failed, it always fails.
    async fn write_gathered(&mut self) -> Result<()> {
        let failed = Error::io("write", NAME.as_ref());
        if self.failed {
            return Err(failed(io::Error::other("the sink has stopped after a failure")));
        }
        self.failed = true;
        let Text { bytes, rows } = std::mem::take(&mut self.gathered);
        self.bytes += bytes.len() as u64;
        self.rows += rows;
        let output = self.output.clone();
        let written = tokio::task::spawn_blocking(move || write_all(&output, &bytes)).await;
        written.map_err(io::Error::from).flatten().map_err(failed)?;
        self.failed = false;
        Ok(())
    }
}

#[async_trait]
impl<W: Write + Send + 'static> Sink for StdoutSink<W> {
    async fn resume(&mut self, position: Option<Position>, head: Bytes) -> Result<()> {
        if let Some(Position { rows, at }) = position {
            let Place { bytes, .. } = position::read_place(at, VERSION, NAME)?;
            (self.bytes, self.rows) = (bytes, rows);
        }
        self.gathered.bytes.extend_from_slice(&head);
        Ok(())
    }

    async fn write(&mut self, rows: Text) -> Result<()> {
        self.gathered.bytes.extend_from_slice(&rows.bytes);
        self.gathered.rows += rows.rows;
        if self.gathered.bytes.len() >= GATHERED_BYTES {
            self.write_gathered().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Position> {
        self.write_gathered().await?;
        let place = Place { version: VERSION, bytes: self.bytes };
        Ok(Position { rows: self.rows, at: serde_json::to_value(place).unwrap_or_default() })
    }
}

fn write_all(output: &Mutex<impl Write>, rows: &[u8]) -> io::Result<()> {
    let mut output = output.lock();
    fault::point("sink.write")?;
    output.write_all(rows)?;
    fault::point("sink.write.done")?;
    fault::point("sink.sync")?;
    output.flush()?;
    fault::point("sink.sync.done")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn row(text: &str) -> Text {
        Text { bytes: text.into(), rows: 1 }
    }

    fn position(bytes: u64, rows: u64) -> Position {
        Position { rows, at: serde_json::json!({"version": 1, "bytes": bytes}) }
    }

    #[tokio::test]
    async fn rows_are_out_after_a_flush_and_the_position_counts_them() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = StdoutSink::new(writer);
        sink.resume(None, Bytes::from_static(b"id\n")).await.unwrap();
        sink.write(row("1\n")).await.unwrap();
        assert_eq!(sink.flush().await.unwrap(), position(5, 1));
        sink.write(row("2\n")).await.unwrap();
        let committed = sink.flush().await.unwrap();
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "id\n1\n2\n");

        let mut sink = StdoutSink::new(io::sink());
        sink.resume(Some(committed), Bytes::new()).await.unwrap();
        sink.write(row("3\n")).await.unwrap();
        assert_eq!(sink.flush().await.unwrap(), position(9, 3));
    }

    #[tokio::test]
    async fn a_closed_pipe_is_an_error_that_stays() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = StdoutSink::new(writer);
        sink.resume(None, Bytes::new()).await.unwrap();
        sink.write(row("1\n")).await.unwrap();
        let error = sink.flush().await.unwrap_err();
        let Error::Io { action: "write", source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
        assert!(sink.flush().await.is_err());
    }

    #[tokio::test]
    async fn a_position_of_another_kind_is_refused() {
        let mut sink = StdoutSink::new(io::sink());
        let refused = sink.resume(Some(Position { rows: 1, at: serde_json::json!({"bytes": 3}) }), Bytes::new()).await;
        assert!(matches!(refused, Err(Error::Position { .. })));
    }
}
