//! Standard output as a sink.
//!
//! What was written to it cannot be taken back, so after a crash the rows since the last commit are written once more:
//! at least once, where a file is exactly once.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, Result, Sink, position};
use crate::fault;

const VERSION: u32 = 1;
const NAME: &str = "stdout";
/// Rows are gathered up to this before they are written.
const GATHERED_BYTES: usize = 1 << 20;

/// How much was written, over all processes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Position {
    version: u32,
    bytes: u64,
}

/// Writes to standard output, or to whatever is written to like it.
pub struct StdoutSink<W> {
    output: Arc<Mutex<W>>,
    gathered: BytesMut,
    bytes: u64,
    failed: bool,
}

impl<W: Write + Send + 'static> StdoutSink<W> {
    /// A sink to `output`.
    pub fn new(output: W) -> Self {
        Self { output: Arc::new(Mutex::new(output)), gathered: BytesMut::new(), bytes: 0, failed: false }
    }

    /// Writes off the runtime, since whoever reads may take their time. Once that has failed, it always fails.
    async fn write_gathered(&mut self) -> Result<()> {
        let failed = Error::io("write", NAME.as_ref());
        if self.failed {
            return Err(failed(io::Error::other("the sink has stopped after a failure")));
        }
        self.failed = true;
        let rows = self.gathered.split().freeze();
        let bytes = rows.len() as u64;
        let output = self.output.clone();
        let written = tokio::task::spawn_blocking(move || write_all(&output, &rows)).await;
        written.map_err(io::Error::from).flatten().map_err(failed)?;
        self.failed = false;
        self.bytes += bytes;
        Ok(())
    }
}

#[async_trait]
impl<W: Write + Send + 'static> Sink for StdoutSink<W> {
    async fn resume(&mut self, position: Option<Value>, head: Bytes) -> Result<()> {
        if let Some(value) = position {
            let position: Position = position::read(value, VERSION, NAME)?;
            self.bytes = position.bytes;
        }
        self.gathered.extend_from_slice(&head);
        Ok(())
    }

    async fn write(&mut self, rows: Bytes) -> Result<()> {
        self.gathered.extend_from_slice(&rows);
        if self.gathered.len() >= GATHERED_BYTES {
            self.write_gathered().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Value> {
        self.write_gathered().await?;
        Ok(serde_json::to_value(Position { version: VERSION, bytes: self.bytes }).unwrap_or_default())
    }
}

fn write_all(output: &Mutex<impl Write>, rows: &[u8]) -> io::Result<()> {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
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

    #[tokio::test]
    async fn rows_are_out_after_a_flush_and_the_position_counts_them() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = StdoutSink::new(writer);
        sink.resume(None, Bytes::from_static(b"id\n")).await.unwrap();
        sink.write(Bytes::from_static(b"1\n")).await.unwrap();
        assert_eq!(sink.flush().await.unwrap(), serde_json::json!({"version": 1, "bytes": 5}));
        sink.write(Bytes::from_static(b"2\n")).await.unwrap();
        let position = sink.flush().await.unwrap();
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "id\n1\n2\n");

        let mut sink = StdoutSink::new(io::sink());
        sink.resume(Some(position), Bytes::new()).await.unwrap();
        sink.write(Bytes::from_static(b"3\n")).await.unwrap();
        assert_eq!(sink.flush().await.unwrap(), serde_json::json!({"version": 1, "bytes": 9}));
    }

    #[tokio::test]
    async fn a_closed_pipe_is_an_error_that_stays() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = StdoutSink::new(writer);
        sink.resume(None, Bytes::new()).await.unwrap();
        sink.write(Bytes::from_static(b"1\n")).await.unwrap();
        let error = sink.flush().await.unwrap_err();
        let Error::Io { action: "write", source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
        assert!(sink.flush().await.is_err());
    }

    #[tokio::test]
    async fn a_position_of_another_kind_is_refused() {
        let mut sink = StdoutSink::new(io::sink());
        let refused = sink.resume(Some(serde_json::json!({"bytes": 3})), Bytes::new()).await;
        assert!(matches!(refused, Err(Error::Position { .. })));
    }
}
