//! `windlass key`: API keys, written to the ledger.

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use windlass_shared::config::{Process, Settings};
use windlass_shared::ledger::{ApiKey, Ledger, Role};
use windlass_shared::model::id::KeyId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Span;

use super::role;
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};
use crate::setup::{self, SettingsArgs};

const EXAMPLES: &str = "\
Examples:
  windlass key create --role submitter --name my-service      prints the key once
  windlass key create --role worker --name fleet --namespace team-a --expires-in 90d
  windlass key list
  windlass key revoke 0197b0a4-...

Roles: admin (everything), operator (everything but keys), submitter (submits, reads and cancels jobs), \
worker (claims and settles), viewer (reads). Keys are written to the ledger: this needs \
WINDLASS_LEDGER__URL, not the API. A ledger of `windlass dev` can only be written while dev is stopped; with \
a key of role admin, POST /v1/api-keys makes others at any time.";

/// Make, list and revoke API keys
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key; prints it once
    Create(Create),
    /// List keys; never their secrets
    List(List),
    /// Refuse a key from now on
    Revoke(Revoke),
}

/// As [`Role`], on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Admin,
    Operator,
    Submitter,
    Worker,
    Viewer,
}

#[derive(Debug, Args)]
struct Create {
    /// What the key may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// What it is for, for people; the role unless given
    #[arg(long)]
    name: Option<String>,
    /// Bound to this namespace; without it, all
    #[arg(long)]
    namespace: Option<Namespace>,
    /// Refused after this long, such as 90d
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct List {
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct Revoke {
    /// The key's id, as `key list` shows it
    id: KeyId,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the command.
pub async fn run(args: KeyArgs) -> Outcome {
    match args.command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => {
            let (_, ledger) = open(&args.settings).await?;
            let revoked = ledger.revoke_key(args.id).await.context("cannot revoke the key")?;
            ledger.close().await;
            if !revoked {
                let text = format!("there is no key {}, or it is revoked already", args.id);
                return Err(Failure::Failed(anyhow!(text)));
            }
            output::line("revoked; every API refuses it within seconds")
        }
    }
}

async fn open(args: &SettingsArgs) -> Outcome<(Settings, Ledger)> {
    let settings = args.load(Process::Tool, Vec::new())?;
    let ledger = setup::open_ledger(&settings).await?;
    Ok((settings, ledger))
}

async fn create(args: Create) -> Outcome {
    let name = match args.name {
        Some(name) => name,
        None => args.role.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
    };
    if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
        return Err(Failure::Usage("--name must be 1 to 128 characters".into()));
    }
    let (settings, ledger) = open(&args.settings).await?;
    let wanted = match args.role {
        RoleName::Admin => Role::Admin,
        RoleName::Operator => Role::Operator,
        RoleName::Submitter => Role::Submitter,
        RoleName::Worker => Role::Worker,
        RoleName::Viewer => Role::Viewer,
    };
    let (mut key, text) = new_key(&settings, &ledger, &name, wanted).await?;
    key.namespace = args.namespace;
    key.expires_at = args.expires_in.map(|span| key.created_at.plus(span.0));
    ledger.create_key(&key).await.context("cannot keep the key")?;
    ledger.close().await;
    let text = text.expose_secret();
    match args.output {
        Output::Json => output::json(&json!({ "id": key.id, "key": text })),
        Output::Table => {
            output::line(text)?;
            eprintln!("key {} is made; it is shown this once", key.id);
            Ok(())
        }
    }
}

/// A key for all namespaces that does not expire, not yet written, and its text.
pub async fn new_key(
    settings: &Settings,
    ledger: &Ledger,
    name: &str,
    role: Role,
) -> Outcome<(ApiKey, SecretString)> {
    let made = windlass_api::keys::generate(role::environment(settings.profile));
    // Ledger time, so that the expiry means the same on every host.
    let created_at = ledger.now().await.context("cannot ask the ledger")?;
    let key = ApiKey {
        id: KeyId::generate(),
        public: made.public,
        secret_hash: made.secret_hash,
        name: name.to_owned(),
        role,
        namespace: None,
        created_at,
        expires_at: None,
        revoked_at: None,
    };
    Ok((key, made.text))
}

async fn list(args: List) -> Outcome {
    let (_, ledger) = open(&args.settings).await?;
    let keys = ledger.keys().await.context("cannot list keys")?;
    ledger.close().await;
    if args.output == Output::Json {
        let items = keys.iter().map(|key| {
            json!({
                "id": key.id, "name": key.name, "role": key.role, "namespace": key.namespace,
                "public": key.public, "created_at": key.created_at, "expires_at": key.expires_at,
                "revoked_at": key.revoked_at,
            })
        });
        return output::json(&json!({ "items": items.collect::<Vec<_>>() }));
    }
    let rows = keys.into_iter().map(|key| {
        let role = json!(key.role).as_str().unwrap_or_default().to_owned();
        let namespace = key.namespace.map_or("all".into(), |n| n.to_string());
        let state = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) => format!("until {at}"),
            (None, None) => "valid".into(),
        };
        vec![key.id.to_string(), key.name, role, namespace, key.created_at.to_string(), state]
    });
    output::table(&["id", "name", "role", "namespace", "created", "state"], rows)
}
