//! [`Merge`]: a cache of entries of another and of new ones, byte for byte what it would be if all of them were new.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::order::{compare, compare_ranked, is_wild};
use super::patch::Patch;
use super::strings::{self, Lines, Moves};
use super::{
    Cache, ENTRY, Entry, Format, HEADER, Hwcap, Malformed, Record, byte, partition_point, writer,
};
use crate::pages::Pages;

/// Most bytes of strings of entries that are looked at one by one. Many may name the same bytes, which would be sorted for each.
const MAX_TEXT: usize = 32 << 20;
/// Most subdirectories of glibc-hwcaps; there are less than ten.
const MAX_SUBDIRECTORIES: usize = 4096;

/// Entries of a cache that are kept. There may be none, nor a cache.
#[derive(Debug, Default)]
pub struct Merge<'a> {
    old: Option<Cache<'a>>,
    /// In order.
    kept: Vec<Run>,
    /// Those that belong elsewhere now, for of two with one name the directories are searched in another order; each with its
    /// index and rank.
    displaced: Vec<(u32, u32)>,
    strings: Lines<'a>,
    /// The indices of those that are written anew: a subdirectory of glibc-hwcaps may have another number then, and a string may
    /// be in a line that is not used, for that is of an entry that is not kept.
    rewritten: Vec<u32>,
    /// The subdirectories that they are in, by name.
    subdirectories: Vec<&'a [u8]>,
}

/// Entries that follow each other and have one rank.
#[derive(Clone, Debug)]
struct Run {
    indices: Range<u32>,
    rank: u32,
}

impl<'a> Merge<'a> {
    /// Keeps the entries of directories to which `judge` gives a rank, which decides between equals.
    ///
    /// It is told an entry and the directory of its path, if that has one. Once it gives a rank, it need not be asked again of
    /// that directory, but of the last entry. It is believed that a directory's entries are complete, in order, and of names without a
    /// slash.
    pub fn of(
        old: Cache<'a>,
        mut judge: impl FnMut(&Entry<'a>, Option<&'a [u8]>) -> Result<Option<u32>>,
    ) -> Result<Self> {
        ensure!(old.format() == Format::New, "it has an old format");
        let mut merge = Self { old: Some(old), strings: old.lines(), ..Self::default() };
        // Most lines have no such number at all. They are looked through before the entries are, which lead to them in another order:
        // what was read one after the other is near the processor then.
        let may_be_wild = is_wild(merge.strings.bytes());
        let (mut last, mut text): (Option<(&[u8], u32)>, usize) = (None, 0);
        for (index, record) in (0u32..).zip(old.records()) {
            // Neighbours are of one directory most often. Nothing of an entry is looked at then but that it is; of the last it is,
            // for an empty name is behind all others.
            if let Some((dir, rank)) = last.filter(|_| index as usize + 1 < old.len())
                && record.hwcap == 0
                && old.file.get(record.path as usize..record.name as usize) == Some(dir)
                && merge.strings.take(record.path as usize)
            {
                merge.keep(index, rank);
                continue;
            }
            let entry = old.entry(&record).ok_or(Malformed::Entry(index as usize))?;
            text += entry.name.len() + entry.path.len();
            ensure!(text <= MAX_TEXT, "its entries have more than {MAX_TEXT} bytes");
            let slash = byte::last(b'/', entry.path);
            let dir = slash.and_then(|slash| entry.path.get(..slash));
            let Some(rank) = judge(&entry, dir)? else { continue };
            ensure!(!is_wild(entry.name), "it has a name whose number overflows");
            merge.displace_before(&entry, rank);
            merge.keep(index, rank);
            last = slash.and_then(|slash| Some((entry.path.get(..=slash)?, rank)));
            let [name, path] = [record.name, record.path].map(|at| at as usize);
            let is_in_path = (path..=path + entry.path.len()).contains(&name);
            let is_used = merge.strings.take(path) && (is_in_path || merge.strings.take(name));
            if !is_used || record.hwcap != 0 {
                merge.rewritten.push(index);
            }
            if let Hwcap::Subdirectory { name, .. } = entry.hwcap {
                insert(&mut merge.subdirectories, name);
                let few = merge.subdirectories.len() <= MAX_SUBDIRECTORIES;
                ensure!(few, "it has more than {MAX_SUBDIRECTORIES} hwcaps subdirectories");
            }
        }
        ensure!(!(may_be_wild && merge.is_wild()), "it has a name whose number overflows");
        let Self { strings, rewritten, .. } = &mut merge;
        rewritten.retain(|index| {
            let is_used = |at: u32| strings.is_used(at as usize);
            let record = old.record(*index);
            !record.is_some_and(|it| it.hwcap == 0 && is_used(it.name) && is_used(it.path))
        });
        Ok(merge)
    }

    #[inline]
    fn keep(&mut self, index: u32, rank: u32) {
        match self.kept.last_mut() {
            Some(run) if run.indices.end == index && run.rank == rank => run.indices.end += 1,
            _ => self.kept.push(Run { indices: index..index + 1, rank }),
        }
    }

    /// Takes away the last entries that are an entry's equals, and that it comes before.
    fn displace_before(&mut self, entry: &Entry<'_>, rank: u32) {
        while let Some(run) = self.kept.last().filter(|run| run.rank > rank)
            && let (index, of_last) = (run.indices.end - 1, run.rank)
            && self.entry(index).is_some_and(|last| compare(&last, entry).is_eq())
        {
            self.displaced.push((index, of_last));
            self.rewritten.pop_if(|rewritten| *rewritten == index);
            self.kept.last_mut().into_iter().for_each(|run| run.indices.end = index);
            self.kept.pop_if(|run| run.indices.is_empty());
        }
    }

    fn entry(&self, index: u32) -> Option<Entry<'a>> {
        self.old?.at(index)
    }

    /// Has one of those that were not looked at a name whose number overflows? With one there is no order in which new entries
    /// could be.
    fn is_wild(&self) -> bool {
        let kept = self.kept.iter().flat_map(|run| run.indices.clone());
        let mut all = kept.chain(self.displaced.iter().map(|(index, _)| *index));
        all.any(|index| self.entry(index).is_some_and(|entry| is_wild(entry.name)))
    }

    /// How many entries are kept.
    pub fn len(&self) -> usize {
        self.kept.iter().map(|run| run.indices.len()).sum::<usize>() + self.displaced.len()
    }

    /// Is none?
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Plans the file of what is kept and of new entries, which come in their order, each with its rank.
    ///
    /// `subdirectories` are the names of all those of glibc-hwcaps that were looked into: ldconfig leaves them in its strings,
    /// whether a library was found there or not.
    pub fn plan(
        &self,
        new: &[(Entry<'a>, u32)],
        subdirectories: &[&'a [u8]],
        generator: &[u8],
    ) -> Result<Plan> {
        let mut new = Cow::Borrowed(new);
        if !self.displaced.is_empty() {
            new = self.with_displaced(&new)?.into();
        }
        let mut used = self.subdirectories.clone();
        for (entry, _) in new.iter() {
            if let Hwcap::Subdirectory { name, .. } = entry.hwcap {
                insert(&mut used, name);
            }
        }
        // In their places nothing is yet, for their strings come behind them.
        let (mut file, written) = self.layout(&new)?;
        let kept = file.kept();
        let start = file.len();
        let strings = written.iter().flat_map(|entry| [entry.name, entry.path]);
        let strings: Vec<_> = strings.chain(subdirectories.iter().chain(&used).copied()).collect();
        // With no entry there is no line either, and what stands for lines may be none.
        let none = Lines::default();
        let old = if self.is_empty() { &none } else { &self.strings };
        let (moves, places) = strings::append(&mut file, old, &strings)?;
        let size = file.len() - start;
        let end = file.len().next_multiple_of(4);
        file.push([0; 4].get(..end - file.len()).unwrap_or_default());

        let (header, records) = file.pushed().split_first_chunk_mut().context("find header")?;
        *header = writer::header((start - HEADER) / ENTRY, size, end)?;
        let (records, pairs) = (records.as_chunks_mut().0, places.as_chunks().0);
        for ((record, entry), [name, path]) in records.iter_mut().zip(&written).zip(pairs) {
            let hwcap = writer::field(&entry.hwcap, &used)?;
            Record { flags: entry.flags, name: *name, path: *path, hwcap }.write(record);
        }
        let names = places.get(places.len() - used.len()..).context("find subdirectories")?;
        file.push(&writer::extensions(end, names, generator)?);
        Ok(Plan { file, kept, moves })
    }

    /// New entries and the displaced ones, which come before their equals.
    fn with_displaced(&self, new: &[(Entry<'a>, u32)]) -> Result<Vec<(Entry<'a>, u32)>> {
        let mut displaced = self.displaced.clone();
        displaced.sort_unstable();
        let displaced = displaced.into_iter().map(|(index, rank)| Some((self.entry(index)?, rank)));
        let mut all = displaced.collect::<Option<Vec<_>>>().context("read entries")?;
        all.extend(new);
        all.sort_by(compare_ranked);
        Ok(all)
    }

    /// A file up to its strings, and the entries whose places are to be filled.
    fn layout(&self, new: &[(Entry<'a>, u32)]) -> Result<(Patch, Vec<Entry<'a>>)> {
        let mut file = Patch::default();
        file.push(&[0; HEADER]);
        let mut written = Vec::with_capacity(new.len() + self.rewritten.len());
        let mut write = |file: &mut Patch, entry: Entry<'a>| {
            file.push(&[0; ENTRY]);
            written.push(entry);
        };
        let mut rewritten = self.rewritten.iter().copied().peekable();
        let new = new.iter().map(|(entry, rank)| (self.first_behind(entry, *rank), entry));
        let mut new = new.peekable();
        for Range { mut start, end } in self.kept.iter().map(|run| run.indices.clone()) {
            while start < end {
                while let Some((_, entry)) = new.next_if(|(index, _)| *index <= start) {
                    write(&mut file, *entry);
                }
                if rewritten.next_if_eq(&start).is_some() {
                    write(&mut file, self.entry(start).context("read entry")?);
                    start += 1;
                    continue;
                }
                let next = [rewritten.peek().copied(), new.peek().map(|(index, _)| *index)];
                let stop = next.into_iter().flatten().fold(end, u32::min);
                let [from, to] = [start, stop].map(|index| HEADER + index as usize * ENTRY);
                file.keep(from..to);
                start = stop;
            }
        }
        new.for_each(|(_, entry)| write(&mut file, *entry));
        Ok((file, written))
    }

    /// The first index before which a new entry may be: no kept one from there on comes before it.
    fn first_behind(&self, new: &Entry<'_>, rank: u32) -> u32 {
        let is_before = |index: u32, before: u32| {
            let kept = self.entry(index);
            kept.is_some_and(|kept| compare_ranked(&(kept, before), &(*new, rank)).is_le())
        };
        let run = self.kept.partition_point(|run| is_before(run.indices.start, run.rank));
        let Some(run) = run.checked_sub(1).and_then(|run| self.kept.get(run)) else { return 0 };
        let Range { start, end } = run.indices;
        partition_point(start, end, |index| is_before(index, run.rank))
    }
}

/// How a file becomes another.
#[derive(Debug)]
pub struct Plan {
    file: Patch,
    /// Where the entries are in the new file that are kept as they are, but for the places of their strings.
    kept: Vec<Range<usize>>,
    moves: Moves,
}

impl Plan {
    /// Makes the new file of the one that the plan was made for; of an empty one if that was none.
    pub fn apply(self, old: Pages) -> Result<Pages> {
        let mut file = self.file.apply(old).context("it is another file")?;
        for kept in self.kept {
            let records = file.get_mut(kept).context("find entries")?;
            for bytes in records.as_chunks_mut::<ENTRY>().0 {
                let record = Record::parse(bytes).context("read entry")?;
                let places = self.moves.apply([record.name, record.path]);
                let [name, path] = places.context("find strings")?;
                Record { name, path, ..record }.place(bytes);
            }
        }
        Ok(file)
    }
}

/// Adds a name to a sorted list, once.
fn insert<'a>(names: &mut Vec<&'a [u8]>, name: &'a [u8]) {
    if let Err(place) = names.binary_search(&name) {
        names.insert(place, name);
    }
}
