//! [`Libraries`]: those that will be new entries of the cache, in few allocations.

use anyhow::{Context, Result, ensure};

use crate::ld_so_cache::{Entry, Hwcap};

/// Most bytes of paths, and most libraries. An attacker's directory with a long name and many libraries must end before
/// the memory does.
const MAX_TEXT: usize = 32 << 20;
const MAX_LIBRARIES: usize = 100_000;
/// Most libraries that are remembered though others beat them.
const MAX_BEATEN: usize = 1000;

/// Libraries in the order of the search.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Those that have the name of another one of their directory, and no entry.
    beaten: Vec<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    path: (u32, u32),
    name: (u32, u32),
    flags: i32,
    isa_level: u32,
    /// Place in the names of subdirectories.
    subdirectory: Option<u32>,
    legacy: u64,
    rank: u32,
    is_added: bool,
}

/// What a new entry says beside its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) flags: i32,
    pub(super) isa_level: u32,
    pub(super) subdirectory: Option<u32>,
    pub(super) legacy: u64,
    /// The place of its directory in the search.
    pub(super) rank: u32,
    /// Did a runtime put files there?
    pub(super) is_added: bool,
    /// Is there another library with its name, which has the entry?
    pub(super) is_beaten: bool,
}

impl Libraries {
    pub(super) fn push(
        &mut self,
        dir: &[u8],
        file: &[u8],
        name: &[u8],
        label: Label,
    ) -> Result<()> {
        if label.is_beaten && self.beaten.len() == MAX_BEATEN {
            return Ok(());
        }
        let has_room = label.is_beaten || self.lines.len() < MAX_LIBRARIES;
        ensure!(has_room, "more than {MAX_LIBRARIES} libraries");
        let path = self.append(&[dir, b"/", file])?;
        let name = match file == name {
            // The end of the path.
            true => (path.1 - u32::try_from(name.len())?, path.1),
            false => self.append(&[name])?,
        };
        let Label { flags, isa_level, subdirectory, legacy, rank, is_added, is_beaten } = label;
        let line = Line { path, name, flags, isa_level, subdirectory, legacy, rank, is_added };
        if is_beaten { &mut self.beaten } else { &mut self.lines }.push(line);
        Ok(())
    }

    fn append(&mut self, parts: &[&[u8]]) -> Result<(u32, u32)> {
        let start = u32::try_from(self.text.len()).context("measure paths")?;
        parts.iter().for_each(|part| self.text.extend_from_slice(part));
        ensure!(self.text.len() <= MAX_TEXT, "paths of libraries have more than {MAX_TEXT} bytes");
        Ok((start, u32::try_from(self.text.len())?))
    }

    /// Those in directories where a runtime put files.
    pub(super) fn added(&self) -> impl Iterator<Item = Entry<'_>> {
        self.lines.iter().filter(|line| line.is_added).map(|line| self.entry(line, &[]))
    }

    /// Those in such directories that others beat.
    pub(super) fn beaten(&self) -> impl Iterator<Item = Entry<'_>> {
        self.beaten.iter().map(|line| self.entry(line, &[]))
    }

    /// The entries, each with the rank of its directory.
    pub(super) fn entries<'a>(
        &'a self,
        subdirectories: &'a [Vec<u8>],
    ) -> impl Iterator<Item = (Entry<'a>, u32)> {
        self.lines.iter().map(move |line| (self.entry(line, subdirectories), line.rank))
    }

    fn entry<'a>(&'a self, line: &Line, subdirectories: &'a [Vec<u8>]) -> Entry<'a> {
        let text = |(start, end): (u32, u32)| {
            self.text.get(start as usize..end as usize).unwrap_or_default()
        };
        let name = line.subdirectory.and_then(|place| subdirectories.get(place as usize));
        let hwcap = match name {
            Some(name) => Hwcap::Subdirectory { name, isa_level: line.isa_level },
            None if line.legacy != 0 => Hwcap::Legacy(line.legacy),
            None => Hwcap::None,
        };
        Entry { name: text(line.name), path: text(line.path), flags: line.flags, hwcap }
    }
}
