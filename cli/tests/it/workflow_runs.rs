//! Runs of workflows through the command line, against `windlass dev`, and their pictures in a real browser.

use serde_json::Value;

use crate::binary::{Dev, Said, windlass_with};
use crate::docs_page::rendered;

const PAY: &str = "\
# a comment
name: pay
steps:
  - {id: a, kind: echo, payload: {n: 1}}
  - {id: paid, kind: wait.signal, needs: [a], payload: {name: payment, timeout: 1h}}
  - {id: z, kind: echo, needs: [paid], payload: \"${{ steps.paid.output.amount * input }}\"}
  - {id: breaks, kind: fail, needs: [z], payload: {permanent: true}, if: input > 5}
";

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

#[test]
fn a_run_is_submitted_signalled_retried_and_repeated() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let env = [("WINDLASS_URL", dev.url.as_str())];
    let put = || windlass_with(&["workflow", "definition", "put", "pay", "-"], &env, PAY);
    assert_eq!(put().out.trim(), "stored as version 1");
    assert_eq!(put().out.trim(), "nothing has changed: it is version 1");
    let stored = dev.run(&["workflow", "definition", "get", "pay"]);
    assert!(stored.out.contains("# a comment"), "{stored:?}");

    let run = dev.run(&["workflow", "submit", "--definition", "pay", "--input", "7"]);
    let run = run.out.trim();
    let signal = ["workflow", "signal", run, "payment", "{\"amount\": 12}"];
    assert_eq!(dev.run(&signal).code, 0);
    let ended = dev.run(&["workflow", "wait", run, "--output", "json"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let ended = json(&ended);
    assert_eq!((&ended["state"], &ended["definition"]), (&"failed".into(), &"pay".into()));
    assert_eq!(ended["steps"][2]["output"], 84, "{ended:#}");
    let retried = dev.run(&["workflow", "retry", run]);
    assert!(retried.out.contains("3 steps keep their results, 1 run"), "{retried:?}");
    assert_eq!(dev.run(&["workflow", "wait", run]).code, 3, "it breaks again");

    let again = dev.run(&["workflow", "rerun", run]);
    let again = again.out.trim();
    assert_eq!(dev.run(&["workflow", "cancel", again, "--reason", "enough"]).code, 0);
    let cancelled = dev.run(&["workflow", "wait", again]);
    assert!(cancelled.code == 3 && cancelled.out.contains("enough"), "{cancelled:?}");
    let list = json(&dev.run(&["workflow", "list", "--definition", "pay", "--output", "json"]));
    let ids: Vec<&str> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| r["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [again, run]);
}

#[test]
fn pictures_are_drawn_by_a_browser_whatever_the_ids_are() {
    let data = tempfile::tempdir().expect("a folder");
    let file = |name: &str| data.path().join(name).display().to_string();
    let hostile = "\"]</text><script>document.title='owned'</script><!-- & \u{202e}'";
    let steps = ["a", hostile].map(|id| serde_json::json!({ "id": id, "kind": hostile }));
    let document = serde_json::json!({ "name": hostile, "steps": steps }).to_string();
    let args = ["workflow", "graph", "-", "--out", &file("hostile.svg")];
    let said = windlass_with(&args, &[], &document);
    assert_eq!(said.code, 0, "{said:?}");
    let page = rendered(&format!("file://{}", file("hostile.svg")));
    assert!(!page.contains("parsererror") && !page.contains("<script"), "{page}");
    assert_eq!(page.matches("<rect class=\"plain\"").count(), 2, "{page}");

    let dev = Dev::start(&data.path().join("dev"), &[]);
    let env = [("WINDLASS_URL", dev.url.as_str())];
    let chain =
        "name: chain\nsteps:\n  - {id: a, kind: noop}\n  - {id: b, kind: noop, needs: [a]}\n";
    let run =
        windlass_with(&["workflow", "submit", "-", "--wait", "--output", "json"], &env, chain);
    assert_eq!(run.code, 0, "{run:?}");
    let id = json(&run)["id"].as_str().expect("an id").to_owned();
    assert_eq!(dev.run(&["workflow", "graph", &id, "--out", &file("run.svg")]).code, 0);
    let page = rendered(&format!("file://{}", file("run.svg")));
    assert!(page.contains("succeeded 2") && !page.contains("parsererror"), "{page}");
    for (format, text) in
        [("dot", "n0 -> n1;"), ("mermaid", "n0 --> n1"), ("json", "\"from\": \"a\"")]
    {
        let said = dev.run(&["workflow", "graph", &id, "--format", format]);
        assert!(said.out.contains(text), "{said:?}");
    }
}
