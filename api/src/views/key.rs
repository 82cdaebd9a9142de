//! API keys as callers see them. The secret is shown once.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::{ApiKey, Role};
use windlass_shared::model::time::Timestamp;

/// A key's record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct KeyView {
    #[schema(format = Uuid)]
    id: String,
    /// The part of the key by which it is recognised.
    public: String,
    name: String,
    #[schema(value_type = RoleDocs)]
    role: Role,
    /// `null` is everywhere.
    #[schema(required = true)]
    namespace: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    revoked_at: Option<Timestamp>,
}

/// What a key may do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Role)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub enum RoleDocs {
    Admin,
    Operator,
    Submitter,
    Worker,
    Viewer,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            public: key.public,
            name: key.name,
            role: key.role,
            namespace: key.namespace.map(|namespace| namespace.to_string()),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewKeyView {
    /// Its record.
    #[serde(flatten)]
    pub record: KeyView,
    /// The key itself. Not shown again.
    pub key: String,
}
