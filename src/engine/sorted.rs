//! Entries in the order of the cache.

use crate::ld_so_cache::{Entry, compare, compare_ranked, is_wild};

/// An entry, and the place of its directory in the search.
pub(super) type Ranked<'a> = (Entry<'a>, u32);

/// More entries than this are not put in order one by one.
const MAX_INSERTED: usize = 10_000;

/// Sorts entries as `add_to_cache` does (elf/cache.c): it puts each behind its equals, so that of two libraries with one
/// name the first directory's is found.
///
/// With names whose numbers overflow there is no order, and what comes out depends on the way: then it is ldconfig's.
pub(super) fn entries<'a>(found: impl Iterator<Item = Ranked<'a>>) -> Vec<Ranked<'a>> {
    let mut all: Vec<_> = found.collect();
    let wild = all.iter().any(|(entry, _)| is_wild(entry.name));
    if wild && all.len() <= MAX_INSERTED {
        return inserted(all);
    }
    // Stable. A comparison that is no order may make it panic; here a wild name's place is arbitrary, as long as it is one.
    match wild {
        true => all.sort_by(|left, right| right.0.name.cmp(left.0.name)),
        false => all.sort_by(compare_ranked),
    }
    all
}

fn inserted(all: Vec<Ranked<'_>>) -> Vec<Ranked<'_>> {
    let mut sorted: Vec<Ranked<'_>> = Vec::with_capacity(all.len());
    for new in all {
        let place = sorted.iter().position(|old| compare(&old.0, &new.0).is_gt());
        sorted.insert(place.unwrap_or(sorted.len()), new);
    }
    sorted
}
