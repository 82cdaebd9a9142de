//! Workflow documents in files: YAML or JSON, told apart by what is in them.

use serde_json::Value;

use crate::client::Call;
use crate::exit::{Failure, Outcome};
use crate::input;

/// Largest document, in bytes of JSON.
const JSON_BYTES_MAX: usize = 32 << 20;

/// Reads a document from a file, or from standard input for `-`.
///
/// # Errors
/// It cannot be read, or is neither JSON nor YAML.
pub fn read(path: &str) -> Outcome<Value> {
    parse(path, &text(path)?)
}

/// As [`read`], as the body of a call: as it is written, so that its comments are kept with it.
///
/// # Errors
/// As [`read`].
pub fn sent<'a>(call: Call<'a>, path: &str) -> Outcome<Call<'a>> {
    let text = text(path)?;
    let document = parse(path, &text)?;
    Ok(if is_json(&text) { call.json(&document) } else { call.yaml(text) })
}

fn text(path: &str) -> Outcome<String> {
    String::from_utf8(input::read(path)?)
        .map_err(|_| Failure::Usage(format!("{path} is not text in UTF-8")))
}

fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

fn parse(path: &str, text: &str) -> Outcome<Value> {
    // Nearly all JSON is YAML too, but JSON's own reader says better what is wrong with it.
    let json = if is_json(text) {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        windlass_api::yaml::to_json(text, JSON_BYTES_MAX)
            .map_err(|error| error.detail().to_owned())
            .and_then(|json| serde_json::from_str(&json).map_err(|error| error.to_string()))
    };
    let document: Value = json.map_err(|why| Failure::Usage(format!("{path}: {why}")))?;
    if !document.is_object() {
        return Err(Failure::Usage(format!(
            "{path}: a workflow is an object with \"name\" and \"steps\""
        )));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_are_told_apart_and_faults_name_the_file() {
        let yaml = parse("a.yaml", "name: x\nsteps:\n  - id: a\n    kind: noop\n").unwrap();
        let json = parse("a.json", r#" {"name": "x", "steps": [{"id": "a", "kind": "noop"}]}"#);
        assert_eq!(yaml, json.unwrap());
        for wrong in ["{\"name\": ", "name: [", "- a\n- b\n", "7"] {
            let Failure::Usage(said) = parse("some.yaml", wrong).unwrap_err() else { panic!() };
            assert!(said.starts_with("some.yaml: "), "{said}");
        }
    }
}
