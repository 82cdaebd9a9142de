//! Pictures as SVG: panels with lines, beside each other. The colours follow those of whoever looks: light or dark.

use std::fmt::Write as _;

/// One panel.
#[derive(Debug)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// What the axes show, with units.
    pub axes: [&'static str; 2],
    /// What they reach to; they begin at 0.
    pub most: [f64; 2],
    /// What is written along the first axis, and where; round numbers where nothing is given.
    pub marks: Vec<(f64, String)>,
    /// From where to where, of the first axis, something is marked.
    pub shaded: Option<(f64, f64)>,
    /// In the order of the key.
    pub lines: Vec<Line>,
}

/// A line in a panel.
#[derive(Debug)]
pub struct Line {
    /// Of several with one name the first is named.
    pub name: String,
    /// Its colour.
    pub tone: Tone,
    /// In the units of the axes.
    pub points: Vec<[f64; 2]>,
}

/// What a line is beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// What is looked at.
    First,
    /// What it is compared with.
    Second,
    /// And more.
    Third,
    /// And more.
    Fourth,
    /// And more.
    Fifth,
    /// And more.
    Sixth,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
            Self::Fourth => "fourth",
            Self::Fifth => "fifth",
            Self::Sixth => "sixth",
        }
    }

    /// One after the other; from the beginning again where there are no more.
    pub const fn nth(n: usize) -> Self {
        const ALL: [Tone; 6] =
            [Tone::First, Tone::Second, Tone::Third, Tone::Fourth, Tone::Fifth, Tone::Sixth];
        ALL[n % ALL.len()]
    }
}

/// Of a panel, in px.
pub const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Around its plot.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 74.0;
const BOTTOM: f64 = 44.0;
/// Between lines of the key.
const KEY_STEP: f64 = 17.0;
/// Lines of the key below each other; more stand beside them.
const KEY_LINES: usize = 3;
const KEY_WIDTH: f64 = 120.0;
/// About so many steps has an axis.
const STEPS: f64 = 5.0;

const STYLE: &str = "
svg { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }
.ground { fill: #ffffff; } text { fill: #1f2328; } .soft { fill: #59636e; }
.title { font-weight: 600; font-size: 13px; } .grid { stroke: #d1d9e0; } .axis { stroke: #818b98; }
.shade { fill: #818b98; fill-opacity: 0.22; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.first { stroke: #0969da; } .second { stroke: #bc4c00; } .third { stroke: #1a7f37; }
.fourth { stroke: #8250df; } .fifth { stroke: #bf3989; } .sixth { stroke: #7d4e00; }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117; } text { fill: #f0f6fc; } .soft { fill: #9198a1; } .grid { stroke: #2f353d; }
.axis { stroke: #656c76; } .shade { fill: #9198a1; } .first { stroke: #4493f8; } .second { stroke: #f0883e; }
.third { stroke: #3fb950; } .fourth { stroke: #ab7df8; } .fifth { stroke: #db61a2; } .sixth { stroke: #d29922; }
}
";

/// All of them as one picture. `about` says what it shows to whoever cannot see it.
pub fn draw(about: &str, panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n<rect class=\"ground\" width=\"{width}\" height=\"{HEIGHT}\"/>\n",
        escaped(about)
    );
    for (place, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({} 0)\">", WIDTH * place as f64);
        panel.draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let text = |out: &mut String, class: &str, [x, y]: [f64; 2], anchor: &str, text: &str| {
            let text = escaped(text);
            let _ = writeln!(
                out,
                "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
            );
        };
        text(out, "title", [LEFT, 20.0], "start", &self.title);
        if let Some((from, to)) = self.shaded {
            let ([x, y], [end, bottom]) = (self.at([from, self.most[1]]), self.at([to, 0.0]));
            let (width, height) = (end - x, bottom - y);
            let _ = writeln!(
                out,
                "<rect class=\"shade\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
        for value in ticks(self.most[1]) {
            let ([x, y], [end, _]) = (self.at([0.0, value]), self.at([self.most[0], value]));
            rule(out, "grid", [x, y], [end, y]);
            text(out, "soft", [x - 7.0, y + 4.0], "end", &short(value));
        }
        let round = || ticks(self.most[0]).into_iter().map(|value| (value, short(value))).collect();
        let marks = if self.marks.is_empty() { round() } else { self.marks.clone() };
        for (value, mark) in &marks {
            let [x, y] = self.at([*value, 0.0]);
            rule(out, "axis", [x, y], [x, y + 4.0]);
            text(out, "soft", [x, y + 17.0], "middle", mark);
        }
        let (origin, end) = (self.at([0.0, 0.0]), self.at([self.most[0], 0.0]));
        rule(out, "axis", origin, end);
        text(out, "soft", [end[0], HEIGHT - 8.0], "end", self.axes[0]);
        text(out, "soft", [LEFT, TOP - 8.0], "end", self.axes[1]);
        let mut named: Vec<&str> = Vec::new();
        for line in &self.lines {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|point| self.at(*point))
                .map(|[x, y]| format!("{x:.1},{y:.1}"))
                .collect();
            let (class, points) = (line.tone.class(), points.join(" "));
            let _ = writeln!(out, "<polyline class=\"line {class}\" points=\"{points}\"/>");
            if !named.contains(&line.name.as_str()) {
                let (row, column) = (named.len() % KEY_LINES, named.len() / KEY_LINES);
                let y = 20.0 + KEY_STEP * (row + 1) as f64;
                let x = LEFT + KEY_WIDTH * column as f64;
                rule(out, &format!("line {class}"), [x, y - 4.0], [x + 18.0, y - 4.0]);
                text(out, "soft", [x + 24.0, y], "start", &line.name);
                named.push(&line.name);
            }
        }
    }

    /// Where a point of the axes is.
    fn at(&self, point: [f64; 2]) -> [f64; 2] {
        let part = |axis: usize| (point[axis] / self.most[axis]).clamp(0.0, 1.0);
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        [LEFT + part(0) * width, TOP + (1.0 - part(1)) * height]
    }
}

fn rule(out: &mut String, class: &str, from: [f64; 2], to: [f64; 2]) {
    let ([x1, y1], [x2, y2]) = (from, to);
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

/// Round values from 0 to at most this one.
fn ticks(most: f64) -> Vec<f64> {
    let about = most / STEPS;
    let scale = 10_f64.powf(about.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * scale);
    let step = step.into_iter().find(|step| *step >= about * 0.999).unwrap_or(most);
    let count = (most / step * 1.000_001).floor() as u32;
    (0..=count).map(|n| f64::from(n) * step).collect()
}

fn short(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// With commas between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|part| std::str::from_utf8(part).expect("digits"))
        .collect();
    parts.join(",")
}

/// As text of SVG or HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_few_round_steps() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(130.0), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(4.2), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(900), "900");
        assert_eq!(grouped(20_000), "20,000");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }

    #[test]
    fn a_panel_shows_its_lines_where_they_are_and_names_each_once() {
        let line = |points| Line { name: "a < b".into(), tone: Tone::First, points };
        let panel = Panel {
            title: "t".into(),
            axes: ["s", "jobs"],
            most: [10.0, 100.0],
            marks: Vec::new(),
            shaded: Some((0.0, 5.0)),
            lines: vec![line(vec![[0.0, 0.0], [10.0, 100.0]]), line(vec![[0.0, 50.0]])],
        };
        let drawn = draw("about", &[panel]);
        assert!(drawn.contains("points=\"58.0,256.0 404.0,74.0\""), "{drawn}");
        assert!(drawn.contains("class=\"shade\" x=\"58.0\" y=\"74.0\" width=\"173.0\""), "{drawn}");
        assert_eq!(drawn.matches("a &lt; b").count(), 1, "{drawn}");
    }
}
