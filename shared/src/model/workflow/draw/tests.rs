use super::*;

fn node(id: &str, kind: &str, state: Option<StepState>) -> Node {
    let (id, kind) = (id.to_owned(), kind.to_owned());
    Node { label: id.clone(), id, kind, state, detail: String::new() }
}

fn edges(pairs: &[(u32, u32)]) -> Vec<Edge> {
    pairs.iter().map(|(from, to)| Edge { from: *from, to: *to }).collect()
}

fn diamond() -> Drawing {
    let nodes = vec![
        node("extract", "command.run", Some(StepState::Succeeded)),
        node("left", "echo", Some(StepState::Failed)),
        node("right", "echo", Some(StepState::Released)),
        node("load", "wait.approval", Some(StepState::Blocked)),
    ];
    Drawing { title: "etl".into(), nodes, edges: edges(&[(0, 1), (0, 2), (1, 3), (2, 3)]) }
}

/// A text that tries to get out of every format.
const HOSTILE: &str =
    "a\"];</text><script>x</script>\\\"]; n1 -->|`end`| %% #quot; & ]]> \u{202e}\n\u{0}\u{7}'";

fn hostile() -> Drawing {
    let node = Node {
        id: HOSTILE.into(),
        label: HOSTILE.into(),
        kind: HOSTILE.into(),
        state: Some(StepState::Failed),
        detail: HOSTILE.into(),
    };
    Drawing {
        title: HOSTILE.into(),
        nodes: vec![node.clone(), node],
        edges: edges(&[(0, 1), (0, 9), (1, 1)]),
    }
}

#[test]
fn the_diamond_for_graphviz() {
    let expected = r##"digraph workflow {
  label="etl"; labelloc=t;
  rankdir=TB;
  node [shape=box, style="rounded,filled", fontname="sans-serif"];
  n0 [label="extract\ncommand.run, succeeded", tooltip="extract, command.run, succeeded", fillcolor="#d2f2d8", color="#1a7f37"];
  n1 [label="left\necho, failed", tooltip="left, echo, failed", fillcolor="#ffd8d3", color="#cf222e"];
  n2 [label="right\necho, running", tooltip="right, echo, running", fillcolor="#cfe5ff", color="#0969da"];
  n3 [label="load\nwait.approval, blocked", tooltip="load, wait.approval, blocked", fillcolor="#eaeef2", color="#6e7781"];
  n0 -> n1;
  n0 -> n2;
  n1 -> n3;
  n2 -> n3;
}
"##;
    assert_eq!(diamond().to_dot(), expected);
}

#[test]
fn the_diamond_for_mermaid() {
    let expected = "---\ntitle: \"etl\"\n---\nflowchart TD
  n0[\"extract<br/>command.run, succeeded\"]:::succeeded
  n1[\"left<br/>echo, failed\"]:::failed
  n2[\"right<br/>echo, running\"]:::running
  n3[\"load<br/>wait.approval, blocked\"]:::blocked
  n0 --> n1
  n0 --> n2
  n1 --> n3
  n2 --> n3
  classDef blocked fill:#eaeef2,stroke:#6e7781,color:#1c2128
  classDef running fill:#cfe5ff,stroke:#0969da,color:#1c2128
  classDef succeeded fill:#d2f2d8,stroke:#1a7f37,color:#1c2128
  classDef failed fill:#ffd8d3,stroke:#cf222e,color:#1c2128
";
    assert_eq!(diamond().to_mermaid(), expected);
}

#[test]
fn the_diamond_as_data() {
    let data = diamond().to_json();
    assert_eq!(data["nodes"][2]["state"], "running");
    assert_eq!(data["edges"][3], json!({ "from": "right", "to": "load" }));
    assert_eq!(hostile().to_json()["nodes"][0]["id"], HOSTILE, "data is not altered");
}

/// The boxes of a picture: x, y, width and height, without the legend's.
fn boxes(svg: &str) -> Vec<[f64; 4]> {
    let rects = svg.split("</title><rect ").skip(1);
    let number = |rect: &str, name: &str| -> f64 {
        let rest = rect.split(&format!("{name}=\"")).nth(1).expect(name);
        rest.split('"').next().expect("closed").parse().expect("a number")
    };
    rects.map(|r| [" x", " y", "width", "height"].map(|name| number(r, name))).collect()
}

fn assert_apart(svg: &str) {
    let boxes = boxes(svg);
    for (n, a) in boxes.iter().enumerate() {
        for b in &boxes[n + 1..] {
            let beside = a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0];
            let above = a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
            assert!(beside || above, "{a:?} and {b:?} overlap");
        }
    }
}

#[test]
fn the_picture_of_the_diamond_is_symmetric() {
    let svg = diamond().to_svg();
    let found = boxes(&svg);
    let [top, left, right, bottom] = found[..] else { panic!("{found:?}") };
    // Written in whole pixels.
    assert!((top[0] - bottom[0]).abs() <= 1.0 && (top[0] * 2.0 - left[0] - right[0]).abs() <= 1.0);
    assert!(top[1] < left[1] && left[1] == right[1] && left[1] < bottom[1]);
    assert_apart(&svg);
    assert_eq!(svg.matches("class=\"line\"").count(), 4);
    for text in ["succeeded 1", "failed 1", "running 1", "blocked 1", "prefers-color-scheme:dark"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn no_text_leaves_its_place() {
    let drawing = hostile();
    let svg = drawing.to_svg();
    assert!(!svg.contains("<script") && !svg.contains("]]>"), "{svg}");
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    assert_eq!(svg.matches("class=\"line\"").count(), 1, "edges to nowhere are not drawn");
    let dot = drawing.to_dot();
    assert_eq!(dot.lines().count(), 8, "nothing in it breaks a line: {dot}");
    for line in dot.lines() {
        let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert_eq!(quotes % 2, 0, "{line}");
    }
    let mermaid = drawing.to_mermaid();
    let line = mermaid.lines().find(|l| l.starts_with("  n0[")).expect("the first node");
    assert_eq!(line.matches('"').count(), 2, "{line}");
    assert_eq!(line.matches('<').count(), 1, "only the break between the lines: {line}");
    assert!(!line.contains('`') && line.ends_with("\"]:::failed"), "{line}");
    for out in [svg, dot, mermaid] {
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(steers));
    }
}

#[test]
fn long_labels_lose_their_middle() {
    assert_eq!(shorten("abcdefghij", 5), "ab…ij");
    assert_eq!(shorten("äöü", 3), "äöü");
    let svg = Drawing { nodes: vec![node(&"w".repeat(300), "echo", None)], ..Drawing::default() };
    assert!(boxes(&svg.to_svg())[0][2] < 460.0);
}

fn chain(count: u32) -> Drawing {
    let nodes = (0..count).map(|n| node(&format!("step-{n}"), "echo", None)).collect();
    let edges = (1..count).map(|n| Edge { from: n - 1, to: n }).collect();
    Drawing { title: "chain".into(), nodes, edges }
}

#[test]
fn a_chain_goes_straight_down() {
    let found = boxes(&chain(50).to_svg());
    assert!(found.iter().all(|b| b[0] == found[0][0]), "{found:?}");
    assert!(found.windows(2).all(|pair| pair[0][1] + pair[0][3] < pair[1][1]));
}

#[test]
fn a_wide_level_is_broken_into_rows_that_do_not_overlap() {
    let mut wide = chain(0);
    wide.nodes = (0..1_200).map(|n| node(&format!("n{n}"), "echo", None)).collect();
    wide.edges = (1..1_199).flat_map(|n| edges(&[(0, n), (n, 1_199)])).collect();
    let svg = wide.to_svg();
    assert_apart(&svg);
    let tallest = boxes(&svg).iter().map(|b| b[1] + b[3]).fold(0.0, f64::max);
    assert!(tallest < 7_000.0, "{tallest}");
}

#[test]
fn nothing_and_very_much_can_be_drawn() {
    assert!(Drawing::default().to_svg().ends_with("</svg>\n"));
    assert!(Drawing::default().to_mermaid().contains("flowchart"));
    // 10,000 steps with 100,000 edges, many of them long: no more than a fixed number of passes over them.
    let mut much = chain(10_000);
    much.edges = (1..10_000_u32)
        .flat_map(|to| (1..=10_u32).map(move |n| Edge { from: to.saturating_sub(n * n * 7), to }))
        .collect();
    let svg = much.to_svg();
    assert_eq!(boxes(&svg).len(), 10_000);
    assert!(svg.len() < 16 << 20, "{}", svg.len());
}
