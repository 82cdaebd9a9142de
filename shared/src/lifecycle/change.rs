//! Changes that people ask for.
use super::*;
pub(super) async fn get(_l: &Lifecycle, _n: &Namespace, _id: JobId) -> Result<Option<Seen>, LedgerError> { todo!() }
pub(super) async fn cancel(_l: &Lifecycle, _n: &Namespace, _id: JobId, _r: &str) -> Result<Changed<Cancelled>, LedgerError> { todo!() }
pub(super) async fn redrive(_l: &Lifecycle, _n: &Namespace, _id: JobId) -> Result<Changed<Job>, LedgerError> { todo!() }
pub(super) async fn patch(_l: &Lifecycle, _n: &Namespace, _id: JobId, _p: &JobPatch) -> Result<Changed<Job>, LedgerError> { todo!() }
pub(super) async fn set_paused(_l: &Lifecycle, _n: &Namespace, _q: &QueueName, _p: Option<Paused>) -> Result<(Queue, bool), LedgerError> { todo!() }
pub(super) async fn set_queue(_l: &Lifecycle, _n: &Namespace, _q: &QueueName, _s: &QueueSettings) -> Result<(Queue, bool), LedgerError> { todo!() }
