//! Claimed jobs for unit tests.

use std::sync::Arc;

use bytes::Bytes;
use windlass_shared::engine::Claimed;
use windlass_shared::engine::envelope::{Envelope, EnvelopeHead};
use windlass_shared::gate::Gate;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{JobSpec, Priority, Value};
use windlass_shared::model::time::Timestamp;

use crate::attempt::Crew;
use crate::reporter::Nowhere;
use crate::reporter::buffer::Reports;

/// The envelope of a job that asks for this many slots.
pub(crate) fn envelope(kind: &str, weight: u32) -> Envelope {
    let head = EnvelopeHead {
        kind: kind.parse().unwrap(),
        spec: JobSpec { weight, ..JobSpec::default() },
        created_at: Timestamp::default(),
        priority: Priority::default(),
        traceparent: None,
        request_id: None,
        workflow: None,
        payload_blob: None,
    };
    Envelope { head, payload: Value::Inline(Bytes::from_static(b"null")) }
}

/// A claim's answer with this envelope.
pub(crate) fn claimed(envelope: &Envelope) -> Claimed {
    Claimed {
        id: JobId::generate(),
        fence: Fence(1),
        attempt: 0,
        crashes: 0,
        expires_at: Timestamp::default(),
        probe: false,
        envelope: envelope.encode(),
    }
}

/// A crew that reports to nobody.
pub(crate) fn crew() -> Arc<Crew> {
    Arc::new(Crew {
        home: crate::home::Home::default(),
        worker_name: "w".into(),
        reports: Reports::default(),
        reporter: Arc::new(Nowhere),
        gate: Gate::new(),
    })
}
