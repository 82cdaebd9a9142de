//! Redis with the least rights: the user that `docs/operating.md` gives is enough for every verb.

use std::sync::OnceLock;

use windlass_shared::testkit::engine_suite::Rig;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

const PAGE: &str = include_str!("../../../docs/operating.md");

/// The rules of the page's user, without the password.
fn rules() -> Vec<String> {
    let line =
        PAGE.lines().find_map(|line| line.trim().strip_prefix("user windlass on #<sha256> "));
    let line = line.expect("docs/operating.md gives a user of Redis");
    line.split_whitespace().map(str::to_owned).collect()
}

fn server() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = RedisServer::start(RedisOptions::default());
        let mut words = ["ACL", "SETUSER", "windlass", "on", ">secret"].to_vec();
        let rules = rules();
        words.extend(rules.iter().map(String::as_str));
        server.command(&words).expect_ok();
        server
    })
}

pub async fn rig() -> Rig {
    let url = format!("redis://windlass:secret@127.0.0.1:{}", server().port());
    crate::redis_rig::suite_rig(url).await
}

mod suite {
    windlass_shared::engine_cases!(crate::redis_rights::rig, together);
}

/// Goal: the rights end where the need ends.
#[test]
fn the_user_may_nothing_else() {
    let server = server();
    let whoami = ["ACL", "DRYRUN", "windlass"];
    let may = |command: &[&str]| {
        let words: Vec<&str> = whoami.iter().chain(command).copied().collect();
        server.command(&words).text() == "OK"
    };
    assert!(may(&["PING"]) && may(&["HGETALL", "wx:{default/q/0}:job"]));
    for command in [
        &["HGETALL", "other"][..],
        &["FLUSHALL"],
        &["FLUSHDB"],
        &["KEYS", "w*"],
        &["CONFIG", "SET", "maxmemory", "0"],
        &["DEBUG", "SLEEP", "0"],
        &["SHUTDOWN"],
        &["ACL", "LIST"],
        &["FUNCTION", "LIST"],
        &["MODULE", "LIST"],
        &["PUBLISH", "other", "x"],
    ] {
        assert!(!may(command), "{command:?}");
    }
}
