//! Messages through an SMTP server.

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor};
use secrecy::ExposeSecret as _;
use windlass_shared::config::{Email, MailTls};

use super::message::Message;
use super::send::SEND_MAX;

/// Sends a message; `Ok`: the server took it. May be repeated, and may be dropped.
pub(super) async fn send(settings: &Email, message: &Message) -> Result<(), String> {
    let mail = mail(settings, message)?;
    let tls = || {
        TlsParameters::new(settings.host.clone())
            .map_err(|_| "TLS cannot be set up for this server".to_owned())
    };
    let tls = match settings.tls {
        MailTls::Starttls => Tls::Required(tls()?),
        MailTls::Tls => Tls::Wrapper(tls()?),
        MailTls::None => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
        .port(settings.port)
        .tls(tls)
        .timeout(Some(SEND_MAX));
    if let Some((user, password)) = &settings.login {
        let password = password.expose_secret().to_owned();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    let transport = builder.build();
    let sent = tokio::time::timeout(SEND_MAX, transport.send(mail)).await;
    match sent {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(in_words(&error)),
        Err(_) => Err("the mail server did not answer in time".to_owned()),
    }
}

fn mail(settings: &Email, message: &Message) -> Result<Mail, String> {
    let parse = |address: &str| {
        address.parse::<Mailbox>().map_err(|_| "an address is not one of e-mail".to_owned())
    };
    let mut builder = Mail::builder()
        .from(parse(&settings.from)?)
        .subject(message.subject())
        .message_id(Some(format!("<{}@windlass>", message.id)))
        .header(ContentType::TEXT_PLAIN);
    for to in &settings.to {
        builder = builder.to(parse(to)?);
    }
    builder.body(message.text()).map_err(|_| "the message cannot be put together".to_owned())
}

/// The server's own words are left out: they may quote what it was sent.
fn in_words(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None if error.is_timeout() => "the mail server did not answer in time".to_owned(),
        None if error.is_tls() => "the mail server's TLS was refused".to_owned(),
        None => "the mail server cannot be reached".to_owned(),
    }
}
