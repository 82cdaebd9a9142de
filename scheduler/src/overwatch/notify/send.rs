//! The ways to receivers. A failure is said in words without addresses: those of hooks are secrets.

use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Channel, Email, ReceiverSettings};

use super::email;
use super::message::Message;

/// Longest time of one send.
pub(super) const SEND_MAX: Duration = Duration::from_secs(10);

/// One way to a receiver.
pub(super) enum Sender<'a> {
    /// JSON, signed where there is a secret.
    Webhook { http: reqwest::Client, url: &'a SecretString, secret: Option<&'a SecretString> },
    /// `{"text": …}`.
    Slack { http: reqwest::Client, url: &'a SecretString },
    /// SMTP.
    Email(&'a Email),
}

impl<'a> Sender<'a> {
    pub(super) fn new(channel: &'a Channel) -> Result<Self, String> {
        // Where an operator sends to is theirs to say; where the receiver points to is not.
        let http = || {
            reqwest::Client::builder()
                .timeout(SEND_MAX)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|_| "cannot set up HTTP".to_owned())
        };
        Ok(match channel {
            Channel::Webhook { url, secret } => {
                Self::Webhook { http: http()?, url, secret: secret.as_ref() }
            }
            Channel::Slack { url } => Self::Slack { http: http()?, url },
            Channel::Email(email) => Self::Email(email),
        })
    }

    /// Sends a message; `Ok`: the receiver took it. At most [`SEND_MAX`]. May be repeated, and may be dropped.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        match self {
            Self::Webhook { http, url, secret } => {
                let body = message.json();
                let at = Clock::System.now().millis() / 1_000;
                let mut request = post(http, url)
                    .header("webhook-id", &message.id)
                    .header("webhook-timestamp", at);
                if let Some(secret) = secret {
                    let signature = sign(secret, &message.id, at, &body);
                    request = request.header("webhook-signature", signature);
                }
                answered(request.body(body).send().await)
            }
            Self::Slack { http, url } => {
                let body = serde_json::json!({ "text": message.text() }).to_string();
                answered(post(http, url).body(body).send().await)
            }
            Self::Email(settings) => email::send(settings, message).await,
        }
    }
}

fn post(http: &reqwest::Client, url: &SecretString) -> reqwest::RequestBuilder {
    http.post(url.expose_secret()).header("content-type", "application/json")
}

fn answered(result: reqwest::Result<reqwest::Response>) -> Result<(), String> {
    match result {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("it answered with HTTP {}", response.status().as_u16())),
        Err(error) if error.is_timeout() => Err("it did not answer in time".to_owned()),
        Err(error) if error.is_connect() => Err("it cannot be reached".to_owned()),
        Err(_) => Err("the request could not be sent".to_owned()),
    }
}

/// As the specification of standard webhooks has it: `v1,` and the base64 of an HMAC-SHA256 over id, time and body. A
/// secret `whsec_…` is base64 of the key; any other is the key itself.
fn sign(secret: &SecretString, id: &str, at: i64, body: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD;
    let text = secret.expose_secret();
    let decoded = text.strip_prefix("whsec_").and_then(|rest| base64.decode(rest).ok());
    let key = decoded.unwrap_or_else(|| text.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length will do");
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    format!("v1,{}", base64.encode(mac.finalize().into_bytes()))
}

/// Sends a test to each receiver; what became of it, by name.
pub async fn try_all(receivers: &[ReceiverSettings]) -> Vec<(String, Result<(), String>)> {
    let message = Message::test(Clock::System.now());
    let tries = receivers.iter().map(|receiver| async {
        let result = match Sender::new(&receiver.channel) {
            Ok(sender) => sender.send(&message).await,
            Err(why) => Err(why),
        };
        (receiver.name.clone(), result)
    });
    futures::future::join_all(tries).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own test suite.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
