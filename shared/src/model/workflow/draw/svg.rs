//! The picture, written as SVG.

use super::layout::{Layout, lay_out};
use super::text::{clean, shorten, xml};
use super::{Colours, Drawing, LABEL_MAX, Node, StepState, put};

/// Around the picture, in pixels.
const MARGIN: f64 = 24.0;
/// Above the picture: title and legend.
const HEAD: f64 = 64.0;
/// Narrowest picture, so that the legend has room.
const WIDTH_MIN: f64 = 420.0;
/// More lines than this are drawn as one path without arrow heads.
const LINES_SINGLE: usize = 3_000;

const FONT: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif";

pub(super) fn render(drawing: &Drawing) -> String {
    let layout = lay_out(drawing);
    let legend = legend(drawing);
    let width = (layout.width.max(legend.1).max(WIDTH_MIN) + 2.0 * MARGIN).ceil();
    let height = (layout.height + HEAD + 2.0 * MARGIN).ceil();
    let title = xml(&shorten(&clean(&drawing.title), 120));
    let mut out = String::with_capacity(1_024 * (drawing.nodes.len() + 4));
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"{FONT}\">\n\
             <title>{title}</title>\n<style>{}</style>\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7.5\" refY=\"4\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto\"><path class=\"tip\" d=\"M0 0.8 8 4 0 7.2z\"/></marker></defs>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{title}</text>\n{}",
            style(layout.font),
            MARGIN + 16.0,
            legend.0,
        ),
    );
    let left = (MARGIN + (width - 2.0 * MARGIN - layout.width) / 2.0).round();
    put(&mut out, format_args!("<g transform=\"translate({left} {})\">\n", MARGIN + HEAD));
    lines(&mut out, &layout);
    for (node, centre) in drawing.nodes.iter().zip(&layout.centres) {
        draw_node(&mut out, node, *centre, &layout);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// The colours of each state; a dark set where the surroundings are dark.
fn style(font: f64) -> String {
    let mut bright = String::from(
        ".ground{fill:#fff}.title{font-size:18px;font-weight:600;fill:#1c2128}\
         text{fill:#1c2128}.kind,.key{fill:#57606a}.line{fill:none;stroke:#8c959f;stroke-width:1.2}\
         .tip{fill:#8c959f}",
    );
    let mut dark = String::from(
        ".ground{fill:#0d1117}text,.title{fill:#e6edf3}.kind,.key{fill:#9ea7b3}\
         .line{stroke:#6e7681}.tip{fill:#6e7681}",
    );
    let states = StepState::ALL.into_iter().map(Some).chain([None]);
    for state in states {
        let (class, colours) = (class(state), Colours::of(state));
        put(&mut bright, format_args!(".{class}{{fill:{};stroke:{}}}", colours.fill, colours.line));
        put(
            &mut dark,
            format_args!(".{class}{{fill:{};stroke:{}}}", colours.dark_fill, colours.dark_line),
        );
    }
    put(
        &mut bright,
        format_args!(
            ".skipped{{stroke-dasharray:4 3}}.label{{font-size:{font}px}}.kind{{font-size:{}px}}\
             .key{{font-size:12px}}.label,.kind{{text-anchor:middle}}",
            font - 2.0
        ),
    );
    format!("{bright}@media(prefers-color-scheme:dark){{{dark}}}")
}

const fn class(state: Option<StepState>) -> &'static str {
    match state {
        Some(state) => state.as_str(),
        None => "plain",
    }
}

/// The states that occur and their counts, and how wide that is.
fn legend(drawing: &Drawing) -> (String, f64) {
    let (mut out, mut x) = (String::new(), MARGIN);
    let y = MARGIN + 30.0;
    for (state, count) in drawing.counts() {
        let text = format!("{} {count}", state.as_str());
        put(
            &mut out,
            format_args!(
                "<rect class=\"{}\" x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" rx=\"3\"/>\
                 <text class=\"key\" x=\"{}\" y=\"{}\">{text}</text>\n",
                class(Some(state)),
                x + 20.0,
                y + 11.5,
            ),
        );
        x += 40.0 + (text.len() as f64 * 7.0).round();
    }
    if out.is_empty() {
        let count = drawing.nodes.len();
        let noun = if count == 1 { "step" } else { "steps" };
        put(
            &mut out,
            format_args!(
                "<text class=\"key\" x=\"{x}\" y=\"{}\">{count} {noun}</text>\n",
                y + 11.5
            ),
        );
    }
    (out, x - MARGIN)
}

fn draw_node(out: &mut String, node: &Node, (x, y): (f64, f64), layout: &Layout) {
    let (w, h) = (layout.box_width, layout.box_height);
    let label = xml(&shorten(&clean(&node.label), LABEL_MAX));
    put(
        out,
        format_args!(
            "<g><title>{}</title><rect class=\"{}\" x=\"{:.0}\" y=\"{:.0}\" width=\"{w}\" height=\"{h}\" \
             rx=\"{}\"/>",
            xml(&node.tooltip()),
            class(node.state),
            x - w / 2.0,
            y - h / 2.0,
            if layout.dense { 4 } else { 7 },
        ),
    );
    let second = node.second_line();
    if layout.dense || second.is_empty() {
        let base = y + layout.font * 0.36;
        put(out, format_args!("<text class=\"label\" x=\"{x:.0}\" y=\"{base:.0}\">{label}</text>"));
    } else {
        put(
            out,
            format_args!(
                "<text class=\"label\" x=\"{x:.0}\" y=\"{:.0}\">{label}</text>\
                 <text class=\"kind\" x=\"{x:.0}\" y=\"{:.0}\">{}</text>",
                y - 3.0,
                y + 13.0,
                xml(&second),
            ),
        );
    }
    out.push_str("</g>\n");
}

fn lines(out: &mut String, layout: &Layout) {
    if layout.lines.len() <= LINES_SINGLE {
        for line in &layout.lines {
            out.push_str("<path class=\"line\" marker-end=\"url(#tip)\" d=\"");
            curve(out, line, layout.sideways);
            out.push_str("\"/>\n");
        }
        return;
    }
    out.push_str("<path class=\"line\" stroke-opacity=\"0.5\" d=\"");
    for line in &layout.lines {
        for (at, (x, y)) in line.iter().enumerate() {
            put(out, format_args!("{}{x:.0} {y:.0}", if at == 0 { 'M' } else { 'L' }));
        }
    }
    out.push_str("\"/>\n");
}

/// Leaves and enters levels at right angles: an S from one to the next, straight through those that it passes.
fn curve(out: &mut String, line: &[(f64, f64)], sideways: bool) {
    let Some((x, y)) = line.first() else { return };
    put(out, format_args!("M{x:.0} {y:.0}"));
    for (at, pair) in line.windows(2).enumerate() {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        if at % 2 == 1 {
            put(out, format_args!("L{bx:.0} {by:.0}"));
        } else if sideways {
            let middle = f64::midpoint(ax, bx);
            put(out, format_args!("C{middle:.0} {ay:.0} {middle:.0} {by:.0} {bx:.0} {by:.0}"));
        } else {
            let middle = f64::midpoint(ay, by);
            put(out, format_args!("C{ax:.0} {middle:.0} {bx:.0} {middle:.0} {bx:.0} {by:.0}"));
        }
    }
}
