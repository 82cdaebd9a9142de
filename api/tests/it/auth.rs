//! Keys, roles, namespaces, rates.

use http::Method;
use windlass_api::auth::roles;
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Answer, Fixture, request};

async fn fixture() -> Fixture {
    Fixture::with(ApiSettings::default()).await
}

async fn with_key(api: &Fixture, key: &str, method: Method, path: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    api.send(request(method, path, &[("authorization", &authorization)], body)).await
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_answered() {
    let api = fixture().await;
    let key = api.key(Role::Viewer, None).await;
    with_key(&api, &key, Method::GET, "/v1/jobs", "").await.expect(200);
    let answer = api.get("/v1/jobs").await;
    answer.refused(401, "unauthenticated");
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
    let unknown = {
        use secrecy::ExposeSecret as _;
        windlass_api::keys::generate("test").text.expose_secret().to_owned()
    };
    let mut typo = key.clone();
    typo.replace_range(20..21, if &key[20..21] == "a" { "b" } else { "a" });
    let texts = ["", "x", "wl_", unknown.as_str(), typo.as_str(), &format!("{key} "), &key[1..]];
    for text in texts {
        let answer = with_key(&api, text, Method::GET, "/v1/jobs", "").await;
        answer.refused(401, "unauthenticated");
        assert!(!answer.text.contains(&key));
    }
    for scheme in ["Basic", "Token", "wl"] {
        let value = format!("{scheme} {key}");
        let request = request(Method::GET, "/v1/jobs", &[("authorization", &value)], "");
        api.send(request).await.refused(401, "unauthenticated");
    }
    let value = format!("Bearer {key}");
    let twice = request(
        Method::GET,
        "/v1/jobs",
        &[("authorization", &value), ("authorization", &value)],
        "",
    );
    api.send(twice).await.refused(401, "unauthenticated");
    api.get(&format!("/v1/jobs?api_key={key}")).await.refused(401, "unauthenticated");
}

/// Every call with every role: let through or refused, exactly as the table says.
#[tokio::test]
async fn roles_are_kept_on_every_route() {
    let api = fixture().await;
    let id = "01900000-0000-7000-8000-000000000000";
    for role in [Role::Admin, Role::Operator, Role::Submitter, Role::Worker, Role::Viewer] {
        let key = api.key(role, None).await;
        for (method, route, _) in roles::TABLE {
            if *route == "/v1/events" {
                continue; // A stream without an end; its refusals are in the loop below.
            }
            let path = route.replace("{id}", id).replace("{queue}", "q");
            let method: Method = method.parse().unwrap();
            let answer = with_key(&api, &key, method.clone(), &path, "").await;
            let allowed = roles::allows(role, &method, route);
            assert_eq!(
                answer.status != 403,
                allowed,
                "{role:?} {method} {route}: {}",
                answer.status
            );
            assert_ne!(answer.status, 401);
        }
    }
    let worker = api.key(Role::Worker, None).await;
    with_key(&api, &worker, Method::GET, "/v1/events", "").await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_bound_key_acts_in_its_namespace_only() {
    let api = fixture().await;
    let bound = api.key(Role::Submitter, Some("a")).await;
    let free = api.key(Role::Submitter, None).await;
    let created = with_key(&api, &bound, Method::POST, "/v1/jobs", r#"{"kind":"x"}"#).await;
    let job = created.expect(201);
    assert_eq!(job["namespace"], "a");
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    with_key(&api, &free, Method::GET, &path, "").await.refused(404, "not_found");
    let choose = |key: &str, namespace: &str| {
        let authorization = format!("Bearer {key}");
        let headers =
            [("authorization", authorization.as_str()), ("windlass-namespace", namespace)];
        request(Method::GET, &path, &headers, "")
    };
    api.send(choose(&free, "a")).await.expect(200);
    api.send(choose(&bound, "a")).await.expect(200);
    api.send(choose(&bound, "b")).await.refused(403, "namespace_denied");
    api.send(choose(&free, "A/../b")).await.refused(400, "invalid_header");
}

#[tokio::test]
async fn keys_are_made_shown_once_listed_and_revoked() {
    let api = fixture().await;
    let admin = api.key(Role::Admin, None).await;
    let body = r#"{"name":"ci","role":"submitter","namespace":"a","ttl":"1h"}"#;
    let made = with_key(&api, &admin, Method::POST, "/v1/api-keys", body).await.expect(201);
    let key = made["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("wl_test_") && key.contains(made["public"].as_str().unwrap()));
    with_key(&api, &key, Method::POST, "/v1/jobs", r#"{"kind":"x"}"#).await.expect(201);
    let list = with_key(&api, &admin, Method::GET, "/v1/api-keys?limit=1", "").await;
    assert!(!list.text.contains(&key) && !list.text.contains("secret"));
    let list = list.expect(200);
    assert_eq!(list["items"][0]["id"], made["id"]);
    let cursor = list["next_cursor"].as_str().unwrap();
    let next = format!("/v1/api-keys?limit=1&cursor={cursor}");
    let rest = with_key(&api, &admin, Method::GET, &next, "").await.expect(200);
    assert_eq!(rest["items"][0]["role"], "admin");
    let path = format!("/v1/api-keys/{}", made["id"].as_str().unwrap());
    assert_eq!(with_key(&api, &admin, Method::DELETE, &path, "").await.status, 204);
    with_key(&api, &key, Method::GET, "/v1/jobs", "").await.refused(401, "unauthenticated");
    with_key(&api, &admin, Method::DELETE, &path, "").await.refused(404, "not_found");
    for bad in [
        "{}",
        r#"{"name":"x"}"#,
        r#"{"name":"","role":"admin"}"#,
        r#"{"name":"x","role":"root"}"#,
        r#"{"name":"x","role":"admin","expires_at":"2020-01-01T00:00:00Z"}"#,
    ] {
        with_key(&api, &admin, Method::POST, "/v1/api-keys", bad).await.refused(422, "invalid");
    }
}

#[tokio::test]
async fn an_admin_of_one_namespace_rules_there_only() {
    let api = fixture().await;
    let admin = api.key(Role::Admin, None).await;
    let bound = api.key(Role::Admin, Some("a")).await;
    let other = r#"{"name":"x","role":"viewer","namespace":"b"}"#;
    with_key(&api, &bound, Method::POST, "/v1/api-keys", other)
        .await
        .refused(403, "namespace_denied");
    let own = r#"{"name":"x","role":"viewer"}"#;
    let made = with_key(&api, &bound, Method::POST, "/v1/api-keys", own).await.expect(201);
    assert_eq!(made["namespace"], "a");
    let seen = with_key(&api, &bound, Method::GET, "/v1/api-keys", "").await.expect(200);
    assert_eq!(seen["items"].as_array().unwrap().len(), 2);
    let all = with_key(&api, &admin, Method::GET, "/v1/api-keys", "").await.expect(200);
    let foreign =
        all["items"].as_array().unwrap().iter().find(|k| k["namespace"].is_null()).unwrap();
    let path = format!("/v1/api-keys/{}", foreign["id"].as_str().unwrap());
    with_key(&api, &bound, Method::DELETE, &path, "").await.refused(404, "not_found");
}

#[tokio::test]
async fn each_key_has_its_own_rate() {
    let api = Fixture::with(ApiSettings { rate_per_key: 2, ..ApiSettings::default() }).await;
    let (one, two) = (api.key(Role::Viewer, None).await, api.key(Role::Viewer, None).await);
    let answer = with_key(&api, &one, Method::GET, "/v1/workers", "").await;
    assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=2;w=1");
    assert_eq!(answer.header("ratelimit"), "\"key\";r=1;t=1");
    let mut refused = None;
    for _ in 0..50 {
        let answer = with_key(&api, &one, Method::GET, "/v1/workers", "").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the rate is used up");
    refused.refused(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.header("ratelimit").starts_with("\"key\";r=0"));
    with_key(&api, &two, Method::GET, "/v1/workers", "").await.expect(200);
}

#[tokio::test]
async fn without_keys_foreign_pages_are_refused() {
    let api = Fixture::new().await;
    let path = "/v1/queues/q/pause";
    for headers in [
        [("host", "127.0.0.1:8080"), ("origin", "http://evil.example")],
        [("host", "evil.example"), ("x-request-id", "a")],
        [("host", "localhost"), ("sec-fetch-site", "cross-site")],
    ] {
        api.send(request(Method::POST, path, &headers, "")).await.refused(403, "forbidden");
    }
    let own = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
    api.send(request(Method::POST, path, &own, "")).await.expect(200);
}

/// From this address, as the accept loop notes it.
fn from(address: [u8; 4], key: &str) -> http::Request<axum::body::Body> {
    let authorization = format!("Bearer {key}");
    let mut request = request(Method::GET, "/v1/workers", &[("authorization", &authorization)], "");
    let address = std::net::SocketAddr::from((address, 40_000));
    request.extensions_mut().insert(axum::extract::ConnectInfo(address));
    request
}

fn made_up() -> String {
    use secrecy::ExposeSecret as _;
    windlass_api::keys::generate("test").text.expose_secret().to_owned()
}

/// Goal: made-up keys cost the ledger a bounded rate. Method: use the rate of an address up, take the ledger
/// away, and see that requests which would have to ask it are not told that it is away.
#[tokio::test]
async fn made_up_keys_are_refused_before_the_ledger_is_asked() {
    let api = fixture().await;
    let (good, elsewhere) = (api.key(Role::Viewer, None).await, [10, 0, 0, 2]);
    let attacker = [10, 0, 0, 1];
    api.send(from(attacker, &good)).await.expect(200);
    let mut last = None;
    for _ in 0..1_000 {
        let answer = api.send(from(attacker, &made_up())).await;
        if answer.status == 429 {
            last = Some(answer);
            break;
        }
        answer.refused(401, "unauthenticated");
    }
    let limited = last.expect("the address' rate is used up");
    limited.refused(429, "rate_limited");
    assert!(!limited.header("retry-after").is_empty());
    // Its owner is not locked out, and neither are others.
    api.send(from(attacker, &good)).await.expect(200);
    let unknown = made_up();
    api.send(from(elsewhere, &unknown)).await.refused(401, "unauthenticated");

    api.life.ledger().close().await;
    let mut limited = 0;
    for _ in 0..50 {
        // A token that came back meanwhile lets one through to the ledger.
        let answer = api.send(from(attacker, &made_up())).await;
        limited += usize::from(answer.status == 429);
    }
    assert!(limited >= 40, "{limited}");
    // What was not known a moment ago is not asked again; what was never seen would be.
    api.send(from(elsewhere, &unknown)).await.refused(401, "unauthenticated");
    assert!(api.send(from(elsewhere, &made_up())).await.status.as_u16() >= 500);
}

/// A fresh replica does not know anybody; its log-in limit is for keys that are wrong.
#[tokio::test]
async fn many_good_keys_behind_one_address_are_all_let_in() {
    let api = fixture().await;
    let mut keys = Vec::new();
    for _ in 0..300 {
        keys.push(api.key(Role::Viewer, None).await);
    }
    let proxy = [10, 0, 0, 3];
    let answers = keys.iter().map(|key| api.send(from(proxy, key)));
    for answer in futures::future::join_all(answers).await {
        answer.expect(200);
    }
    for _ in 0..300 {
        api.send(from(proxy, &keys[0])).await.expect(200);
    }
    // None of that used the address's tries up.
    for _ in 0..90 {
        api.send(from(proxy, &made_up())).await.refused(401, "unauthenticated");
    }
}

#[tokio::test]
async fn callers_with_the_same_key_ask_once() {
    let api = fixture().await;
    // More than an address may try at once. Whoever comes after the answer pays for it as for any other failure,
    // and how many that are is chance; if each asked for itself, none of the rounds would pass.
    for round in 0..50 {
        let (wrong, address) = (made_up(), [10, 0, 1, round]);
        let calls = (0..150).map(|_| api.send(from(address, &wrong)));
        let answers = futures::future::join_all(calls).await;
        if answers.iter().all(|answer| answer.status == 401) {
            return;
        }
    }
    panic!("150 callers with one key always take more than 100 tries");
}

/// Goal: nobody but an admin of the whole installation changes anything in its own namespaces, by whatever call: who could
/// submit there would have it restore a backup for them. Method: every call of the table with every role, in each of them.
#[tokio::test]
async fn own_namespaces_are_changed_by_admins_only() {
    let api = fixture().await;
    let id = "01900000-0000-7000-8000-000000000000";
    let shadow = format!("check-{id}");
    for role in [Role::Admin, Role::Operator, Role::Submitter, Role::Worker, Role::Viewer] {
        for namespace in ["system", shadow.as_str()] {
            let keys =
                [(api.key(role, None).await, false), (api.key(role, Some(namespace)).await, true)];
            for ((key, is_bound), (method, route, _)) in
                keys.iter().flat_map(|key| roles::TABLE.iter().map(move |call| (key, call)))
            {
                let method: Method = method.parse().unwrap();
                if *route == "/v1/events" || !roles::allows(role, &method, route) {
                    continue; // A stream without an end, or refused anyway.
                }
                let path = route.replace("{id}", id).replace("{queue}", "q").replace("{name}", "n");
                let authorization = format!("Bearer {key}");
                let headers =
                    [("authorization", authorization.as_str()), ("windlass-namespace", namespace)];
                let answer = api.send(request(method.clone(), &path, &headers, "")).await;
                let reads = method == Method::GET && role != Role::Worker;
                if reads || role == Role::Admin {
                    // What is of the whole installation is nothing for a key that is bound to a part.
                    let denied: &[u16] = if *is_bound { &[401] } else { &[401, 403] };
                    let status = u16::from(answer.status);
                    let call = format!("{role:?} {method} {route} in {namespace}: {status}");
                    assert!(!denied.contains(&status), "{call}");
                    continue;
                }
                answer.refused(403, "namespace_denied");
            }
        }
    }
}

/// Goal: what names a namespace, queue or kind elsewhere than in the header does not lead into `system`.
#[tokio::test]
async fn nothing_in_a_body_leads_into_the_own_namespace() {
    let api = fixture().await;
    let submitter = api.key(Role::Submitter, None).await;
    let operator = api.key(Role::Operator, None).await;
    let admin_of_a = api.key(Role::Admin, Some("a")).await;
    let post = async |key: &str, path: &str, body: &str| {
        with_key(&api, key, Method::POST, path, body).await
    };
    let named = r#"{"kind":"backup.restore","queue":"system","namespace":"system"}"#;
    post(&submitter, "/v1/jobs", named).await.refused(422, "invalid");
    let batch = format!(r#"{{"jobs":[{named}]}}"#);
    let answer = post(&submitter, "/v1/jobs/batch", &batch).await.expect(200);
    assert_eq!(answer["accepted"], 0, "{answer}");
    let step = r#"{"id":"s","kind":"backup.restore","namespace":"system"}"#;
    let run = format!(r#"{{"name":"w","steps":[{step}]}}"#);
    post(&submitter, "/v1/workflows", &run).await.refused(422, "invalid");
    let schedule = format!(r#"{{"name":"n","every":"1h","job":{named}}}"#);
    post(&operator, "/v1/schedules", &schedule).await.refused(422, "invalid");
    let key = r#"{"name":"x","role":"admin","namespace":"system"}"#;
    post(&admin_of_a, "/v1/api-keys", key).await.refused(403, "namespace_denied");

    // The same names without a namespace stay in the caller's, where nobody of the installation works.
    let job = r#"{"kind":"backup.restore","queue":"system"}"#;
    assert_eq!(post(&submitter, "/v1/jobs", job).await.expect(201)["namespace"], "default");
    let step = r#"{"id":"s","kind":"backup.restore","queue":"system"}"#;
    let run = format!(r#"{{"name":"w","steps":[{step}]}}"#);
    let run = post(&submitter, "/v1/workflows", &run).await.expect(201);
    let path = format!("/v1/jobs?workflow_id={}", run["id"].as_str().unwrap());
    let jobs = with_key(&api, &submitter, Method::GET, &path, "").await.expect(200);
    assert_eq!(jobs["items"][0]["namespace"], "default");
    let system: windlass_shared::model::name::Namespace = "system".parse().unwrap();
    let own = api.life.ledger().queues(Some(&system)).await.unwrap();
    assert!(own.is_empty(), "{own:?}");
}
