//! Values over 16 KiB: into the ledger before the job, and out of it into the answer.

use bytes::Bytes;
use windlass_shared::limits;
use windlass_shared::model::id::BlobId;
use windlass_shared::model::job::{Job, Value};
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::error::ApiError;
use crate::views::job::JobView;

/// Stores a value if it is too large to travel.
///
/// # Errors
/// The ledger does not answer.
pub async fn store(app: &App, namespace: &Namespace, bytes: Bytes) -> Result<Value, ApiError> {
    if bytes.len() <= limits::INLINE_BYTES_MAX {
        return Ok(Value::Inline(bytes));
    }
    let id = BlobId::generate();
    app.life.ledger().put_blob(namespace, id, bytes).await?;
    Ok(Value::Blob(id))
}

/// Where a job's large values are kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Large {
    payload: Option<BlobId>,
    output: Option<BlobId>,
}

impl Large {
    /// Of this job.
    pub fn of(job: &Job) -> Self {
        let blob = |value: &Value| match value {
            Value::Blob(id) => Some(*id),
            Value::Inline(_) => None,
        };
        Self { payload: blob(&job.payload), output: job.output.as_ref().and_then(blob) }
    }

    /// Puts them into a view. A value that is gone stays `null` beside its reference.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn fill(
        self,
        app: &App,
        namespace: &Namespace,
        view: &mut JobView,
    ) -> Result<(), ApiError> {
        if let Some(id) = self.payload
            && let Some(bytes) = app.life.ledger().blob(namespace, id).await?
        {
            view.set_payload(bytes);
        }
        if let Some(id) = self.output
            && let Some(bytes) = app.life.ledger().blob(namespace, id).await?
        {
            view.set_output(bytes);
        }
        Ok(())
    }
}
