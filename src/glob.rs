//! One component of a path pattern, as fnmatch(3) with `FNM_PERIOD` in the C locale, over bytes.

/// Has it anything but literal bytes?
pub fn is_pattern(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| b"*?[\\".contains(byte))
}

/// Does a file name match? A leading dot is matched by a dot alone.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.starts_with(b".") && !pattern.starts_with(b".") && !pattern.starts_with(b"\\.") {
        return false;
    }
    // Where the last `*` stands, and from where in the name it is to match more: with one of them to go back to, the
    // time is the product of the lengths at worst.
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(from) {
        match step(pattern.get(at..).unwrap_or_default(), byte) {
            Step::Star => {
                star = Some((at + 1, from));
                at += 1;
            }
            Step::Takes(length) => {
                at += length;
                from += 1;
            }
            Step::Fails => match star {
                Some((after, start)) => {
                    star = Some((after, start + 1));
                    (at, from) = (after, start + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

enum Step {
    Star,
    /// One byte of the name, by so many of the pattern.
    Takes(usize),
    Fails,
}

fn step(pattern: &[u8], byte: u8) -> Step {
    match pattern {
        [b'*', ..] => Step::Star,
        [b'?', ..] => Step::Takes(1),
        [b'[', rest @ ..] => match set(rest, byte) {
            Some((true, length)) => Step::Takes(length + 1),
            Some((false, _)) => Step::Fails,
            None if byte == b'[' => Step::Takes(1), // without its end it is no set
            None => Step::Fails,
        },
        [b'\\', quoted, ..] if *quoted == byte => Step::Takes(2),
        [b'\\', ..] => Step::Fails,
        [literal, ..] if *literal == byte => Step::Takes(1),
        _ => Step::Fails,
    }
}

/// Is the byte in the set behind a `[`, and how long is that?
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let (start, mut found) = (at, false);
    loop {
        match pattern.get(at..)? {
            [b']', ..] if at > start => return Some((found != negated, at + 1)),
            [b'[', b':', rest @ ..] if rest.windows(2).any(|pair| pair == b":]") => {
                let length = rest.windows(2).position(|pair| pair == b":]")?;
                found |= in_class(rest.get(..length)?, byte);
                at += length + 4;
            }
            rest => {
                let (low, length) = literal(rest)?;
                at += length;
                match pattern.get(at..)? {
                    [b'-', next, ..] if *next != b']' => {
                        let (high, length) = literal(pattern.get(at + 1..)?)?;
                        found |= (low..=high).contains(&byte);
                        at += 1 + length;
                    }
                    _ => found |= low == byte,
                }
            }
        }
    }
}

fn literal(pattern: &[u8]) -> Option<(u8, usize)> {
    match pattern {
        [b'\\', quoted, ..] => Some((*quoted, 2)),
        [byte, ..] => Some((*byte, 1)),
        [] => None,
    }
}

fn in_class(name: &[u8], byte: u8) -> bool {
    match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"digit" => byte.is_ascii_digit(),
        b"lower" => byte.is_ascii_lowercase(),
        b"upper" => byte.is_ascii_uppercase(),
        b"punct" => byte.is_ascii_punctuation(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"blank" => matches!(byte, b' ' | b'\t'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_the_shell_says() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", false),
            (".*conf", ".conf", true),
            ("*.conf", "a.conf~", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "a", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[[:digit:]_]*", "7up", true),
            ("[[:digit:]_]*", "up", false),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("*", "", true),
            ("********************a", &"b".repeat(200), false),
        ] {
            let matched = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(matched, expected, "{pattern} {name}");
        }
    }
}
