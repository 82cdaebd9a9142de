//! Texts of people and programs, made safe for each format.

use super::put;

/// Without what would break a line, steer a terminal or turn the direction of writing.
pub(super) fn clean(text: &str) -> String {
    let harmless = |c: char| {
        let steers = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}');
        if steers { '\u{fffd}' } else { c }
    };
    text.chars().map(harmless).collect()
}

/// At most `max` characters; a longer text loses its middle, because ids often differ at their ends.
pub(super) fn shorten(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let (head, tail) = (max / 2, max - max / 2 - 1);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// Inside a quoted string of DOT. Graphviz reads entities and backslashes there.
pub(super) fn dot(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            _ => out.push(c),
        }
    }
    out
}

/// Inside a quoted label of Mermaid: everything that means something to it, or to the HTML that it makes, by number.
pub(super) fn mermaid(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | ',' | '…') {
            out.push(c);
        } else {
            put(&mut out, format_args!("#{};", u32::from(c)));
        }
    }
    out
}

/// Inside an element or an attribute of XML.
pub(super) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// About how wide a text is, in units of the font's size. Wide scripts count double.
pub(super) fn width_em(text: &str) -> f64 {
    let wide = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' | '(' | ')' => 0.36,
        'm' | 'w' | 'M' | 'W' | '@' => 0.95,
        'A'..='Z' => 0.72,
        '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' => 1.1,
        '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' => 1.1,
        '\u{1f000}'..='\u{3ffff}' => 1.3,
        _ => 0.6,
    };
    text.chars().map(wide).sum()
}
