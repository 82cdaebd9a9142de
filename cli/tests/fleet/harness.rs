//! A fleet: servers, migrated ledger, keys, and processes that end with the test.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_shared::config::LedgerSettings;
use windlass_shared::testkit::postgres_server::PostgresServer;
use windlass_shared::testkit::redis_server::process::free_port;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

/// The longest that a test waits for what must happen.
pub const SOON: Duration = Duration::from_secs(60);
/// The lease of every worker here: the shortest that is allowed.
pub const LEASE: Duration = Duration::from_secs(3);

/// A process of the binary; killed when dropped.
pub struct Role {
    child: Child,
}

impl Role {
    fn start(args: &[&str], env: &BTreeMap<String, String>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command
            .args(args)
            .current_dir(workspace())
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // Its log goes where the test's output goes, and is shown when the test fails.
        Self { child: command.spawn().expect("the binary starts") }
    }

    /// As [`Self::start`], with its log in a file.
    fn start_with_log(role: &str, env: &BTreeMap<String, String>, log: &Path) -> Self {
        let log = std::fs::File::create(log).expect("the test's folder can be written to");
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.arg(role).current_dir(workspace()).env_clear().envs(env).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().expect("the binary starts") }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end by itself; its exit code.
    pub async fn ended(&mut self) -> i32 {
        let child = &mut self.child;
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                return status.code().expect("it was not killed by a signal");
            }
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for it to end by itself, however that is.
    pub async fn died(&mut self) {
        let child = &mut self.child;
        until("the process has died", || {
            let ended = child.try_wait().expect("it can be waited for").is_some();
            async move { ended.then_some(()) }
        })
        .await;
    }

    pub fn kill_9(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM, then its exit code.
    pub fn terminate(mut self) -> i32 {
        let status = Command::new("kill").arg(self.pid().to_string()).status().expect("kill runs");
        assert!(status.success());
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code().expect("it was not killed by a signal");
            }
            assert!(Instant::now() < deadline, "it did not stop on SIGTERM");
            std::thread::yield_now();
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Safe to drop: it has ended already, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Fleet {
    pub redis: RedisServer,
    pub postgres: PostgresServer,
    env: BTreeMap<String, String>,
    pub url: String,
    pub submitter_key: String,
    pub worker_key: String,
    api: Option<Role>,
    scheduler: Option<Role>,
    http: reqwest::Client,
}

impl Fleet {
    /// Servers, schema, keys, one API and one scheduler; no worker yet.
    pub async fn start() -> Self {
        // Chosen once for the process; a second call finds it chosen.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let redis = RedisServer::start(RedisOptions::default());
        let postgres = PostgresServer::start();
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let mut env = BTreeMap::new();
        let mut set = |key: &str, value: String| {
            env.insert(key.to_owned(), value);
        };
        set("WINDLASS_LEDGER__URL", postgres.url(&postgres.empty_database()));
        set("WINDLASS_ENGINE__URL", redis.url());
        set("WINDLASS_API__LISTEN", format!("127.0.0.1:{port}"));
        set("WINDLASS_WORKER__LEASE", format!("{}s", LEASE.as_secs()));
        set("WINDLASS_WORKER__API_URL", url.clone());
        set("WINDLASS_HTTP__ALLOW_PRIVATE", "true".into());
        set("WINDLASS_COMMANDS__FILE", format!("{}/examples/pages/commands.toml", workspace()));
        set("WINDLASS_LOG__LEVEL", "warn".into());
        set("PATH", std::env::var("PATH").unwrap_or_default());
        let mut fleet = Self {
            redis,
            postgres,
            env,
            url,
            submitter_key: String::new(),
            worker_key: String::new(),
            api: None,
            scheduler: None,
            http: reqwest::Client::new(),
        };
        fleet.run(&["migrate", "up"]);
        fleet.submitter_key = fleet.make_key("operator");
        fleet.worker_key = fleet.make_key("worker");
        fleet.env.insert("WINDLASS_WORKER__API_KEY".into(), fleet.worker_key.clone());
        fleet.api = Some(fleet.role("api", &[]));
        fleet.scheduler = Some(fleet.role("scheduler", &[]));
        fleet.wait_ready().await;
        fleet
    }

    /// A command of the binary; what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .args(args)
            .env_clear()
            .envs(&self.env)
            .stderr(Stdio::inherit())
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "windlass {args:?}: {}", output.status);
        String::from_utf8(output.stdout).expect("output is text")
    }

    /// A key of this role, bound to no namespace.
    pub fn make_key(&self, role: &str) -> String {
        let printed =
            self.run(&["key", "create", "--role", role, "--name", role, "--output", "json"]);
        let printed: Value = serde_json::from_str(&printed).expect("JSON as asked");
        printed["key"].as_str().expect("the key is shown once").to_owned()
    }

    /// A process of this role, with flags of its own.
    pub fn role(&self, role: &str, args: &[&str]) -> Role {
        let mut env = self.env.clone();
        env.insert("WINDLASS_ADMIN__LISTEN".into(), format!("127.0.0.1:{}", free_port()));
        let args: Vec<&str> = std::iter::once(role).chain(args.iter().copied()).collect();
        Role::start(&args, &env)
    }

    /// A process of this role that writes its log to a file, as JSON, with the level of `directives`.
    pub fn role_with_log(&self, role: &str, directives: &str, log: &Path) -> Role {
        let mut env = self.env.clone();
        let address = format!("127.0.0.1:{}", free_port());
        env.insert("WINDLASS_ADMIN__LISTEN".into(), address);
        env.insert("WINDLASS_LOG__FORMAT".into(), "json".into());
        env.insert("WINDLASS_LOG__LEVEL".into(), directives.into());
        Role::start_with_log(role, &env, log)
    }

    /// Stops the scheduler that came with the fleet.
    pub fn stop_scheduler(&mut self) {
        let scheduler = self.scheduler.take().expect("it was started");
        assert_eq!(scheduler.terminate(), 0);
    }

    /// Kills the scheduler, recorder and all, and starts another one.
    pub fn kill_scheduler(&mut self) {
        self.scheduler.as_mut().expect("it was started").kill_9();
        self.scheduler = Some(self.role("scheduler", &[]));
    }

    /// Sets a setting of what is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Takes back what [`Self::set`] has set.
    pub fn unset(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// Waits until the API and the scheduler that came with the fleet have ended by themselves; their exit codes.
    pub async fn ended(&mut self) -> [i32; 2] {
        let api = self.api.as_mut().expect("it was started").ended().await;
        [api, self.scheduler.as_mut().expect("it was started").ended().await]
    }

    /// Starts an API and a scheduler in the place of those that have ended.
    pub async fn start_again(&mut self) {
        self.api = Some(self.role("api", &[]));
        self.scheduler = Some(self.role("scheduler", &[]));
        self.wait_ready().await;
    }

    /// The ledger itself, past the API.
    pub fn ledger(&self) -> LedgerSettings {
        LedgerSettings::new(self.env["WINDLASS_LEDGER__URL"].clone())
    }

    /// The name of its database.
    pub fn database(&self) -> String {
        let url: reqwest::Url = self.env["WINDLASS_LEDGER__URL"].parse().expect("an address");
        url.path().trim_start_matches('/').to_owned()
    }

    pub fn worker(&self, concurrency: u32) -> Role {
        self.role("worker", &["--concurrency", &concurrency.to_string()])
    }

    async fn wait_ready(&self) {
        let url = format!("{}/readiness", self.url);
        until("the API is ready", || async {
            let answer = self.http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).json(&body);
        let answer =
            request.bearer_auth(&self.submitter_key).send().await.expect("the API answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        let request = request.bearer_auth(&self.submitter_key).header("Idempotency-Key", key);
        let answer = request.send().await.expect("the API answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.submitter_key);
        let answer = request.send().await.expect("the API answers");
        assert!(answer.status().is_success(), "GET {path}: {}", answer.status());
        answer.json().await.unwrap_or(Value::Null)
    }

    /// How a GET is answered.
    pub async fn status(&self, path: &str) -> u16 {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.submitter_key);
        request.send().await.expect("the API answers").status().as_u16()
    }

    /// Submits `count` equal jobs; their ids.
    pub async fn submit(&self, count: usize, job: Value) -> Vec<String> {
        let (status, answer) =
            self.post("/v1/jobs/batch", json!({ "jobs": vec![job; count] })).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["accepted"], count, "{answer}");
        let results = answer["results"].as_array().expect("one result per job");
        results.iter().map(|r| r["id"].as_str().expect("an id").to_owned()).collect()
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await
    }

    /// Waits until every job is in this state.
    pub async fn all_in(&self, ids: &[String], state: &str) -> Vec<Value> {
        let mut jobs = Vec::new();
        for id in ids {
            let job = until(&format!("job {id} is {state}"), || async {
                let job = self.job(id).await;
                (job["state"] == state).then_some(job)
            })
            .await;
            jobs.push(job);
        }
        jobs
    }

    pub async fn attempts(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/jobs/{id}/attempts")).await;
        answer["items"].as_array().expect("a list").clone()
    }

    /// A python script of the repository, run against this fleet.
    pub fn python(&self, script: &str, key: &str, args: &[&str]) -> Child {
        Command::new("python3")
            .arg(format!("{}/{script}", workspace()))
            .args(args)
            .current_dir(workspace())
            .env("WINDLASS_URL", &self.url)
            .env("WINDLASS_API_KEY", key)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed")
    }
}

fn workspace() -> String {
    let crate_folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().expect("the workspace").display().to_string()
}

/// Asks again and again, at a pace that leaves the processes under test their two cores.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + SOON;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    loop {
        pace.tick().await;
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
    }
}
