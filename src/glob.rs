//! Patterns of one path component, as glob(7) and glibc read them, on bytes: names of an image need not be UTF-8.

/// Does `name` match `pattern`? A leading dot is matched by a dot alone.
///
/// There is one way back, to the last `*`: the time is at most the product of both lengths.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') && !pattern.starts_with(b"\\.")
    {
        return false;
    }
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match single(&pattern[p..], name[n]) {
            _ if pattern.get(p) == Some(&b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(length) => (p, n) = (p + length, n + 1),
            None => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Is there something in the component that could match more than itself?
pub fn is_pattern(component: &[u8]) -> bool {
    component.iter().any(|byte| b"*?[\\".contains(byte))
}

/// The length of the pattern's first element, if it matches `byte`.
fn single(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match class(rest, byte) {
            Some((length, matched)) => matched.then_some(1 + length),
            None => (byte == b'[').then_some(1), // without its end it is a character
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The length of a class behind its `[`, and whether `byte` is in it; `None` if it does not end.
fn class(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let (mut at, mut found) = (start, false);
    loop {
        match pattern.get(at..)? {
            [b']', ..] if at > start => return Some((at + 1, found != negated)),
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [one, ..] => {
                found |= *one == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            (&b"*.conf"[..], &b"a.conf"[..], true),
            (b"*.conf", b".a.conf", false),
            (b".*", b".a", true),
            (b"**.conf", b"a.conf", true),
            (b"*.conf", b"\xff.conf", true),
            (b"?.conf", b"ab.conf", false),
            (b"a*b*c", b"axxbyyc", true),
            (b"a*b*c", b"axxbyy", false),
            (b"[a-c]x", b"bx", true),
            (b"[!a-c]x", b"bx", false),
            (b"[^a]x", b"bx", true),
            (b"[]]x", b"]x", true),
            (b"[x", b"[x", true),
            (b"\\*", b"*", true),
            (b"\\*", b"a", false),
            (b"", b"", true),
            (b"*", b"", true),
        ] {
            assert_eq!(
                matches(pattern, name),
                expected,
                "{:?} {:?}",
                pattern.escape_ascii(),
                name.escape_ascii()
            );
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        assert!(!matches(&b"*a".repeat(2000), &b"a".repeat(1999)));
        assert!(matches(&b"*a".repeat(2000), &b"a".repeat(2000)));
    }
}
