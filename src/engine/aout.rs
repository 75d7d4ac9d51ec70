//! Files of the a.out format, which ldconfig takes for libraries without looking further.

use anyhow::Result;

use super::choice::{Choice, Soname, Told};
use super::search::Place;
use crate::root::{Id, Root};

/// Gives them their names: ldconfig makes one of the first name under which it meets the file, which may be a
/// link's, and keeps it for the others.
pub(super) fn name(
    root: &Root,
    place: &Place<'_>,
    told: &mut [Option<Told>],
    choice: &mut Choice,
) -> Result<()> {
    let mut named: Vec<(Option<Id>, Soname)> = Vec::new();
    for (at, told) in told.iter_mut().enumerate() {
        let Some(Told { soname: soname @ Soname::Major, .. }) = told else { continue };
        let lead = root.id(&place.path(place.listing.name(at)))?;
        if let Some((_, first)) = named.iter().find(|(file, _)| *file == lead) {
            *soname = *first;
            continue;
        }
        let (start, end) = choice.keep(major(place.listing.name(at)))?;
        *soname = Soname::Said(start, end);
        named.push((lead, *soname));
    }
    Ok(())
}

/// `libx.so.1` of `libx.so.1.2` (elf/readlib.c).
fn major(name: &[u8]) -> &[u8] {
    let Some(start) = name.windows(4).position(|part| part == b".so.") else { return name };
    let rest = name.get(start + 4..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'.').map_or(name.len(), |dot| start + 4 + dot);
    name.get(..end).unwrap_or(name)
}
