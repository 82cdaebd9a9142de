//! YAML documents as JSON text, so that they go the same way as JSON from there on.
//!
//! YAML 1.2 with the core schema, and of that what JSON has: no anchors, aliases, tags, merge keys or infinities,
//! one document, each key once. Read as events with an explicit stack: no input makes it recurse, and nothing is
//! built beyond the text.

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::error::{ApiError, Code, FieldError};

mod scalar;

/// Deepest nesting. A step's payload may be 64 deep, and lies a few levels down.
const DEPTH_MAX: usize = 100;

enum Level {
    Object {
        keys: HashSet<String>,
        /// The key whose value comes next.
        key: Option<String>,
    },
    Array {
        index: usize,
    },
}

struct Writer {
    json: String,
    levels: Vec<Level>,
    documents: usize,
    bytes_max: usize,
}

/// One YAML document as JSON text of at most `bytes_max` bytes.
///
/// # Errors
/// 400 or 413, with the line and column.
pub fn to_json(text: &str, bytes_max: usize) -> Result<String, ApiError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut writer = Writer {
        json: String::with_capacity(text.len()),
        levels: Vec::new(),
        documents: 0,
        bytes_max,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        writer.event(event, span)?;
    }
    if writer.documents == 0 {
        return Err(ApiError::new(Code::InvalidYaml, "the document is empty"));
    }
    Ok(writer.json)
}

fn syntax(error: &ScanError) -> ApiError {
    // The reader's own bound for brackets, which it may meet before the first of them comes here.
    if error.info() == "recursion limit exceeded" {
        return too_deep();
    }
    let (line, column) = (error.marker().line(), error.marker().col() + 1);
    ApiError::new(Code::InvalidYaml, format!("{} (line {line}, column {column})", error.info()))
}

fn too_deep() -> ApiError {
    ApiError::new(Code::TooDeep, "the document is nested too deeply")
}

fn refuse(span: Span, message: &str) -> ApiError {
    let (line, column) = (span.start.line(), span.start.col() + 1);
    ApiError::new(Code::InvalidYaml, format!("{message} (line {line}, column {column})"))
}

impl Writer {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ApiError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(refuse(span, "there is more than one document")),
                }
            }
            Event::Alias(_) => Err(refuse(span, "aliases are not taken")),
            Event::Scalar(text, style, anchor, tag) => {
                plain_node(span, anchor, tag.is_some())?;
                self.scalar(&text, style, span)
            }
            Event::SequenceStart(anchor, tag) => {
                plain_node(span, anchor, tag.is_some())?;
                self.open(span, '[', Level::Array { index: 0 })
            }
            Event::MappingStart(anchor, tag) => {
                plain_node(span, anchor, tag.is_some())?;
                self.open(span, '{', Level::Object { keys: HashSet::new(), key: None })
            }
            Event::SequenceEnd => self.close(']'),
            Event::MappingEnd => self.close('}'),
        }
    }

    fn open(&mut self, span: Span, bracket: char, level: Level) -> Result<(), ApiError> {
        if matches!(self.levels.last(), Some(Level::Object { key: None, .. })) {
            return Err(refuse(span, "a key must be a text"));
        }
        if self.levels.len() == DEPTH_MAX {
            return Err(too_deep());
        }
        self.before_value();
        self.json.push(bracket);
        self.levels.push(level);
        self.within_bounds()
    }

    fn close(&mut self, bracket: char) -> Result<(), ApiError> {
        self.levels.pop();
        self.json.push(bracket);
        self.after_value();
        self.within_bounds()
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Result<(), ApiError> {
        if matches!(self.levels.last(), Some(Level::Object { key: None, .. })) {
            return self.key(text, style, span);
        }
        self.before_value();
        if style == ScalarStyle::Plain {
            scalar::push_plain(&mut self.json, text).map_err(|message| refuse(span, message))?;
        } else {
            scalar::push_text(&mut self.json, text);
        }
        self.after_value();
        self.within_bounds()
    }

    fn key(&mut self, text: &str, style: ScalarStyle, span: Span) -> Result<(), ApiError> {
        if style == ScalarStyle::Plain && text == "<<" {
            return Err(refuse(span, "merge keys are not taken"));
        }
        let Some(Level::Object { keys, key }) = self.levels.last_mut() else {
            return Ok(());
        };
        if !keys.insert(text.to_owned()) {
            let pointer = format!("{}/{}", self.pointer(), escaped(text));
            let detail = format!("{pointer} is given twice (line {})", span.start.line());
            return Err(ApiError::new(Code::DuplicateKey, detail)
                .with_errors(vec![FieldError::at(pointer, "is given twice")]));
        }
        *key = Some(text.to_owned());
        if keys.len() > 1 {
            self.json.push(',');
        }
        scalar::push_text(&mut self.json, text);
        self.json.push(':');
        self.within_bounds()
    }

    fn before_value(&mut self) {
        if let Some(Level::Array { index }) = self.levels.last()
            && *index > 0
        {
            self.json.push(',');
        }
    }

    fn after_value(&mut self) {
        match self.levels.last_mut() {
            Some(Level::Array { index }) => *index += 1,
            Some(Level::Object { key, .. }) => *key = None,
            None => {}
        }
    }

    fn within_bounds(&self) -> Result<(), ApiError> {
        if self.json.len() <= self.bytes_max {
            return Ok(());
        }
        let detail = format!("the document is larger than {} bytes as JSON", self.bytes_max);
        Err(ApiError::new(Code::TooLarge, detail))
    }

    /// To the container that is being read.
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for level in self.levels.iter().take(self.levels.len().saturating_sub(1)) {
            pointer.push('/');
            match level {
                Level::Array { index } => pointer.push_str(&index.to_string()),
                Level::Object { key, .. } => {
                    pointer.push_str(&escaped(key.as_deref().unwrap_or("")));
                }
            }
        }
        pointer
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn plain_node(span: Span, anchor: usize, tagged: bool) -> Result<(), ApiError> {
    if anchor != 0 {
        return Err(refuse(span, "anchors are not taken"));
    }
    if tagged {
        return Err(refuse(span, "tags are not taken"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        let json = to_json(text, 1 << 20).unwrap_or_else(|e| panic!("{text:?}: {}", e.detail()));
        serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e} in {json}"))
    }
    fn fault(text: &str) -> (Code, String) {
        let error = to_json(text, 1 << 20).expect_err(text);
        (error.code(), error.detail().to_owned())
    }

    #[test]
    fn documents_become_the_json_that_they_mean() {
        let yaml = "
# A comment.
name: nightly
deadline: 1h
steps:
  - id: a
    kind: echo
    payload: {n: 1, f: 1.50, t: true, z: ~, s: '1', list: [a, \"b\\n\", 0x1F, -.5e3, +7, 0o17]}
  - id: b
    needs: [a]
    payload:
      text: |
        two
        lines
      folded: >-
        one
        line
      template: ${{ steps.a.output }}
      empty:
      date: 2026-01-02
      yes: no
";
        assert_eq!(
            read(yaml),
            json!({"name": "nightly", "deadline": "1h", "steps": [
                {"id": "a", "kind": "echo", "payload":
                    {"n": 1, "f": 1.5, "t": true, "z": null, "s": "1",
                     "list": ["a", "b\n", 31, -500.0, 7, 15]}},
                {"id": "b", "needs": ["a"], "payload": {"text": "two\nlines\n", "folded": "one line",
                    "template": "${{ steps.a.output }}", "empty": null, "date": "2026-01-02", "yes": "no"}},
            ]})
        );
        assert_eq!(read("\u{feff}[]"), json!([]));
        assert_eq!(
            read("{\"json\": [\"is\", \"yaml\", null]}"),
            json!({"json": ["is", "yaml", null]})
        );
        assert_eq!(read("'\"\\\u{7}'"), json!("\"\\\u{7}"));
    }

    #[test]
    fn what_json_has_not_is_refused_with_its_place() {
        for (text, part) in [
            ("a: &x 1", "anchors are not taken (line 1, column"),
            ("a: 1\nb: *x", "line 2"),
            ("a: &x [1]\nb: *x", "anchors"),
            ("a: !!str 1", "tags are not taken"),
            ("!thing {}", "tags"),
            ("<<: {a: 1}", "merge keys"),
            ("a: .inf", "infinity"),
            ("a: .NaN", "NaN"),
            ("? [a]\n: 1", "a key must be a text"),
            ("a: 1\n---\nb: 2", "more than one document"),
            ("a: [1, 2", "(line"),
            ("a: b: c", "(line"),
            ("a:\n\tb: 1", "(line"),
            ("", "empty"),
        ] {
            let (code, detail) = fault(text);
            assert_eq!(code, Code::InvalidYaml, "{text}: {detail}");
            assert!(detail.contains(part), "{text}: {detail}");
        }
        let (code, detail) = fault("a:\n  - {b/c: 1, d: 2, b/c: 3}");
        assert_eq!(
            (code, detail.as_str()),
            (Code::DuplicateKey, "/a/0/b~1c is given twice (line 2)")
        );
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert_eq!(fault(&"[".repeat(200)).0, Code::TooDeep);
        assert_eq!(fault(&"[".repeat(200_000)).0, Code::TooDeep);
        assert_eq!(fault(&"- ".repeat(100_000)).0, Code::TooDeep);
        assert_eq!(fault(&"{a: ".repeat(200)).0, Code::TooDeep);
        let bell = format!("'{}'", "\u{7}".repeat(10_000));
        assert_eq!(to_json(&bell, 20_000).unwrap_err().code(), Code::TooLarge);
    }
}
