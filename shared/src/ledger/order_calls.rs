//! The ledger's calls about orders. Jobs take and give up their places by triggers, see `migrations/postgres/0011_order.sql`.

use futures::future::BoxFuture;

use super::orders::{Mended, OrderName, OrderPlace};
use super::{Ledger, Result, dispatch};
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

impl Ledger {
    /// The first job of an order, where it may run: not blocked, not ended.
    pub fn order_head<'a>(
        &'a self,
        namespace: &'a Namespace,
        queue: &'a QueueName,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Job>>> {
        Box::pin(async move { dispatch!(self, order_head(namespace, queue, key)) })
    }

    /// Where a job stands in its order; `None`: it has no place in one.
    pub fn order_place<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<OrderPlace>>> {
        Box::pin(async move { dispatch!(self, order_place(namespace, id)) })
    }

    /// Jobs that are blocked in their order and past their `expires_at`, the oldest first.
    pub fn overdue_in_order(&self, now: Timestamp, limit: u32) -> BoxFuture<'_, Result<Vec<Job>>> {
        Box::pin(async move { dispatch!(self, overdue_in_order(now, limit)) })
    }

    /// Looks at `limit` orders after `after`, and sets right those whose first job is blocked or gone. Safe to repeat.
    pub fn mend_orders(
        &self,
        after: Option<OrderName>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Mended>> {
        Box::pin(async move { dispatch!(self, mend_orders(after, limit)) })
    }
}
