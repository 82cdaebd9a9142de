//! A webhook for tests.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a webhook has taken: ids and bodies.
pub(in crate::overwatch) struct Taken(mpsc::UnboundedReceiver<(String, Value)>);

/// Starts one on this port; it refuses so many messages, and takes all others.
pub(in crate::overwatch) async fn hook(mut refuses: u32) -> (u16, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let message = read(&mut stream).await;
            let status = if refuses == 0 { "200 OK" } else { "500 no" };
            if refuses == 0 && sender.send(message).is_err() {
                return;
            }
            refuses = refuses.saturating_sub(1);
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, Taken(taken))
}

async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut text = Vec::new();
    loop {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "half a request");
        let Some(at) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let Ok(body) = serde_json::from_slice(&text[at + 4..]) else { continue };
        let head = String::from_utf8_lossy(&text[..at]);
        let id = head.lines().find_map(|line| line.strip_prefix("webhook-id: "));
        return (id.expect("every message has an id").to_owned(), body);
    }
}

impl Taken {
    /// The next message, which is of one alert: its id, and `event code`.
    pub(in crate::overwatch) async fn next(&mut self) -> (String, String) {
        let message = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        let (id, body) = message.expect("a message comes").unwrap();
        let [alert] = &body["alerts"].as_array().unwrap()[..] else { panic!("{body}") };
        let word = |name: &str| alert[name].as_str().unwrap().to_owned();
        (id, format!("{} {}", word("event"), word("code")))
    }
}
