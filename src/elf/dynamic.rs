//! [`Dynamic`]: the dynamic section of a library.

use super::fields::Fields;
use super::segments::Segments;
use super::{ReadAt, Refused, Result};

/// Entries of a dynamic section; a library has about 30, and one for each library that it needs.
const MAX_DYNAMIC: u64 = 16_384;

pub(super) const DT_NULL: u64 = 0;
pub(super) const DT_NEEDED: u64 = 1;
pub(super) const DT_STRTAB: u64 = 5;
pub(super) const DT_SONAME: u64 = 14;

/// The entries of a dynamic section that matter, each the first of its kind.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    pub(super) strings: Option<u64>,
    pub(super) soname: Option<u64>,
    pub(super) needed: Vec<u64>,
}

impl Dynamic {
    /// Reads up to the end, or as far as it takes to know all; `needed` says whether needs are part of that.
    pub(super) fn read<B: ReadAt>(
        fields: &Fields<'_, B>,
        segments: &Segments,
        needed: bool,
    ) -> Result<Self> {
        let mut found = Self::default();
        let mut chunk = Vec::new();
        for number in 0..MAX_DYNAMIC {
            let (tag, value) = fields.dynamic(&mut chunk, segments.dynamic, number)?;
            match tag {
                DT_NULL => return Ok(found),
                DT_STRTAB if found.strings.is_none() => found.strings = Some(value),
                DT_SONAME if found.soname.is_none() => found.soname = Some(value),
                DT_NEEDED if needed => found.needed.push(value),
                _ => {}
            }
            if found.strings.is_some() && found.soname.is_some() && !needed {
                return Ok(found);
            }
        }
        Err(Refused::Excessive)
    }
}
