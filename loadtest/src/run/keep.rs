//! Results on record: kept in the fleet's ledger, and held against the last good one.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;
use windlass_shared::model::time::Timestamp;

use super::Target;
use super::figures::Figures;
use crate::http::{Answer, Client};
use crate::result::{Compared, LoadResult};

#[derive(Deserialize)]
struct List {
    items: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    id: Uuid,
    began_at: Timestamp,
    figures: Option<Figures>,
}

/// Holds a result against the last one of its profile on its machine that passed, then keeps it. May be repeated.
///
/// # Errors
/// The API does not take it: it wants the role `admin`, of a key that is bound to no namespace.
pub async fn keep(target: &Target, result: &mut LoadResult) -> Result<()> {
    let client = Client::new(&target.url, target.api_key.as_deref(), target.namespace.as_deref())?;
    let machine = result.machine.text();
    let path = format!(
        "/v1/load-results?profile={}&machine={}&passed=true&limit=1",
        encoded(&result.profile),
        encoded(&machine)
    );
    let list: List = client.read(&path).await?;
    let last = list.items.into_iter().find(|stored| stored.id != result.id);
    result.compared = last.and_then(|last| {
        Some(Compared::with(last.id, last.began_at, &last.figures?, &result.figures))
    });
    let body = json!({
        "profile": result.profile,
        "machine": machine,
        "passed": result.passed,
        "began_at": result.began_at,
        "result": result.brief(),
    });
    match client.put(&format!("/v1/load-results/{}", result.id), body.to_string().into()).await {
        Answer::Good(_) => Ok(()),
        answer => bail!("{}", answer.why()),
    }
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_query_is_one_value() {
        assert_eq!(encoded("vm, 2 x AMD&é"), "vm%2C%202%20x%20AMD%26%C3%A9");
    }
}
