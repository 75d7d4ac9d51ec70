//! The strings of a cache file: sorted by their ends, so that one which ends another shares its bytes.

use std::cmp::Ordering;

use memchr::{memchr, memrchr};

use super::MAX_STRING;

/// Appends strings to a file as `stringtable_finalize` does (elf/stringtable.c), and tells the place of each in the file.
///
/// Some may lie in `old`, the strings of another cache. Those are in order already, and only the others are sorted.
pub(super) fn append<'a>(
    file: &mut Vec<u8>,
    old: &'a [u8],
    strings: impl Iterator<Item = &'a [u8]> + Clone,
) -> Option<Vec<u32>> {
    let mut old = Old::new(old);
    let mut known: Vec<Option<usize>> = strings.clone().map(|string| old.find(string)).collect();
    // The end of a line that nobody uses is as good as new.
    known.iter_mut().for_each(|place| *place = place.filter(|at| old.is_used(*at)));
    let new = strings.enumerate().zip(&known).filter(|(_, known)| known.is_none());
    let mut new: Vec<_> = new.map(|(new, _)| new).collect();
    new.sort_unstable_by(|left, right| from_the_end(left.1, right.1));
    let (mut new, mut lines) = (new.into_iter().peekable(), old.lines().peekable());
    let (mut table, mut moves) = (Table { file, last: None }, Moves::default());
    let mut places = vec![0; known.len()];
    let mut before = (0, &[][..]);
    loop {
        let is_before = |(_, new): &(_, &[u8])| {
            lines.peek().is_none_or(|(_, old)| from_the_end(new, old).is_lt())
        };
        if let Some((index, string)) = new.next_if(is_before) {
            let place = table.put(string)?;
            moves.share(before, string, place)?;
            *places.get_mut(index)? = place;
        } else if let Some((start, line)) = lines.next() {
            moves.push(start, table.put(line)?)?;
            before = (start, line);
        } else {
            break;
        }
    }
    for (place, known) in places.iter_mut().zip(known) {
        if let Some(at) = known {
            *place = moves.apply(at)?;
        }
    }
    Some(places)
}

/// Descending by the bytes from the end; of two of which one ends the other, the longer first.
fn from_the_end(left: &[u8], right: &[u8]) -> Ordering {
    right.iter().rev().cmp(left.iter().rev())
}

/// The strings of another cache, and which lines of them are used.
struct Old<'a> {
    bytes: &'a [u8],
    /// A bit for each place where a line may start.
    used: Vec<u64>,
}

impl<'a> Old<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: vec![0; bytes.len() / 64 + 1] }
    }

    /// Where a string lies, if it is in here. If it is a line, that is used.
    fn find(&mut self, string: &[u8]) -> Option<usize> {
        let at = string.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
        if self.bytes.get(at + string.len()) != Some(&0) {
            return None;
        }
        if at.checked_sub(1).is_none_or(|before| self.bytes.get(before) == Some(&0)) {
            self.used.get_mut(at / 64).into_iter().for_each(|bits| *bits |= 1 << (at % 64));
        }
        Some(at)
    }

    /// Is the line used in which a place is? Not if it starts farther off than a path is long, for that would have to be
    /// looked for, again and again.
    fn is_used(&self, at: usize) -> bool {
        let first = at.saturating_sub(MAX_STRING);
        let nul = self.bytes.get(first..at).and_then(|before| memrchr(0, before));
        match nul {
            Some(nul) => self.starts(first + nul + 1),
            None => first == 0 && self.starts(0),
        }
    }

    fn starts(&self, line: usize) -> bool {
        self.used.get(line / 64).is_some_and(|bits| bits >> (line % 64) & 1 != 0)
    }

    /// The lines that are used, and where they start.
    fn lines(&self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut next = 0;
        let lines = std::iter::from_fn(move || {
            let (start, rest) = (next, self.bytes.get(next..)?);
            let end = memchr(0, rest)?;
            next += end + 1;
            Some((start, rest.get(..end)?))
        });
        lines.filter(|(start, _)| self.starts(*start))
    }
}

/// The strings at the end of a file.
struct Table<'a> {
    file: &'a mut Vec<u8>,
    /// Where the last string starts that was put there.
    last: Option<usize>,
}

impl Table<'_> {
    /// Puts a string behind all others, unless it ends the last of them, and tells its place.
    fn put(&mut self, string: &[u8]) -> Option<u32> {
        let last = self.last.and_then(|last| self.file.get(last..)?.strip_suffix(b"\0"));
        if !last.is_some_and(|last| last.ends_with(string)) {
            self.last = Some(self.file.len());
            self.file.extend_from_slice(string);
            self.file.push(0);
        }
        u32::try_from(self.file.len() - 1 - string.len()).ok()
    }
}

/// Where old strings are now: those from a place on, up to the next that is in here, moved as far as it did.
#[derive(Default)]
struct Moves(Vec<(u32, u32)>);

impl Moves {
    fn push(&mut self, old: usize, new: u32) -> Option<()> {
        let old = u32::try_from(old).ok()?;
        let is_far = |(from, to): &(u32, u32)| to.wrapping_sub(*from) != new.wrapping_sub(old);
        if self.0.last().is_none_or(is_far) {
            self.0.push((old, new));
        }
        Some(())
    }

    /// What a new string that was put behind a line has in common with its end is shared with the new one from now on.
    fn share(&mut self, (start, line): (usize, &[u8]), string: &[u8], place: u32) -> Option<()> {
        let pairs = line.iter().rev().zip(string.iter().rev());
        let common = pairs.take_while(|(left, right)| left == right).count();
        let from = u32::try_from(string.len() - common).ok()?;
        if common == 0 { Some(()) } else { self.push(start + line.len() - common, place + from) }
    }

    fn apply(&self, old: usize) -> Option<u32> {
        let old = u32::try_from(old).ok()?;
        let next = self.0.partition_point(|(from, _)| *from <= old);
        let (from, to) = self.0.get(next.checked_sub(1)?)?;
        to.checked_add(old - from)
    }
}
