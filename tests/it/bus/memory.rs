//! The suite, in memory.

use async_trait::async_trait;
use fidelio::bus::{Bus, memory::Memory};

use super::{Fixture, run};

struct InMemory(Memory);

#[async_trait]
impl Fixture for InMemory {
    fn bus(&self) -> &dyn Bus {
        &self.0
    }

    fn prefix(&self) -> &str {
        "acme.flights"
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn crash(&mut self) {
        self.0 = Memory::new();
    }

    async fn reopen(&mut self) {
        self.0.close().await.unwrap();
        self.0 = Memory::new();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_in_memory_keeps_every_promise() {
    run(|| Box::new(InMemory(Memory::new()))).await;
}
