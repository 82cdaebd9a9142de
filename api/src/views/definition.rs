//! Stored definitions as callers see them.

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::ledger::runs::Definition;
use windlass_shared::model::time::Timestamp;
use windlass_shared::model::workflow::WorkflowSpec;

use super::Raw;
use crate::yaml;

/// One version of a stored definition.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Definition)]
pub struct DefinitionView {
    name: String,
    /// From 1.
    version: u32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Who put it.
    by: String,
    /// How many steps it has.
    #[schema(required = true)]
    steps: Option<usize>,
    /// The text as it was put: JSON or YAML. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The document as JSON. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    document: Option<Raw>,
}

impl DefinitionView {
    /// Without its text.
    pub fn listed(definition: Definition) -> Self {
        let steps = serde_json::from_str::<WorkflowSpec>(&definition.document);
        Self {
            name: definition.name,
            version: definition.version,
            created_at: definition.created_at,
            by: definition.by,
            steps: steps.ok().map(|spec| spec.steps.len()),
            source: None,
            document: None,
        }
    }

    /// With its text.
    pub fn full(mut definition: Definition) -> Self {
        let source = std::mem::take(&mut definition.source);
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&source).is_ok();
        let json = match is_json {
            true => Some(source.clone()),
            // It was read before it was stored.
            false => yaml::to_json(&source, crate::extract::DOCUMENT).ok(),
        };
        let mut view = Self::listed(definition);
        view.document = json.map(|json| Raw(Bytes::from(json)));
        view.source = Some(source);
        view
    }
}
