//! Follows the messages of one connection, and finds what the rules choose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::http::{Requests, send_again};
use super::resp::{Framer, first_word};
use super::{Protocol, Shared, lock};

/// First bytes of a command that rules look at.
const HEAD_MAX: usize = 64 << 10;
/// Commands whose replies are to be lost and have not come, of one connection.
const DOOMED_MAX: usize = 10_000;
/// Commands after which replies cannot be counted off against commands.
const UNCOUNTABLE: [&str; 10] = [
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "MONITOR",
    "SYNC",
    "PSYNC",
    "RESET",
];

/// The commands of a connection and what has become of them.
#[derive(Default)]
pub(super) struct Conversation {
    sent: u64,
    answered: u64,
    /// Numbers of the commands whose replies are to be lost.
    doomed: VecDeque<u64>,
}

/// Watches one direction of a connection.
pub(super) enum Watcher {
    Nothing,
    Commands { framer: Framer, talk: Arc<Mutex<Conversation>>, shared: Arc<Shared> },
    Replies { framer: Framer, talk: Arc<Mutex<Conversation>> },
    Requests { requests: Requests, shared: Arc<Shared> },
}

/// The watchers of a connection: of what goes up, and of what comes down.
pub(super) fn watchers(shared: &Arc<Shared>) -> (Watcher, Watcher) {
    match shared.options.protocol {
        Protocol::Raw => (Watcher::Nothing, Watcher::Nothing),
        Protocol::Resp => {
            let talk = Arc::default();
            let up = Watcher::Commands {
                framer: Framer::new(HEAD_MAX),
                talk: Arc::clone(&talk),
                shared: Arc::clone(shared),
            };
            (up, Watcher::Replies { framer: Framer::new(0), talk })
        }
        Protocol::Http => {
            let shared = Arc::clone(shared);
            (Watcher::Requests { requests: Requests::default(), shared }, Watcher::Nothing)
        }
    }
}

impl Watcher {
    /// Looks at bytes before they are passed on. `Some(n)`: only the first `n` may be delivered, and then the
    /// connection ends.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Commands { framer, talk, shared } => {
                if see_commands(framer, talk, shared, bytes).is_none() {
                    // What is doomed already stays so: its reply still is the one that was counted.
                    shared.count(|stats| stats.untracked += 1);
                    *self = Self::Nothing;
                }
                None
            }
            Self::Replies { framer, talk } => match see_replies(framer, talk, bytes) {
                Ok(end) => end,
                Err(_) => {
                    *self = Self::Nothing;
                    None
                }
            },
            Self::Requests { requests, shared } => {
                match requests.feed(bytes) {
                    Ok(whole) => whole.into_iter().for_each(|request| see_request(shared, request)),
                    Err(_) => {
                        shared.count(|stats| stats.untracked += 1);
                        *self = Self::Nothing;
                    }
                }
                None
            }
        }
    }
}

/// `None` when the connection cannot be followed any longer.
fn see_commands(
    framer: &mut Framer,
    talk: &Mutex<Conversation>,
    shared: &Shared,
    mut bytes: &[u8],
) -> Option<()> {
    while !bytes.is_empty() {
        let (used, ended) = framer.feed(bytes).ok()?;
        bytes = &bytes[used..];
        if !ended {
            break;
        }
        let head = framer.take_head();
        if UNCOUNTABLE.contains(&first_word(&head).as_str()) {
            return None;
        }
        let mut talk = lock(talk);
        if talk.doomed.len() < DOOMED_MAX && lock(&shared.replies).choose(&head).is_some() {
            let number = talk.sent;
            talk.doomed.push_back(number);
        }
        talk.sent += 1;
    }
    Some(())
}

/// The place at which a doomed reply begins.
fn see_replies(
    framer: &mut Framer,
    talk: &Mutex<Conversation>,
    bytes: &[u8],
) -> Result<Option<usize>, super::resp::Broken> {
    let mut at = 0;
    while at < bytes.len() {
        // Messages that the server sends of its own accord answer no command.
        let is_push = !framer.is_inside() && bytes[at] == b'>';
        if !framer.is_inside() && !is_push {
            let mut talk = lock(talk);
            if talk.doomed.front() == Some(&talk.answered) {
                return Ok(Some(at));
            }
            talk.answered += 1;
        }
        at += framer.feed(&bytes[at..])?.0;
    }
    Ok(None)
}

fn see_request(shared: &Arc<Shared>, request: Vec<u8>) {
    let Some(after) = lock(&shared.requests).choose(&request[..request.len().min(HEAD_MAX)]) else {
        return;
    };
    let Ok(permit) = Arc::clone(&shared.duplicates).try_acquire_owned() else { return };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _permit = permit;
        let stop = shared.stop.clone();
        let _ = stop.run_until_cancelled(send_later(&shared, request, after)).await;
    });
}

async fn send_later(shared: &Shared, request: Vec<u8>, after: Duration) {
    tokio::time::sleep(after).await;
    let status = send_again(shared.target(), &request).await.unwrap_or(0);
    shared.count(|stats| {
        stats.duplicated += 1;
        *stats.duplicate_statuses.entry(status).or_default() += 1;
    });
}
