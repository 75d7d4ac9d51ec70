//! The order of entries. The loader searches by bisection, so it is a part of the format.

use std::cmp::Ordering;

use super::{Entry, Hwcap};

/// Compares names as `_dl_cache_libcmp` does (elf/dl-cache.c): digits as numbers, and larger than all else.
///
/// The numbers are C's `int` and overflow, and bytes are C's `char`, which has a sign on x86 and none on ARM.
pub fn libcmp(mut left: &[u8], mut right: &[u8]) -> Ordering {
    loop {
        // What both start with says nothing, up to the number in which they may differ.
        let mut same = common(left, right);
        while let Some(before) = same.checked_sub(1)
            && left.get(before).is_some_and(u8::is_ascii_digit)
        {
            same = before;
        }
        left = left.get(same..).unwrap_or_default();
        right = right.get(same..).unwrap_or_default();
        let [a, b] = [left, right].map(|rest| rest.first().copied().unwrap_or_default());
        match (a.is_ascii_digit(), b.is_ascii_digit()) {
            (true, true) => match integer(&mut left).wrapping_sub(integer(&mut right)) {
                0 => {}
                difference => return difference.cmp(&0),
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => return character(a).cmp(&character(b)),
        }
    }
}

/// How many bytes both start with.
fn common(left: &[u8], right: &[u8]) -> usize {
    let mut same = 0;
    for (left, right) in left.as_chunks::<8>().0.iter().zip(right.as_chunks::<8>().0) {
        let differing = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if differing != 0 {
            return same + differing.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    while let (Some(left), Some(right)) = (left.get(same), right.get(same))
        && left == right
    {
        same += 1;
    }
    same
}

fn integer(text: &mut &[u8]) -> i32 {
    let (mut value, mut digits) = (0i32, 0);
    while let Some(digit) = text.get(digits).filter(|byte| byte.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        digits += 1;
    }
    *text = text.get(digits..).unwrap_or_default();
    value
}

fn character(byte: u8) -> i32 {
    if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
        byte.cast_signed().into()
    } else {
        byte.into()
    }
}

/// Has the name a number that overflows? [`libcmp`] is no order among such names: it may say a < b < c < a.
///
/// Many names, one after the other, are one, too.
pub fn is_wild(name: &[u8]) -> bool {
    let is_digit = |at: usize| name.get(at).is_some_and(u8::is_ascii_digit);
    // Of ten digits in a row four begin at a seventh place, and three more are on a side of them. Two such places are looked at
    // in one go, and most often neither has any.
    let (pairs, rest) = name.as_chunks::<14>();
    let pairs = pairs.iter().zip((0..).step_by(14));
    let pairs = pairs.filter(|(pair, _)| may_be_digits(&pair[..7]) | may_be_digits(&pair[7..]));
    let last = name.len() - rest.len();
    let mut places = pairs.map(|(_, at)| at).chain([last]).flat_map(|at| [at, at + 7]);
    let mut known = 0;
    places.any(|at| {
        if at < known || !is_digit(at) || !(is_digit(at.wrapping_sub(3)) || is_digit(at + 6)) {
            return false;
        }
        let start = (known..=at).rev().take_while(|at| is_digit(*at)).last().unwrap_or(at);
        let zeros = (start..).take_while(|at| name.get(*at) == Some(&b'0')).count();
        let digits = (start..).take_while(|at| is_digit(*at)).count();
        known = start + digits;
        digits - zeros > 9
    })
}

/// Have the first four bytes the upper half of digits?
fn may_be_digits(bytes: &[u8]) -> bool {
    let four = bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes);
    four & 0xf0f0_f0f0 == 0x3030_3030
}

/// Compares entries as `compare` does (elf/cache.c): descending, so that a newer library is found first; those of
/// glibc-hwcaps before others, and legacy ones with more bits before those with fewer.
pub fn compare(left: &Entry<'_>, right: &Entry<'_>) -> Ordering {
    libcmp(right.name, left.name)
        .then(right.flags.cmp(&left.flags))
        .then_with(|| hwcaps(&left.hwcap, &right.hwcap))
}

/// Compares entries with the ranks of their directories, which decide between equals.
pub fn compare_ranked(left: &(Entry<'_>, u32), right: &(Entry<'_>, u32)) -> Ordering {
    compare(&left.0, &right.0).then(left.1.cmp(&right.1))
}

fn hwcaps(left: &Hwcap<'_>, right: &Hwcap<'_>) -> Ordering {
    match (left, right) {
        (Hwcap::Subdirectory { name: a, .. }, Hwcap::Subdirectory { name: b, .. }) => a.cmp(b),
        (Hwcap::Subdirectory { .. }, _) => Ordering::Less,
        (_, Hwcap::Subdirectory { .. }) => Ordering::Greater,
        _ => {
            let bits = |hwcap: &Hwcap<'_>| if let Hwcap::Legacy(bits) = hwcap { *bits } else { 0 };
            let (left, right) = (bits(left), bits(right));
            right.count_ones().cmp(&left.count_ones()).then(right.cmp(&left))
        }
    }
}
