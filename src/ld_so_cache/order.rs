//! The order of entries. The loader searches by bisection, so it is a part of the format.

use std::cmp::Ordering;

use super::{Entry, Hwcap};

/// Compares names as `_dl_cache_libcmp` does (elf/dl-cache.c): digits as numbers, and larger than all else.
///
/// The numbers are C's `int` and overflow, and bytes are C's `char`, which has a sign on x86 and none on ARM.
pub fn libcmp(mut left: &[u8], mut right: &[u8]) -> Ordering {
    loop {
        let (Some(&a), b) = (left.first(), right.first().copied().unwrap_or_default()) else {
            return character(0).cmp(&character(right.first().copied().unwrap_or_default()));
        };
        match (a.is_ascii_digit(), b.is_ascii_digit()) {
            (true, true) => match integer(&mut left).wrapping_sub(integer(&mut right)) {
                0 => continue,
                difference => return difference.cmp(&0),
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if a != b => return character(a).cmp(&character(b)),
            (false, false) => {}
        }
        left = left.get(1..).unwrap_or_default();
        right = right.get(1..).unwrap_or_default();
    }
}

fn integer(text: &mut &[u8]) -> i32 {
    let mut value = 0i32;
    while let Some((digit, rest)) = text.split_first().filter(|(digit, _)| digit.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *text = rest;
    }
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
pub fn is_wild(name: &[u8]) -> bool {
    let mut digits = 0;
    name.iter().any(|byte| {
        match byte {
            b'0' if digits == 0 => {}
            b'0'..=b'9' => digits += 1,
            _ => digits = 0,
        }
        digits > 9
    })
}

/// Compares entries as `compare` does (elf/cache.c): descending, so that a newer library is found first; those of
/// glibc-hwcaps before others, and legacy ones with more bits before those with fewer.
pub fn compare(left: &Entry<'_>, right: &Entry<'_>) -> Ordering {
    libcmp(right.name, left.name)
        .then(right.flags.cmp(&left.flags))
        .then_with(|| hwcaps(&left.hwcap, &right.hwcap))
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
