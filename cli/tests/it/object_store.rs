//! Backups in an object store that is no folder.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Dev, Said, windlass};
use crate::s3::{ACCESS_KEY, BUCKET, Fault, REGION, S3, SECRET_KEY};

/// An installation with a ledger that holds a job, and its backups in the store.
struct Scene {
    s3: S3,
    folder: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
    job: String,
}

impl Scene {
    fn new() -> Self {
        let (s3, folder) = (S3::start(), tempfile::tempdir().expect("a folder"));
        let data = folder.path().join("data");
        let dev = Dev::start(&data, &[]);
        let done =
            dev.run(&["job", "submit", "echo", "--payload", "1", "--wait", "--output", "json"]);
        let job = json(&done)["id"].as_str().expect("an id").to_owned();
        drop(dev);
        let key = windlass(&["backup", "keygen"], &[]).out.trim().to_owned();
        let env = vec![
            ("WINDLASS_BACKUP__STORE", format!("s3://{BUCKET}/of/ours")),
            ("WINDLASS_BACKUP__KEY", key),
            ("WINDLASS_BACKUP__KEEP", "2".into()),
            ("WINDLASS_LEDGER__URL", format!("sqlite://{}", data.join("ledger.db").display())),
            ("AWS_ENDPOINT_URL", s3.url.clone()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ];
        Self { s3, folder, env, job }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.to_owned()));
    }

    fn run(&self, args: &[&str]) -> Said {
        let env: Vec<(&str, &str)> = self.env.iter().map(|(n, v)| (*n, v.as_str())).collect();
        windlass(&[&["backup"], args, &["--output", "json"]].concat(), &env)
    }

    fn create(&self) -> String {
        let said = self.run(&["create"]);
        // Shown where a test fails: what could not be removed is a warning.
        eprintln!("{}", said.err);
        json(&said)["id"].as_str().expect("an id").to_owned()
    }
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

/// Goal: all that is done with backups works on a store of which every request fails the first time.
#[test]
fn backups_in_an_object_store_survive_its_faults() {
    let scene = Scene::new();
    scene.s3.be_unwell();
    let first = scene.create();
    let verified = scene.run(&["verify", &first]);
    assert_eq!(json(&verified)["good"], true, "{verified:?}");
    assert_eq!(json(&scene.run(&["show", &first]))["drill"]["good"], true);

    let target = scene.folder.path().join("restored");
    let into = format!("sqlite://{}", target.join("ledger.db").display());
    let restored = scene.run(&["restore", &first, "--into", &into]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let other = Dev::start(&target, &[]);
    let job = other.run(&["job", "get", &scene.job, "--output", "json"]);
    assert_eq!(json(&job)["state"], "succeeded");

    // Two are kept, and the proven one, unless it was read lately: it was.
    let (second, third, fourth) = (scene.create(), scene.create(), scene.create());
    let listed = json(&scene.run(&["list"]));
    let ids: Vec<&str> =
        listed.as_array().expect("a list").iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&fourth, &third, &first]);
    let names = scene.s3.names();
    assert!(names.contains(&format!("of/ours/{first}/manifest")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains(&second)), "all of it is gone: {names:?}");
    assert!(!names.iter().any(|name| name.ends_with("running")), "{names:?}");
    use Fault::*;
    assert_eq!(scene.s3.befallen(), [Broken, SlowDown, Cut, AnswerLost, HalfAnswer]);
}

/// Goal: whoever has set a wrong key, or a bucket that is not theirs, is told so, and soon.
#[test]
fn a_store_that_refuses_us_is_said_to() {
    let mut scene = Scene::new();
    let refused = |scene: &Scene, code: &str| {
        for args in [&["create"][..], &["list"]] {
            let began = Instant::now();
            let said = scene.run(args);
            assert_eq!(said.code, 1, "{said:?}");
            assert!(said.err.contains("credentials") && said.err.contains(code), "{said:?}");
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        }
    };
    scene.set("AWS_SECRET_ACCESS_KEY", "another");
    refused(&scene, "SignatureDoesNotMatch");
    scene.set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    scene.create();
    scene.s3.deny();
    refused(&scene, "AccessDenied");
}

/// Goal: settings that cannot work are refused as such, before anything is asked.
#[test]
fn settings_of_a_store_that_cannot_be_meant_are_refused() {
    let mut scene = Scene::new();
    scene.set("AWS_ALLOW_HTTP", "false");
    let said = scene.run(&["create"]);
    assert!(said.code == 2 && said.err.contains("AWS_ALLOW_HTTP"), "{said:?}");
    scene.set("AWS_ALLOW_HTTP", "true");
    scene.set("WINDLASS_BACKUP__STORE", "s3://another-bucket");
    let said = scene.run(&["create"]);
    assert!(said.code == 1 && said.err.contains("NoSuchBucket"), "{said:?}");
}
