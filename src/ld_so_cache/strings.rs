//! The strings of a cache file: sorted by their ends, so that one which ends another shares its bytes.

use std::cmp::Ordering;

/// Puts strings into a table as `stringtable_finalize` does (elf/stringtable.c), and tells the offset of each.
///
/// Strings that are nearly sorted, as those of another cache are, cost about as much as reading them.
pub(super) fn table(strings: &[&[u8]]) -> Option<(Vec<u8>, Vec<u32>)> {
    let mut order: Vec<u32> = (0..u32::try_from(strings.len()).ok()?).collect();
    let at = |index: u32| strings.get(index as usize).copied().unwrap_or_default();
    // Those of another cache lie there in the right order already, and the sort sees that.
    order.sort_unstable_by_key(|index| at(*index).as_ptr().addr());
    order.sort_by(|left, right| from_the_end(at(*left), at(*right)));
    let mut bytes = Vec::with_capacity(size(&order, at));
    let mut offsets = vec![0; strings.len()];
    let mut previous: Option<&[u8]> = None;
    for index in order {
        let string = at(index);
        if previous.is_none_or(|previous| !previous.ends_with(string)) {
            bytes.extend_from_slice(string);
            bytes.push(0);
        }
        // It ends before the last NUL, whether it was put there now or shares.
        let offset = bytes.len().checked_sub(string.len() + 1)?;
        *offsets.get_mut(index as usize)? = u32::try_from(offset).ok()?;
        previous = Some(string);
    }
    Some((bytes, offsets))
}

fn size<'a>(order: &[u32], at: impl Fn(u32) -> &'a [u8]) -> usize {
    let mut previous: &[u8] = &[];
    let mut size = 0;
    for index in order {
        let string = at(*index);
        if !previous.ends_with(string) {
            size += string.len() + 1;
        }
        previous = string;
    }
    size
}

/// Descending by the bytes from the end; of two of which one ends the other, the longer first.
fn from_the_end(left: &[u8], right: &[u8]) -> Ordering {
    right.iter().rev().cmp(left.iter().rev())
}
