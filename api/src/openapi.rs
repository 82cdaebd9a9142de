//! The OpenAPI 3.1 document, made from the handlers and their types.

use std::sync::OnceLock;

use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem, Ref,
    RefOr, Response, ResponseBuilder, Tag,
};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{CODES, Problem};
use crate::routes;

const PROBLEM: &str = "Problem";
const KEY: &str = "api_key";

/// The document that is served at `/openapi.json`, made anew.
pub fn document() -> OpenApi {
    let (_, api) = routes::documented_api().split_for_parts();
    let mut document = base();
    document.merge(api);
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            add_refusals(operation);
            forbid_null_parameters(operation);
            add_namespace(operation);
            operation.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
        }
    }
    let (_, probes) = routes::documented_probes().split_for_parts();
    document.merge(probes);
    document
}

/// What every operation shares.
fn base() -> OpenApi {
    let components = Components::builder()
        .security_scheme(
            KEY,
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .description(Some(
                        "An API key: `wl_...`. Not needed by `windlass dev` on loopback.",
                    ))
                    .build(),
            ),
        )
        .schema(PROBLEM, Problem::schema())
        .schemas_from_iter({
            let mut schemas = Vec::new();
            Problem::schemas(&mut schemas);
            schemas
        })
        .build();
    let tags = [
        ("jobs", "Submit, watch and change jobs."),
        ("workflows", "Graphs of jobs: submit, watch, signal and change them."),
        ("schedules", "Jobs and workflows at times: every due time is accounted for."),
        ("queues", "Depths, settings, pause and purge."),
        ("circuits", "Dependencies that fail: whether their jobs start."),
        ("quotas", "What namespaces may bring in."),
        ("workers", "Who works, and what workers report."),
        ("leases", "Jobs for workers that have nothing but this API."),
        ("blobs", "Values over 16 KiB."),
        ("system", "The installation as a whole."),
        ("keys", "API keys."),
        ("operations", "Probes, and checks of the whole installation."),
    ];
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Windlass")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "A durable job queue. Errors are problem documents (RFC 9457); match on `code`.",
                ))
                .license(Some(
                    LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
                ))
                .build(),
        )
        .components(Some(components))
        .tags(Some(tags.map(|(name, description)| {
            let mut tag = Tag::new(name);
            tag.description = Some(description.to_owned());
            tag
        })))
        .build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete]
        .into_iter()
        .flatten()
}

/// The statuses that the layers around a handler, and the handlers' common parts, can answer with.
fn add_refusals(operation: &mut Operation) {
    let has_body = operation.request_body.is_some();
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let has_id = parameters.iter().any(|parameter| match parameter {
        RefOr::T(parameter) => {
            matches!(parameter.parameter_in, ParameterIn::Path)
        }
        RefOr::Ref(_) => false,
    });
    let mut statuses = vec![400, 401, 403, 422, 429, 500, 503];
    if has_body {
        statuses.extend([408, 413, 415]);
    }
    if has_id {
        statuses.push(404);
    }
    for status in statuses {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_string()).or_insert_with(|| RefOr::T(refusal(status)));
    }
}

/// A parameter that is not given is left out; there is no way to write `null`.
fn forbid_null_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else {
            continue;
        };
        match &mut parameter.schema {
            Some(RefOr::T(Schema::Object(object))) => not_null(&mut object.schema_type),
            Some(RefOr::T(Schema::Array(array))) => not_null(&mut array.schema_type),
            Some(schema @ RefOr::T(Schema::OneOf(_))) => {
                let RefOr::T(Schema::OneOf(one_of)) = &*schema else {
                    continue;
                };
                // `oneOf: [null, it]`
                if let Some(it) = one_of.items.last().cloned() {
                    *schema = it;
                }
            }
            Some(_) | None => {}
        }
    }
}

fn not_null(schema_type: &mut SchemaType) {
    if let SchemaType::Array(types) = schema_type {
        types.retain(|t| *t != Type::Null);
        if let [only] = types.as_slice() {
            *schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// The header that every call with a key reads.
fn add_namespace(operation: &mut Operation) {
    let name = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .pattern(Some("^[a-z0-9._-]{1,64}$"));
    let header = ParameterBuilder::new()
        .name("Windlass-Namespace")
        .parameter_in(ParameterIn::Header)
        .required(utoipa::openapi::Required::False)
        .description(Some("The namespace, for keys that are bound to none. Default `default`."))
        .schema(Some(name));
    operation.parameters.get_or_insert_default().push(RefOr::T(header.build()));
}

fn refusal(status: u16) -> Response {
    let codes: Vec<String> = CODES
        .iter()
        .filter(|info| info.status == status)
        .map(|info| format!("`{}`", info.code))
        .collect();
    let content = Content::new(Some(Ref::from_schema_name(PROBLEM)));
    ResponseBuilder::new()
        .description(format!("Refused: {}.", codes.join(", ")))
        .content("application/problem+json", content)
        .build()
}

/// The document as JSON, rendered once.
pub fn json() -> &'static str {
    static JSON: OnceLock<String> = OnceLock::new();
    JSON.get_or_init(|| {
        serde_json::to_string(&document())
            .expect("the document is plain data and always serialises")
    })
}
