//! What programs have instead of text: strings, each with a NUL behind it.

use std::io::{self, Read};

use crate::byte;

/// Longer strings may be cut.
const LONGEST: usize = 4096;

/// Calls `each` with all of a source, in pieces that end with the end of a string, and the place of each piece.
pub(super) fn pieces(mut source: impl Read, mut each: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let mut window = [0; 2 * LONGEST];
    let (mut place, mut filled) = (0, 0);
    loop {
        let count = match source.read(&mut window[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        filled += count;
        let found = &window[..filled];
        let whole = match byte::last(0, found) {
            _ if count == 0 => filled,
            Some(nul) => nul + 1,
            None if filled > LONGEST => filled,
            None => 0,
        };
        each(place, &found[..whole]);
        if count == 0 {
            return Ok(());
        }
        window.copy_within(whole..filled, 0);
        place += whole;
        filled -= whole;
    }
}

/// The places of a byte.
pub(super) fn places(byte: u8, piece: &[u8]) -> impl Iterator<Item = usize> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let place = next + byte::first(byte, piece.get(next..)?)?;
        next = place + 1;
        Some(place)
    })
}

/// The string that starts at a place, if one does.
pub(super) fn at(piece: &[u8], place: usize) -> Option<&[u8]> {
    let (before, string) = piece.split_at_checked(place)?;
    let starts = before.last().is_none_or(|last| *last == 0);
    starts.then(|| byte::first(0, string).and_then(|end| string.get(..end)).unwrap_or(string))
}

/// The string whose last byte is at a place, and its start, if one ends there.
pub(super) fn until(piece: &[u8], place: usize) -> Option<(usize, &[u8])> {
    let (string, behind) = piece.split_at_checked(place + 1)?;
    let ends = behind.first().is_none_or(|first| *first == 0);
    let start = || byte::last(0, string).map_or(0, |nul| nul + 1);
    ends.then(start).and_then(|start| Some((start, string.get(start..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As little at once as a source may give.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    #[test]
    fn strings_are_whole_however_they_come() {
        let long = [b'x'; LONGEST];
        let parts: [&[u8]; 7] = [b"first", b"", &long, b"/", &long, &long.repeat(5), b"last"];
        for end in [&b""[..], b"\0"] {
            let text = [parts.join(&0), end.to_vec()].concat();
            for at_once in [1, 7, LONGEST, 2 * LONGEST, usize::MAX] {
                let (mut found, mut ends) = (Vec::new(), Vec::new());
                let each = |place, piece: &[u8]| {
                    assert_eq!(place, found.len());
                    found.extend_from_slice(piece);
                    ends.push(found.len());
                };
                pieces(Slow(&text, at_once), each).unwrap();
                assert!(found == text, "{at_once}");
                let mut cut = ends.iter().filter(|end| **end > 0 && text[*end - 1] != 0);
                let longest = text.len() - 6 - 5 * LONGEST..=text.len();
                assert!(cut.all(|end| longest.contains(end)), "{at_once}: {ends:?}");
            }
        }
    }

    #[test]
    fn strings_are_found_by_where_they_start_and_end() {
        let piece = b"ab\0c\0\0de";
        let starts = [0, 1, 3, 5, 6, 8, 9].map(|place| at(piece, place));
        let [ab, c, none, de] = [&b"ab"[..], b"c", b"", b"de"].map(Some);
        assert_eq!(starts, [ab, None, c, none, de, None, None]);
        let ends = [0, 1, 3, 6, 7, 8].map(|place| until(piece, place));
        assert_eq!(
            ends,
            [None, ab.map(|it| (0, it)), c.map(|it| (3, it)), None, de.map(|it| (6, it)), None]
        );
        assert_eq!(places(0, piece).collect::<Vec<_>>(), [2, 4, 5]);
    }
}
