//! What the proxy does to whole messages: Redis replies that get lost, HTTP requests that come twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use windlass_rig::tools::proxy::control::Duplicate;
use windlass_rig::tools::proxy::{Choice, Protocol, Proxy, ProxyOptions};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

const SOON: Duration = Duration::from_secs(10);

async fn before_redis(redis: &RedisServer) -> Proxy {
    let to = ([127, 0, 0, 1], redis.port()).into();
    Proxy::start(ProxyOptions::to(to).protocol(Protocol::Resp)).await.unwrap()
}

/// Sends bytes, and returns all that comes until the connection ends or `enough` has come.
async fn exchange(proxy: &Proxy, commands: &str, enough: &str) -> (String, bool) {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(commands.as_bytes()).await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < enough.len() {
        let n = tokio::time::timeout(SOON, stream.read_buf(&mut replies)).await.expect("in time");
        if n.unwrap_or(0) == 0 {
            return (String::from_utf8(replies).unwrap(), false);
        }
    }
    (String::from_utf8(replies).unwrap(), true)
}

#[tokio::test]
async fn earlier_replies_are_delivered_and_the_doomed_one_is_not() {
    let redis = RedisServer::start(RedisOptions::default());
    let proxy = before_redis(&redis).await;
    let rule = proxy.lose_reply(Choice::nth(&["incr", "counter"], 2)).unwrap();
    let commands =
        "SET a 1\r\nLRANGE x 0 -1\r\nINCR other\r\nINCR counter\r\nINCR counter\r\nGET a\r\n";
    let (replies, is_open) = exchange(&proxy, commands, &"x".repeat(1_000)).await;
    assert_eq!(replies, "+OK\r\n*0\r\n:1\r\n:1\r\n");
    assert!(!is_open, "the connection is closed in place of the reply");
    assert_eq!(redis.command(&["GET", "counter"]).text(), "2", "the command was carried out");
    let report = &proxy.rules()[0];
    assert_eq!((report.id, report.matched, report.chosen), (rule, 2, 1));
    assert_eq!(proxy.stats().replies_lost, 1);
    let again = "+OK\r\n*0\r\n:2\r\n:3\r\n:4\r\n$1\r\n1\r\n";
    assert_eq!(exchange(&proxy, commands, again).await, (again.to_owned(), true));
}

#[tokio::test]
async fn scripts_are_chosen_by_their_digest_and_by_share() {
    let redis = RedisServer::start(RedisOptions::default());
    let proxy = before_redis(&redis).await;
    let digest = redis.command(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"]);
    let digest = digest.text();
    proxy.lose_reply(Choice::share(&["evalsha", &digest], 0.5).at_most(20)).unwrap();
    let command = format!("EVALSHA {digest} 1 n\r\n");
    let mut lost = 0;
    for n in 1..=200 {
        let reply = format!(":{n}\r\n");
        match exchange(&proxy, &command, &reply).await {
            (replies, true) => assert_eq!(replies, reply),
            (replies, false) => {
                assert_eq!(replies, "");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 20, "half until there were so many");
    assert!(proxy.rules()[0].matched == 200, "{:?}", proxy.rules());
    assert_eq!(redis.command(&["GET", "n"]).text(), "200", "each was carried out once");
}

#[tokio::test]
async fn pushed_messages_are_no_replies_and_subscribers_are_left_alone() {
    let redis = RedisServer::start(RedisOptions::default());
    let proxy = before_redis(&redis).await;
    proxy.lose_reply(Choice::every(&["doomed"])).unwrap();
    // RESP3 with a tracked key: the server pushes an invalidation before the reply to SET.
    let commands = "HELLO 3\r\nCLIENT TRACKING ON\r\nGET k\r\nSET k 1\r\nGET doomed\r\n";
    let (replies, is_open) = exchange(&proxy, commands, &"x".repeat(10_000)).await;
    assert!(!is_open);
    assert!(replies.contains(">2\r\n$10\r\ninvalidate"), "{replies}");
    assert!(
        replies
            .replace(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", "")
            .ends_with("_\r\n+OK\r\n"),
        "{replies}"
    );
    let reply = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    let (replies, is_open) = exchange(&proxy, "SUBSCRIBE c\r\nPING doomed\r\n", reply).await;
    assert!(is_open && replies.starts_with(reply), "{replies}");
    assert_eq!(proxy.stats().untracked, 1);
}

#[tokio::test]
async fn a_request_is_sent_twice_whole() {
    let bodies = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let count = Arc::new(AtomicU64::new(0));
    let (seen, counted) = (Arc::clone(&bodies), Arc::clone(&count));
    let handler = move |body: String| async move {
        seen.lock().unwrap().push(body);
        (axum::http::StatusCode::CREATED, counted.fetch_add(1, Ordering::SeqCst).to_string())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    let app =
        axum::Router::new().route("/jobs", post(handler.clone())).route("/other", post(handler));
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let options = ProxyOptions::to(to).protocol(Protocol::Http);
    let proxy = Proxy::start(options).await.unwrap();
    let rule: Duplicate =
        serde_json::from_str(r#"{"words": ["POST /jobs"], "times": 2, "after_ms": 1}"#).unwrap();
    assert_eq!((rule.choice.times, rule.after_ms), (Some(2), 1));
    proxy.duplicate(rule.choice, Duration::from_millis(rule.after_ms)).unwrap();

    let http = reqwest::Client::new();
    for n in 0..4 {
        for path in ["jobs", "other"] {
            let url = format!("http://{}/{path}", proxy.address());
            let reply = http.post(url).body(format!("{path} {n}")).send().await.unwrap();
            assert_eq!(reply.status(), 201);
        }
    }
    let all_answered = async {
        while proxy.stats().duplicated < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, all_answered).await.expect("both are answered");
    let mut bodies = bodies.lock().unwrap().clone();
    bodies.sort_unstable();
    let expected: Vec<_> = ["jobs 0", "jobs 0", "jobs 1", "jobs 1", "jobs 2", "jobs 3"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..4).map(|n| format!("other {n}")))
        .collect();
    assert_eq!(bodies, expected);
    assert_eq!(proxy.stats().duplicate_statuses, [(201, 2)].into());
}
