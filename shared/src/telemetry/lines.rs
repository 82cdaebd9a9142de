//! One event, one line: whatever a logged value holds, it cannot start a line of its own or drive a terminal.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// How control characters of an event are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As JSON does: `\u009b`. The formatter has done so with the ASCII ones.
    Json,
    /// As `\x1b`; colours that the formatter itself made are let through.
    Terminal,
    /// As `\x1b`.
    Text,
}

/// Makes writers to standard error, or elsewhere in tests, that escape.
#[derive(Debug, Clone)]
pub(super) struct Lines<M> {
    pub escape: Escape,
    pub to: M,
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;
    fn make_writer(&'a self) -> Self::Writer {
        Line { escape: self.escape, to: self.to.make_writer() }
    }
}

/// Writes one event. The formatter hands over a whole event with its newline in one call.
pub(super) struct Line<W> {
    escape: Escape,
    to: W,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        if body.chars().any(is_unsafe) {
            self.to.write_all(escaped(body, self.escape).as_bytes())?;
            self.to.write_all(b"\n")?;
        } else {
            self.to.write_all(event)?;
        }
        Ok(event.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Control characters (C0, DEL, C1), and what else some readers take for the end of a line, or use to
/// show text in another order than it has.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(body: &str, escape: Escape) -> String {
    let mut out = String::with_capacity(body.len() + 16);
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        if escape == Escape::Terminal
            && let Some(length) = colour_length(rest)
        {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            _ if !is_unsafe(c) => out.push(c),
            _ if escape == Escape::Json => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

/// Length of a colour sequence (`ESC [ digits m`) at the start of `text`.
fn colour_length(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    let digits = body.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
    (digits <= 12 && body.as_bytes().get(digits) == Some(&b'm')).then_some(2 + digits + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(escape: Escape, event: &str) -> String {
        let mut to = Vec::new();
        Line { escape, to: &mut to }.write_all(event.as_bytes()).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_value_cannot_start_a_line_or_drive_a_terminal() {
        let evil = "job\r\n2026-01-01 INFO admin login ok \x1b[2J \u{9b}1m \0 \u{2028}\u{202e}x\n";
        for escape in [Escape::Json, Escape::Terminal, Escape::Text] {
            let line = written(escape, evil);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let body = line.trim_end_matches('\n');
            assert!(!body.chars().any(is_unsafe), "{line:?}");
        }
    }

    #[test]
    fn colours_pass_on_a_terminal_only() {
        let event = "\x1b[32m INFO\x1b[0m hello\n";
        assert_eq!(written(Escape::Terminal, event), event);
        assert_eq!(written(Escape::Text, event), "\\x1b[32m INFO\\x1b[0m hello\n");
    }

    #[test]
    fn escaped_json_is_still_json() {
        let line = written(Escape::Json, "{\"a\":\"x\u{9b}\u{2028}y\"}\n");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["a"], "x\u{9b}\u{2028}y");
        assert!(line.is_ascii());
    }
}
