//! Membership of groups on a bus that one process has to itself: whoever joins last is given every task.

use std::collections::VecDeque;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Change, Lease, Member, Result};

/// The member that has all the tasks, until the group's epoch is no longer its own.
pub(super) struct SoleMember {
    to_give: VecDeque<Box<dyn Lease>>,
    given: VecDeque<u32>,
    epoch: u64,
    current_epoch: watch::Receiver<u64>,
}

impl SoleMember {
    /// A member that is given these leases, which hold in that epoch of its group.
    pub(super) fn new(leases: Vec<Box<dyn Lease>>, epoch: u64, current_epoch: watch::Receiver<u64>) -> Self {
        Self { to_give: leases.into(), given: VecDeque::new(), epoch, current_epoch }
    }
}

#[async_trait]
impl Member for SoleMember {
    async fn changed(&mut self) -> Result<Change> {
        if *self.current_epoch.borrow() == self.epoch
            && let Some(lease) = self.to_give.pop_front()
        {
            self.given.push_back(lease.task());
            return Ok(Change::Given(lease));
        }
        let epoch = self.epoch;
        if self.current_epoch.wait_for(|current| *current != epoch).await.is_ok()
            && let Some(task) = self.given.pop_front()
        {
            return Ok(Change::Taken(task));
        }
        // Nothing will ever change for it: its tasks are all gone, or the bus is.
        std::future::pending().await
    }
}
