//! How deep the parser of an expression will descend, found out before it does: it recurses, and so does whoever walks
//! the tree after it, and a stack that is used up ends the process.

/// Brackets within brackets, and signs in a row.
const DEPTH_MAX: usize = 64;
/// Operators, members and indexes: each is a level of the tree, however flat a chain of them looks. 16 MiB of stack take
/// some 700 of them in a debug build.
const LINKS_MAX: usize = 200;

/// Whether an expression is shallow enough for a thread of [`super::bounded`]. Linear.
pub(crate) fn is_shallow(expr: &str) -> bool {
    brackets(expr) <= DEPTH_MAX && links(expr) <= LINKS_MAX
}

/// An upper bound of open brackets, and signs in a row. Brackets inside of strings count too, which errs to the safe
/// side.
fn brackets(expr: &str) -> usize {
    let (mut open, mut signs, mut deepest) = (0_usize, 0_usize, 0);
    for byte in expr.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'?' => (open, signs) = (open + 1, 0),
            b')' | b']' | b'}' => (open, signs) = (open.saturating_sub(1), 0),
            b'!' | b'-' => signs += 1,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => signs = 0,
        }
        deepest = deepest.max(open + signs);
    }
    deepest
}

/// What may link two parts of an expression, counted outside of strings.
fn links(expr: &str) -> usize {
    let bytes = expr.as_bytes();
    let (mut at, mut links, mut was_link) = (0, 0, false);
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'"' || byte == b'\'' {
            at = after_string(bytes, at);
            was_link = false;
            continue;
        }
        let is_link = b"+-*/%<>=!&|?.[".contains(&byte);
        // `&&`, `<=`: one. `in` is one too.
        links += usize::from(is_link && !(was_link && b"=&|".contains(&byte)));
        links += usize::from(is_word_in(bytes, at));
        was_link = is_link;
        at += 1;
    }
    links
}

fn is_word_in(bytes: &[u8], at: usize) -> bool {
    let is_name = |place: Option<usize>| {
        place
            .and_then(|place| bytes.get(place))
            .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
    };
    bytes[at..].starts_with(b"in") && !is_name(at.checked_sub(1)) && !is_name(Some(at + 2))
}

/// Where a string that begins at `at` is over. One without an end is none: the parser refuses it, but what follows is
/// counted all the same.
fn after_string(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let before = |n: usize| at.checked_sub(n).map(|place| bytes[place].to_ascii_lowercase());
    let is_raw = before(1) == Some(b'r') || (before(1) == Some(b'b') && before(2) == Some(b'r'));
    let is_long = bytes[at..].starts_with(&[quote; 3]);
    let (mark, mut place) = if is_long { (3, at + 3) } else { (1, at + 1) };
    while place < bytes.len() {
        match bytes[place] {
            b'\\' if !is_raw => place += 2,
            b'\n' | b'\r' if !is_long => break,
            byte if byte == quote && bytes[place..].starts_with(&[quote; 3][..mark]) => {
                return place + mark;
            }
            _ => place += 1,
        }
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_and_strings_are_not() {
        for (expr, expected) in [
            ("1 + 1", 1),
            ("a.b.c[0]", 3),
            ("a && b || c", 2),
            ("a <= b", 1),
            ("x in list ? 1 : 2", 2),
            ("index + inner", 1),
            ("'a.b.c' + \"d-e\"", 1),
            (r"'it\'s.a' + 'b.c'", 1),
            (r"r'\' + 1", 1),
            ("'''a.'b'.c''' + 1", 1),
            ("'open.and.never.closed", 3),
        ] {
            assert_eq!(links(expr), expected, "{expr}");
        }
    }

    /// Goal: whatever is let through can be parsed and walked on a checking thread; also in a debug build, whose frames
    /// are the largest.
    #[test]
    fn the_deepest_that_are_let_through_fit_the_stack() {
        let chain = |link: &str, most: usize| {
            let mut expr = String::from("input");
            while is_shallow(&format!("{expr}{link}")) && expr.len() < most {
                expr.push_str(link);
            }
            expr
        };
        let brackets = format!("{}1{}", "(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
        let mut deepest: Vec<String> =
            [" + 1", ".a", "[0]", " && true", " || true", " == 1", " < 1", " in input", " % 2"]
                .iter()
                .map(|link| chain(link, super::super::EXPR_BYTES_MAX - 10))
                .collect();
        deepest.push(format!("{} + {brackets}", chain(" + 1", 700)));
        deepest.push(brackets);
        for expr in deepest {
            assert!(is_shallow(&expr) || expr.contains("(("), "{expr}");
            let work = move || {
                super::super::names::check(&expr, false).map(drop).map_err(|e| e.to_string())
            };
            let thread = std::thread::Builder::new().stack_size(super::super::bounded::STACK_BYTES);
            let checked = thread.spawn(work).unwrap().join().unwrap();
            assert!(
                checked.is_ok() || checked.clone().is_err_and(|e| !e.contains("parse")),
                "{checked:?}"
            );
        }
        assert!(!is_shallow(&vec!["1"; 300].join("+")));
        assert!(!is_shallow(&"(".repeat(100)));
    }
}
