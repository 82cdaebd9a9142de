//! Text of any length in a JSON document of bounded size.

/// Bytes that a character takes in a JSON string as we write it.
const fn json_bytes(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

/// Bytes that a text takes as a JSON string, without its quotes.
pub(super) fn json_len(text: &str) -> usize {
    text.chars().map(json_bytes).sum()
}

/// The longest beginning that takes at most `max` bytes as a JSON string, without its quotes.
pub(super) fn beginning(text: &str, max: usize) -> &str {
    &text[..fitting(text.char_indices().map(|(at, c)| (at + c.len_utf8(), c)), max).unwrap_or(0)]
}

/// The longest end that takes at most `max` bytes as a JSON string, without its quotes.
pub(super) fn end(text: &str, max: usize) -> &str {
    &text[fitting(text.char_indices().rev(), max).unwrap_or(text.len())..]
}

/// The border after the last character that fits.
fn fitting(characters: impl Iterator<Item = (usize, char)>, max: usize) -> Option<usize> {
    let mut used = 0;
    let fits = characters.take_while(|(_, c)| {
        used += json_bytes(*c);
        used <= max
    });
    fits.last().map(|(border, _)| border)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_that_are_written() {
        let mut text: String = (0..0x2100u32).filter_map(char::from_u32).collect();
        text.push('😀');
        assert_eq!(json_len(&text) + 2, serde_json::to_string(&text).unwrap().len());
    }

    #[test]
    fn cuts_lie_between_characters_and_within_the_bound() {
        let text = "a\nü\u{1}😀";
        let cuts: Vec<&str> =
            [0, 1, 2, 3, 5, 10, 11, 14, 15].map(|max| beginning(text, max)).to_vec();
        assert_eq!(cuts, ["", "a", "a", "a\n", "a\nü", "a\nü", "a\nü\u{1}", "a\nü\u{1}", text]);
        let cuts: Vec<&str> = [0, 3, 4, 9, 10, 12, 14, 15].map(|max| end(text, max)).to_vec();
        assert_eq!(cuts, ["", "", "😀", "😀", "\u{1}😀", "ü\u{1}😀", "\nü\u{1}😀", text]);
        assert_eq!((beginning("", 5), end("", 5)), ("", ""));
    }
}
