//! What the documents say is what the repository holds.

use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The fenced blocks of a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    document
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().expect("a block ends").to_owned())
        .collect()
}

#[test]
fn the_readmes_handler_is_the_one_that_is_compiled_and_run() {
    let readme = read("README.md");
    let snippets = blocks(&readme, "rust");
    assert_eq!(snippets.len(), 1);
    let example = squeezed(&read("worker/examples/own_handler.rs"));
    assert!(example.contains(&squeezed(&snippets[0])), "{}", snippets[0]);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut documents =
        vec!["README.md".to_owned(), "ARCHITECTURE.md".into(), "CONTRIBUTING.md".into()];
    for folder in ["docs", "docs/rig"] {
        for entry in std::fs::read_dir(root.join(folder)).expect(folder).flatten() {
            if entry.file_type().expect("its type").is_file() {
                documents.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    documents.push("deploy/README.md".into());
    let mut checked = 0;
    for document in documents {
        let folder = root.join(&document);
        let folder = folder.parent().expect("a folder");
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(folder.join(path).exists(), "{document} links to {target}");
            checked += 1;
        }
    }
    assert!(checked > 10, "links were found");
}

#[test]
fn every_setting_that_the_documents_name_exists() {
    let shown = std::process::Command::new(env!("CARGO_BIN_EXE_windlass"))
        .args(["config", "show", "--output", "json"])
        .env_clear()
        .output()
        .expect("the binary runs");
    let shown = String::from_utf8(shown.stdout).expect("text").to_lowercase();
    let mut checked = 0;
    for document in
        ["README.md", "docs/operating.md", "docs/workers.md", "deploy/compose/compose.yaml"]
    {
        let text = read(document);
        for name in text.split("WINDLASS_").skip(1) {
            let name: String =
                name.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            let Some((section, key)) = name.split_once("__") else { continue };
            if section.is_empty() || key.is_empty() {
                continue;
            }
            let key =
                format!("{}.{}", section.to_lowercase(), key.trim_end_matches('_').to_lowercase());
            assert!(shown.contains(&key), "{document} names {key}, which is no setting");
            checked += 1;
        }
    }
    assert!(checked > 5, "settings were found");
}
