//! What callers get: the wire types. `Serialize` is used here and for problems only.

use bytes::Bytes;
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

pub mod backup;
pub mod circuit;
pub mod definition;
pub mod duty;
pub mod evaluate;
pub mod job;
pub mod key;
pub mod load_check;
pub mod load_result;
pub mod plan;
pub mod queue;
pub mod quota;
pub mod scale;
pub mod schedule;
pub mod submit;
pub mod system_health;
pub mod worker;
pub mod workflow;

/// JSON as it was stored; goes out unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_slice::<&RawValue>(&self.0) {
            Ok(raw) => raw.serialize(serializer),
            // Everything stored was checked on its way in; this is a damaged or foreign row. The rest of
            // the answer is still good.
            Err(error) => {
                tracing::error!(%error, "a stored value is not JSON");
                serializer.serialize_none()
            }
        }
    }
}

/// A page of a list.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// For `?cursor=`; `null` at the end. A page may hold few items, or none, and still have a next one.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// One server-sent event, as a client's parser yields it. For the documentation.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what the streams write")]
pub struct ServerSentEvent {
    /// What sort of event.
    #[schema(nullable = false)]
    event: Option<String>,
    /// For `Last-Event-ID`.
    #[schema(nullable = false)]
    id: Option<String>,
    /// A JSON object.
    #[schema(nullable = false)]
    data: Option<String>,
}
