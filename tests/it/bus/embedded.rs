//! The suite, on the embedded log: with each way to sync, and with files so small that they are changed all the time.

use std::time::Duration;

use async_trait::async_trait;
use fidelio::bus::Bus;
use fidelio::bus::embedded::{Embedded, Options};
use fidelio::config::Sync;
use tempfile::TempDir;

use super::{Fixture, run};

struct OnDisk {
    dir: TempDir,
    options: Options,
    /// Always there, but for the moment between two.
    log: Option<Embedded>,
}

impl OnDisk {
    fn new(options: Options) -> Self {
        let mut fixture = Self { dir: tempfile::tempdir().unwrap(), options, log: None };
        fixture.open();
        fixture
    }

    fn open(&mut self) {
        self.log = None;
        self.log = Some(Embedded::open(self.dir.path(), self.options.clone()).unwrap());
    }
}

#[async_trait]
impl Fixture for OnDisk {
    fn bus(&self) -> &dyn Bus {
        self.log.as_ref().unwrap()
    }

    fn prefix(&self) -> &str {
        "acme.flights"
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn crash(&mut self) {
        self.open();
    }

    async fn reopen(&mut self) {
        self.bus().close().await.unwrap();
        self.open();
    }
}

async fn keeps_every_promise(options: Options) {
    run(move || Box::new(OnDisk::new(options.clone()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_keeps_every_promise() {
    keeps_every_promise(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_so_when_it_syncs_in_the_background() {
    let sync = Sync::Every(Duration::from_millis(1));
    keeps_every_promise(Options { sync, ..Options::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_so_when_it_never_syncs() {
    keeps_every_promise(Options { sync: Sync::Never, ..Options::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_so_with_tiny_files_and_nothing_in_memory() {
    for sync in [Sync::Commit, Sync::Never] {
        let options = Options { sync, segment_bytes: 1000, journal_bytes: 5000, tail_bytes: 0, ..Options::default() };
        keeps_every_promise(options).await;
    }
}
