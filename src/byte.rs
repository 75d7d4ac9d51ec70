//! Where a byte is in a string.
//!
//! With what every processor of an architecture has: to ask for more takes some CPUIDs, each of which leaves a virtual
//! machine, and together they take longer than to look through the cache of an image.

#[cfg(target_arch = "aarch64")]
use memchr::arch::aarch64::neon::memchr::One;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
use memchr::arch::all::memchr::One;
#[cfg(target_arch = "x86_64")]
use memchr::arch::x86_64::sse2::memchr::One;

/// The first place of a byte.
pub(crate) fn first(byte: u8, bytes: &[u8]) -> Option<usize> {
    one(byte)?.find(bytes)
}

/// Its last place.
pub(crate) fn last(byte: u8, bytes: &[u8]) -> Option<usize> {
    one(byte)?.rfind(bytes)
}

/// How often it is there.
pub(crate) fn count(byte: u8, bytes: &[u8]) -> usize {
    one(byte).map_or(0, |one| one.count(bytes))
}

#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
fn one(byte: u8) -> Option<One> {
    One::new(byte)
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn one(byte: u8) -> Option<One> {
    Some(One::new(byte))
}
