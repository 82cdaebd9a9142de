//! Which role may make which call. One table; what is not in it nobody may.

use http::Method;
use windlass_shared::ledger::Role;
use windlass_shared::model::name::Namespace;

const V: u8 = 1;
const S: u8 = 2;
const W: u8 = 4;
const O: u8 = 8;
const A: u8 = 16;

/// Viewers, submitters and operators read.
const READ: u8 = V | S | O | A;
/// Submitters change jobs one by one.
const SUBMIT: u8 = S | O | A;
/// Workers take and settle jobs.
const WORK: u8 = W | A;
const OPERATE: u8 = O | A;
const ADMIN: u8 = A;
/// Beside the roles: of the whole installation, so not for keys that are bound to a namespace of users.
const WHOLE: u8 = 32;

/// Method, route, roles.
pub const TABLE: &[(&str, &str, u8)] = &[
    ("POST", "/v1/jobs", SUBMIT),
    ("GET", "/v1/jobs", READ),
    ("POST", "/v1/jobs/batch", SUBMIT),
    ("POST", "/v1/jobs/actions", OPERATE),
    ("GET", "/v1/jobs/{id}", READ),
    ("PATCH", "/v1/jobs/{id}", OPERATE),
    ("DELETE", "/v1/jobs/{id}", OPERATE),
    ("GET", "/v1/jobs/{id}/wait", READ),
    ("GET", "/v1/jobs/{id}/attempts", READ),
    ("GET", "/v1/jobs/{id}/logs", READ),
    ("GET", "/v1/jobs/{id}/explain", READ),
    ("POST", "/v1/jobs/{id}/cancel", SUBMIT),
    ("POST", "/v1/jobs/{id}/retry", OPERATE),
    ("GET", "/v1/operations/{id}", READ),
    ("GET", "/v1/events", READ),
    ("GET", "/v1/queues", READ),
    ("GET", "/v1/queues/{queue}", READ),
    ("PATCH", "/v1/queues/{queue}", OPERATE),
    ("POST", "/v1/queues/{queue}/pause", OPERATE),
    ("POST", "/v1/queues/{queue}/resume", OPERATE),
    ("POST", "/v1/queues/{queue}/purge", OPERATE),
    ("GET", "/v1/circuits", READ),
    ("GET", "/v1/circuits/{name}", READ),
    ("PATCH", "/v1/circuits/{name}", OPERATE),
    ("POST", "/v1/circuits/{name}/open", OPERATE),
    ("POST", "/v1/circuits/{name}/close", OPERATE),
    ("POST", "/v1/circuits/{name}/reset", OPERATE),
    // Of their own namespace, says the call.
    ("GET", "/v1/quotas/{namespace}", READ),
    ("GET", "/v1/quotas", READ | WHOLE),
    ("PUT", "/v1/quotas/{namespace}", ADMIN | WHOLE),
    ("DELETE", "/v1/quotas/{namespace}", ADMIN | WHOLE),
    ("GET", "/v1/workers", READ),
    ("POST", "/v1/workers/{id}/drain", OPERATE),
    ("POST", "/v1/leases", WORK),
    ("POST", "/v1/leases/heartbeat", WORK),
    ("POST", "/v1/leases/settle", WORK),
    ("POST", "/v1/worker/reports", WORK),
    ("PUT", "/v1/blobs/{id}", W | S | A),
    ("GET", "/v1/blobs/{id}", W | READ),
    ("POST", "/v1/workflows", SUBMIT),
    ("GET", "/v1/workflows", READ),
    ("POST", "/v1/workflows/validate", SUBMIT),
    ("POST", "/v1/workflows/optimize", SUBMIT),
    ("GET", "/v1/workflows/{id}", READ),
    ("GET", "/v1/workflows/{id}/graph", READ),
    ("POST", "/v1/workflows/{id}/cancel", SUBMIT),
    ("POST", "/v1/workflows/{id}/retry", OPERATE),
    ("POST", "/v1/workflows/{id}/rerun", SUBMIT),
    ("POST", "/v1/workflows/{id}/signals/{name}", SUBMIT),
    // Whose votes count, the step says.
    ("POST", "/v1/workflows/{id}/approvals/{step}", SUBMIT),
    ("GET", "/v1/workflows/{id}/approvals/{step}", READ),
    // Workers: after steps whose job is under way.
    ("POST", "/v1/workflows/{id}/steps", W | SUBMIT),
    ("GET", "/v1/definitions", READ),
    // Other people's runs start from them.
    ("PUT", "/v1/definitions/{name}", OPERATE),
    ("GET", "/v1/definitions/{name}", READ),
    ("GET", "/v1/definitions/{name}/versions", READ),
    ("GET", "/v1/definitions/{name}/versions/{version}", READ),
    // They go on submitting by themselves.
    ("POST", "/v1/schedules", OPERATE),
    ("GET", "/v1/schedules", READ),
    ("GET", "/v1/schedules/{name}", READ),
    ("PATCH", "/v1/schedules/{name}", OPERATE),
    ("DELETE", "/v1/schedules/{name}", OPERATE),
    ("POST", "/v1/schedules/{name}/pause", OPERATE),
    ("POST", "/v1/schedules/{name}/resume", OPERATE),
    ("POST", "/v1/schedules/{name}/trigger", OPERATE),
    ("POST", "/v1/schedules/{name}/backfill", OPERATE),
    ("GET", "/v1/schedules/{name}/runs", READ),
    ("GET", "/v1/schedules/{name}/next", READ),
    ("GET", "/v1/scale/{queue}", READ),
    // Of keys that are bound to no namespace, says the call.
    ("GET", "/v1/system/duties", READ),
    // They load the whole installation.
    ("POST", "/v1/load-checks", ADMIN | WHOLE),
    ("GET", "/v1/load-checks", READ | WHOLE),
    ("GET", "/v1/load-checks/{id}", READ | WHOLE),
    ("POST", "/v1/load-checks/{id}/abort", ADMIN | WHOLE),
    ("PUT", "/v1/load-results/{id}", ADMIN | WHOLE),
    ("GET", "/v1/load-results", READ | WHOLE),
    ("GET", "/v1/load-results/{id}", READ | WHOLE),
    ("GET", "/v1/system/health", READ),
    ("POST", "/v1/backups", ADMIN | WHOLE),
    ("GET", "/v1/backups", READ | WHOLE),
    ("GET", "/v1/backups/{id}", READ | WHOLE),
    ("POST", "/v1/backups/{id}/verify", ADMIN | WHOLE),
    ("POST", "/v1/backups/{id}/restore", ADMIN | WHOLE),
    ("POST", "/v1/api-keys", ADMIN),
    ("GET", "/v1/api-keys", ADMIN),
    ("DELETE", "/v1/api-keys/{id}", ADMIN),
    // On the public listener, where there is no other.
    ("GET", "/metrics", READ),
];

/// Whether a role includes a call.
pub fn allows(role: Role, method: &Method, route: &str) -> bool {
    let bit = match role {
        Role::Viewer => V,
        Role::Submitter => S,
        Role::Worker => W,
        Role::Operator => O,
        Role::Admin => A,
    };
    TABLE.iter().any(|(m, path, roles)| *path == route && is_same(m, method) && roles & bit != 0)
}

/// Whether only workers make a call (and admins, who may do anything).
pub fn is_workers(method: &Method, route: &str) -> bool {
    TABLE.iter().any(|(m, path, roles)| *path == route && is_same(m, method) && *roles == WORK)
}

/// Whether the installation itself keeps a caller from a call that their role includes; why, in words. The one place that
/// guards the namespaces of [`Namespace::is_own`]: whoever could submit there would have the installation restore a
/// backup, or start a load check, for them.
///
/// `namespace` is where they act, `bound_to` where they may act (`None`: everywhere). A caller who is bound to a namespace
/// never acts in another.
pub fn refusal(
    role: Role,
    namespace: &Namespace,
    bound_to: Option<&Namespace>,
    method: &Method,
    route: &str,
) -> Option<&'static str> {
    let is_whole = TABLE
        .iter()
        .any(|(m, path, roles)| *path == route && is_same(m, method) && roles & WHOLE != 0);
    if is_whole && bound_to.is_some_and(|bound| *bound != Namespace::system()) {
        return Some(
            "this call is about the whole installation, and the key is bound to a namespace",
        );
    }
    if !namespace.is_own() || role == Role::Admin {
        return None;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD) && role != Role::Worker;
    (!reads).then_some("the namespace is the installation's own: only admins change anything there")
}

/// A HEAD shows no more than the GET beside it.
fn is_same(of_table: &str, method: &Method) -> bool {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    of_table == method.as_str()
}

/// The methods that a route has for anybody; HEAD where there is GET.
pub fn methods(route: &str) -> impl Iterator<Item = &'static str> {
    let of_route = TABLE.iter().filter(move |(_, path, _)| *path == route);
    of_route.flat_map(|(method, _, _)| {
        let also = (*method == "GET").then_some("HEAD");
        std::iter::once(*method).chain(also)
    })
}

/// The wire word of a role.
pub fn name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Operator => "operator",
        Role::Submitter => "submitter",
        Role::Worker => "worker",
        Role::Viewer => "viewer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_get_what_they_are_for_and_nothing_else() {
        let can = |role, method: Method, path| allows(role, &method, path);
        assert!(can(Role::Submitter, Method::POST, "/v1/jobs"));
        assert!(!can(Role::Submitter, Method::POST, "/v1/jobs/actions"));
        assert!(!can(Role::Submitter, Method::POST, "/v1/leases"));
        assert!(can(Role::Viewer, Method::GET, "/v1/jobs/{id}"));
        assert!(can(Role::Viewer, Method::HEAD, "/v1/jobs/{id}"));
        assert!(!can(Role::Viewer, Method::POST, "/v1/jobs/{id}/cancel"));
        assert!(can(Role::Worker, Method::POST, "/v1/leases/settle"));
        assert!(!can(Role::Worker, Method::GET, "/v1/jobs"));
        assert!(!can(Role::Operator, Method::POST, "/v1/api-keys"));
        assert!(!can(Role::Admin, Method::GET, "/v1/not-in-the-table"));
        assert!(TABLE.iter().all(|(_, _, roles)| roles & A != 0));
        for (_, path, roles) in TABLE.iter().filter(|(m, _, _)| *m != "GET") {
            assert!(roles & V == 0, "viewers change {path}");
        }
    }
}
