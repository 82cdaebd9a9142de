//! Overwatch through whole schedulers: what is found is told to a webhook and by e-mail, once each, though the leader dies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_scheduler::SchedulerSettings;
use windlass_shared::clock::Clock;
use windlass_shared::config::{
    Channel, Email, EngineSettings, LedgerSettings, MailTls, OverwatchSettings, ReceiverSettings,
};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::Ledger;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::{Alert, AlertState, Severity};
use windlass_shared::model::time::Timestamp;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver has taken.
type Taken = Arc<Mutex<Vec<String>>>;

/// A webhook: takes every POST, and keeps head and body.
async fn hook() -> (u16, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Taken::default();
    let kept = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(post(stream, kept.clone()));
        }
    });
    (port, taken)
}

async fn post(stream: TcpStream, taken: Taken) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    taken.lock().unwrap().push(format!("{head}\n{}", String::from_utf8(body).unwrap()));
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
}

/// A mail server: takes every message, and keeps it.
async fn mail_server() -> (u16, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Taken::default();
    let kept = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(mail(stream, kept.clone()));
        }
    });
    (port, taken)
}

async fn mail(stream: TcpStream, taken: Taken) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4).unwrap_or_default() {
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut text).await? == 0 {
                        return Ok(());
                    }
                }
                taken.lock().unwrap().push(text);
                b"250 taken\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}

struct Rig {
    life: Lifecycle,
    receivers: Vec<ReceiverSettings>,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start(receivers: Vec<ReceiverSettings>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        Self { life, receivers, _folder: folder }
    }

    /// A scheduler; dropping what is returned kills it, and its lead is not given up.
    fn scheduler(&self) -> tokio::task::JoinSet<()> {
        let overwatch = OverwatchSettings {
            interval: Duration::from_millis(100),
            receivers: self.receivers.clone(),
            ..OverwatchSettings::default()
        };
        let settings = SchedulerSettings { overwatch, ..SchedulerSettings::default() };
        let mut set = tokio::task::JoinSet::new();
        set.spawn(windlass_scheduler::run(self.life.clone(), settings, CancellationToken::new()));
        set
    }

    async fn alerts(&self) -> Vec<Alert> {
        self.life.ledger().alerts(Timestamp::default()).await.unwrap()
    }

    async fn tamper(&self, sql: &str) {
        self.life.ledger().tamper(sql.to_owned()).await.unwrap();
    }

    /// A schedule that its failures have paused: a trouble that needs no time to count.
    async fn pause_a_schedule(&self) {
        self.tamper(
            "INSERT INTO schedules (id, version, cursor_at, created_at, changed_at, failures, namespace, name, \
             spec, paused) VALUES (randomblob(16), 1, 0, 0, 0, 3, 'default', 'nightly', '{}', \
             '{\"since\":\"2026-01-01T00:00:00Z\",\"by\":\"windlass\"}')",
        )
        .await;
    }
}

async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// The events of all messages that a webhook has taken.
fn events(taken: &Taken) -> Vec<String> {
    let mut events = Vec::new();
    for request in taken.lock().unwrap().iter() {
        let (_, body) = request.split_once("\n\n").or(request.split_once("\r\n\n")).unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        for alert in body["alerts"].as_array().unwrap() {
            events.push(format!(
                "{} {}",
                alert["event"].as_str().unwrap(),
                alert["code"].as_str().unwrap()
            ));
        }
    }
    events
}

/// Goal: an alert's beginning and end reach each receiver once, though the leader is killed in between, and the alert
/// keeps its `since`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginning_and_end_are_told_once_across_a_killed_leader() {
    let ((hook_port, hooked), (mail_port, mailed)) = (hook().await, mail_server().await);
    let receiver = |name: &str, channel| ReceiverSettings {
        name: name.into(),
        min_severity: Severity::Warning,
        channel,
    };
    let webhook = Channel::Webhook {
        url: SecretString::from(format!("http://127.0.0.1:{hook_port}/hook")),
        secret: Some(SecretString::from("a secret of the test")),
    };
    let email = Channel::Email(Box::new(Email {
        host: "127.0.0.1".into(),
        port: mail_port,
        tls: MailTls::None,
        login: None,
        from: "windlass@example.org".into(),
        to: vec!["ops@example.org".into()],
    }));
    let rig = Rig::start(vec![receiver("hook", webhook), receiver("mail", email)]).await;
    let first = rig.scheduler();
    let second = rig.scheduler();
    rig.pause_a_schedule().await;
    until("both are told of the beginning", async || {
        let mails = mailed.lock().unwrap().len();
        (!events(&hooked).is_empty() && mails > 0).then_some(())
    })
    .await;
    let opened = rig.alerts().await.remove(0);
    assert_eq!((opened.key.code.as_str(), opened.state), ("schedule_paused", AlertState::Active));

    // Whichever leads dies, and with it the other: a third takes over when the term is over.
    drop((first, second));
    let judged = rig.life.ledger().judged().await.unwrap().unwrap().at;
    let _third = rig.scheduler();
    until("somebody looks again", async || {
        (rig.life.ledger().judged().await.unwrap()?.at > judged.plus(Duration::from_secs(1)))
            .then_some(())
    })
    .await;
    let kept = rig.alerts().await.remove(0);
    assert_eq!((kept.id, kept.since, kept.opened_at), (opened.id, opened.since, opened.opened_at));

    rig.tamper("DELETE FROM schedules").await;
    until("its subject is found well", async || rig.alerts().await[0].clear_since.map(|_| ()))
        .await;
    // As if that had been for long.
    until("it has ended", async || {
        rig.tamper(
            "UPDATE alerts SET body = json_set(body, '$.clear_since', '2026-01-01T00:00:00Z') WHERE state = 1",
        )
        .await;
        (rig.alerts().await[0].state == AlertState::Ended).then_some(())
    })
    .await;
    until("both are told of the end", async || {
        let mails = mailed.lock().unwrap().len();
        (events(&hooked).len() >= 2 && mails >= 2).then_some(())
    })
    .await;
    // Some looks more change nothing.
    let judged = rig.life.ledger().judged().await.unwrap().unwrap().at;
    until("more looks", async || {
        (rig.life.ledger().judged().await.unwrap()?.at > judged.plus(Duration::from_secs(1)))
            .then_some(())
    })
    .await;
    assert_eq!(events(&hooked), ["opened schedule_paused", "ended schedule_paused"]);
    assert_eq!(mailed.lock().unwrap().len(), 2);
    let head = hooked.lock().unwrap()[0].to_ascii_lowercase();
    for header in ["webhook-id: msg_", "webhook-timestamp: ", "webhook-signature: v1,"] {
        assert!(head.contains(header), "{head}");
    }
    let mail = mailed.lock().unwrap()[1].clone();
    assert!(mail.contains("Subject: Windlass: ended (cleared) schedule_paused nightly"), "{mail}");
}

/// Goal: what opened and ended while a receiver could not be reached is told as one, and others are told meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passed_while_a_receiver_was_away_is_told_as_one() {
    let (port, taken) = hook().await;
    // A port that nobody listens on until later.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away_port = reserved.local_addr().unwrap().port();
    drop(reserved);
    let slack = |name: &str, port| ReceiverSettings {
        name: name.into(),
        min_severity: Severity::Info,
        channel: Channel::Webhook {
            url: SecretString::from(format!("http://127.0.0.1:{port}/")),
            secret: None,
        },
    };
    let rig = Rig::start(vec![slack("here", port), slack("away", away_port)]).await;
    let _scheduler = rig.scheduler();
    until("both are known", async || {
        (rig.life.ledger().receivers().await.unwrap().len() == 2).then_some(())
    })
    .await;
    rig.pause_a_schedule().await;
    until("one is told and the other failed", async || {
        let receivers = rig.life.ledger().receivers().await.unwrap();
        let failed = receivers.iter().any(|r| r.name == "away" && r.failures > 0);
        (failed && !events(&taken).is_empty()).then_some(())
    })
    .await;
    rig.tamper("DELETE FROM schedules").await;
    until("it has ended", async || {
        rig.tamper(
            "UPDATE alerts SET body = json_set(body, '$.clear_since', '2026-01-01T00:00:00Z') \
             WHERE state = 1 AND json_extract(body, '$.clear_since') IS NOT NULL",
        )
        .await;
        let alerts = rig.alerts().await;
        alerts.iter().any(|a| a.state == AlertState::Ended).then_some(())
    })
    .await;
    let listener = TcpListener::bind(("127.0.0.1", away_port)).await.unwrap();
    let late = Taken::default();
    let kept = late.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(post(stream, kept.clone()));
        }
    });
    until("the other is told", async || (!events(&late).is_empty()).then_some(())).await;
    assert_eq!(events(&late), ["opened_and_ended schedule_paused"]);
    assert_eq!(events(&taken), ["opened schedule_paused", "ended schedule_paused"]);
}
