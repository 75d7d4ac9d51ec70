//! The strings of a cache file: lines that end with NUL, sorted by their ends, so that a string which ends another is a part of
//! its line.

use std::cmp::Ordering;
use std::ops::Range;

use anyhow::{Context, Result};

use super::patch::Patch;
use super::{MAX_STRING, byte};

/// Appends the used lines of another cache and new strings to a file, as `stringtable_finalize` does (elf/stringtable.c).
///
/// Returns where the old ones are now, and the place of each new one in the file. The old ones are in order already: runs of
/// them are kept as they are, and the place of a new one among them is found by bisection.
pub(super) fn append(
    file: &mut Patch,
    old: &Lines<'_>,
    strings: &[&[u8]],
) -> Result<(Moves, Vec<u32>)> {
    let mut sorted: Vec<_> = strings.iter().copied().enumerate().collect();
    sorted.sort_unstable_by(|left, right| from_the_end(left.1, right.1));
    let mut table = Table { file, old, last: None, before: 0..0, moves: Moves::default() };
    let mut places = vec![0; strings.len()];
    let (is_used_up, mut from) = (old.is_used_up(), 0);
    for (index, string) in sorted {
        let place = old.place(from, string).context("strings of the old cache are no lines")?;
        table.keep(from..place, is_used_up)?;
        from = place;
        *places.get_mut(index).context("find string")? = table.insert(string)?;
    }
    table.keep(from..old.bytes.len(), is_used_up)?;
    let mut moves = table.moves;
    moves.index(old.start + old.bytes.len())?;
    Ok((moves, places))
}

/// Descending by the bytes from the end; of two of which one ends the other, the longer first.
fn from_the_end(left: &[u8], right: &[u8]) -> Ordering {
    right.iter().rev().cmp(left.iter().rev())
}

/// The strings of another cache, and which lines of them are used.
#[derive(Debug, Default)]
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    /// Where they are in their file.
    start: usize,
    /// A bit for each place where a line may start.
    used: Vec<u64>,
    /// How many lines are used.
    count: usize,
}

impl<'a> Lines<'a> {
    /// The lines that start somewhere in a file.
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, start, used: vec![0; bytes.len() / 64 + 1], count: 0 }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Uses the line that starts at a place of the file, if one does.
    #[inline]
    pub(super) fn take(&mut self, at: usize) -> bool {
        let Some(line) = at.checked_sub(self.start) else { return false };
        let before = line.checked_sub(1).map_or(Some(&0), |before| self.bytes.get(before));
        let starts = before == Some(&0) && line < self.bytes.len();
        if starts && let Some(bits) = self.used.get_mut(line / 64) {
            self.count += usize::from(*bits >> (line % 64) & 1 == 0);
            *bits |= 1 << (line % 64);
        }
        starts
    }

    /// Is the line used in which a place is? Not if it starts farther off than a string may, for that would have to be
    /// looked for, again and again.
    pub(super) fn is_used(&self, at: usize) -> bool {
        let Some(at) = at.checked_sub(self.start) else { return false };
        let first = at.saturating_sub(MAX_STRING);
        self.bytes.get(first..at).is_some_and(|before| match byte::last(0, before) {
            Some(nul) => self.starts(first + nul + 1),
            None => first == 0 && self.starts(0),
        })
    }

    fn starts(&self, line: usize) -> bool {
        self.used.get(line / 64).is_some_and(|bits| bits >> (line % 64) & 1 != 0)
    }

    /// Is every line used?
    fn is_used_up(&self) -> bool {
        self.bytes.last().is_none_or(|last| *last == 0) && byte::count(0, self.bytes) == self.count
    }

    /// The line that starts at a place, if it is no longer than a string may be.
    fn line(&self, start: usize) -> Option<&'a [u8]> {
        let rest = self.bytes.get(start..)?;
        let rest = rest.get(..MAX_STRING).unwrap_or(rest);
        rest.get(..byte::first(0, rest)?)
    }

    /// Where the first line starts, from a line on, that a string does not come behind; nowhere if a line on the way there is
    /// longer than a string may be.
    ///
    /// It is in order between its new neighbours, even where the lines have none, for both were compared.
    fn place(&self, from: usize, string: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (from, self.bytes.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let first = low.max(middle.saturating_sub(MAX_STRING));
            let start = match byte::last(0, self.bytes.get(first..middle)?) {
                Some(nul) => first + nul + 1,
                None if first == low => low,
                None => return None,
            };
            let line = self.line(start)?;
            match from_the_end(line, string) {
                Ordering::Less => low = start + line.len() + 1,
                Ordering::Equal | Ordering::Greater => high = start,
            }
        }
        Some(low)
    }

    /// The runs of used lines among those of a range.
    fn runs(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut next = range.start;
        std::iter::from_fn(move || {
            let mut run: Option<Range<usize>> = None;
            while let Some(rest) = self.bytes.get(next..range.end).filter(|rest| !rest.is_empty()) {
                let start = next;
                next += byte::first(0, rest).map_or(rest.len(), |nul| nul + 1);
                match (&mut run, self.starts(start)) {
                    (Some(run), true) => run.end = next,
                    (None, true) => run = Some(start..next),
                    (Some(_), false) => break,
                    (None, false) => {}
                }
            }
            run
        })
    }
}

/// The strings at the end of a file.
struct Table<'t, 'a> {
    file: &'t mut Patch,
    old: &'t Lines<'a>,
    /// The last line.
    last: Option<&'t [u8]>,
    /// The last old line, in its own table.
    before: Range<usize>,
    moves: Moves,
}

impl<'t> Table<'t, '_> {
    /// Keeps the used lines of a range.
    fn keep(&mut self, range: Range<usize>, is_used_up: bool) -> Result<()> {
        match is_used_up {
            true => self.keep_run(range),
            false => self.old.runs(range).try_for_each(|run| self.keep_run(run)),
        }
    }

    fn keep_run(&mut self, mut run: Range<usize>) -> Result<()> {
        // Of a new string those that end it are a part.
        while let Some(line) = self.old.line(run.start)
            && !run.is_empty()
            && self.ends_last(line)
        {
            let place = self.put(line)?;
            self.moves.push(self.old.start + run.start, place)?;
            self.before = run.start..run.start + line.len();
            run.start += line.len() + 1;
        }
        if run.is_empty() {
            return Ok(());
        }
        let lines = self.old.bytes.get(run.clone()).and_then(|lines| lines.strip_suffix(b"\0"));
        let lines = lines.context("find lines")?;
        let last = byte::last(0, lines).map_or(0, |nul| nul + 1);
        self.last = lines.get(last..);
        self.before = run.start + last..run.start + lines.len();
        let run = self.old.start + run.start..self.old.start + run.end;
        self.moves.push(run.start, u32::try_from(self.file.len())?)?;
        self.file.keep(run);
        Ok(())
    }

    /// Puts a new string behind the old lines that were kept, and tells its place. What the last of them has in common with its
    /// end is shared with the new one from now on.
    fn insert(&mut self, string: &'t [u8]) -> Result<u32> {
        let place = self.put(string)?;
        let before = self.old.bytes.get(self.before.clone()).context("find line")?;
        let pairs = before.iter().rev().zip(string.iter().rev());
        let common = pairs.take_while(|(left, right)| left == right).count();
        if common > 0 {
            let from = u32::try_from(string.len() - common)?;
            self.moves.push(self.old.start + self.before.end - common, place + from)?;
        }
        Ok(place)
    }

    /// Puts a string behind all others, unless it ends the last of them, and tells its place.
    fn put(&mut self, string: &'t [u8]) -> Result<u32> {
        if !self.ends_last(string) {
            self.last = Some(string);
            self.file.push(string);
            self.file.push(&[0]);
        }
        Ok(u32::try_from(self.file.len() - 1 - string.len())?)
    }

    fn ends_last(&self, string: &[u8]) -> bool {
        self.last.is_some_and(|last| last.ends_with(string))
    }
}

/// Where old strings are now: those from a place on, up to the next that is in here, moved by a distance.
#[derive(Debug, Default)]
pub(super) struct Moves {
    all: Vec<(u32, u32)>,
    /// Of each block of places the distance, if they have one. There are few moves, and many places to be moved.
    blocks: Vec<Option<u32>>,
}

impl Moves {
    /// How many places a block has.
    const BLOCK: u32 = 4096;

    fn push(&mut self, old: usize, new: u32) -> Result<()> {
        let old = u32::try_from(old)?;
        let distance = new.wrapping_sub(old);
        if self.all.last().is_none_or(|(_, last)| *last != distance) {
            self.all.push((old, distance));
        }
        Ok(())
    }

    /// Looks up all blocks of places before `end`.
    pub(super) fn index(&mut self, end: usize) -> Result<()> {
        let end = u32::try_from(end)?;
        let mut moves = self.all.iter().peekable();
        let mut distance = None;
        self.blocks = (0..end.div_ceil(Self::BLOCK))
            .map(|block| {
                let start = block * Self::BLOCK;
                while let Some((_, next)) = moves.next_if(|(from, _)| *from <= start) {
                    distance = Some(*next);
                }
                let is_one = moves.peek().is_none_or(|(from, _)| *from - start >= Self::BLOCK);
                distance.filter(|_| is_one)
            })
            .collect();
        Ok(())
    }

    /// Moves the places of a name and a path.
    #[inline]
    pub(super) fn apply(&self, [name, path]: [u32; 2]) -> Option<[u32; 2]> {
        Some([name.wrapping_add(self.distance(name)?), path.wrapping_add(self.distance(path)?)])
    }

    /// How far what is at a place was moved.
    #[inline]
    fn distance(&self, old: u32) -> Option<u32> {
        match self.blocks.get((old / Self::BLOCK) as usize) {
            Some(Some(distance)) => Some(*distance),
            _ => self.search(old),
        }
    }

    #[cold]
    fn search(&self, old: u32) -> Option<u32> {
        let next = self.all.partition_point(|(from, _)| *from <= old);
        Some(self.all.get(next.checked_sub(1)?)?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_moved_by_what_was_last_before_them() {
        let block = Moves::BLOCK as usize;
        let mut moves = Moves::default();
        let all = [(100, 7), (block, 9), (block + 1, 5), (3 * block, 0), (3 * block + 50, 8)];
        for (from, distance) in all {
            moves.push(from, from as u32 + distance).unwrap();
        }
        moves.index(5 * block + 3).unwrap();
        for at in (0..6 * block).step_by(25).flat_map(|at| [at, at + 1]) {
            let last = all.iter().rev().find(|(from, _)| *from <= at);
            let expected = last.map(|(_, distance)| [at as u32 + distance; 2]);
            assert_eq!(moves.apply([at as u32; 2]), expected, "{at}");
        }
    }
}
