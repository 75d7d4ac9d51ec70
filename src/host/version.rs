//! Names of installed files, and which of them nobody can need any more. Pure.

use std::time::{Duration, SystemTime};

use crate::injection::Injection;

/// How long a version stays after a newer one was installed: a container that was told of it may still be being created.
pub(super) const KEPT: Duration = Duration::from_secs(600);

/// Hexadecimal digits of the digest in a name.
const DIGITS: usize = 8;

/// An installed version of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) name: String,
    /// When it was installed last.
    pub(super) installed: SystemTime,
}

/// The name of this version's file, with the digest of its content.
pub(super) fn name(digest: &[u8]) -> String {
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}", Injection::NAME, env!("CARGO_PKG_VERSION"), &digits[..DIGITS])
}

/// Is this the name of an installed version, `nri-ldcache-VERSION-SHA8`?
pub(super) fn is_version(name: &str) -> bool {
    let parts = prefixless(name).and_then(|rest| rest.rsplit_once('-'));
    let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    parts.is_some_and(|(version, digest)| {
        let numbered = version.starts_with(|c: char| c.is_ascii_digit());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let digest = digest.len() == DIGITS && digest.chars().all(hexadecimal);
        numbered && version.chars().all(plain) && digest
    })
}

fn prefixless(name: &str) -> Option<&str> {
    name.strip_prefix(Injection::NAME)?.strip_prefix('-')
}

/// The name of a file that is being made; `unique` tells it from those of others.
pub(super) fn temporary(name: &str, unique: u128) -> String {
    format!(".{name}.{unique:x}.tmp")
}

/// Is this the name of a file that was being made?
pub(super) fn is_temporary(name: &str) -> bool {
    let middle = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let parts = middle.and_then(|middle| middle.rsplit_once('.'));
    parts.is_some_and(|(name, unique)| {
        is_version(name) && !unique.is_empty() && unique.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The versions that were superseded long enough ago: of each, a newer one has been there for [`KEPT`].
///
/// That nobody injects them is not known here. Whoever does so holds a lock, which their remover has to ask for.
pub(super) fn superseded<'a>(
    versions: &'a [Version],
    current: &str,
    now: SystemTime,
) -> Vec<&'a str> {
    // One from the future, after a clock was set back, supersedes nothing.
    let settled =
        |version: &Version| now.duration_since(version.installed).is_ok_and(|age| age >= KEPT);
    let newest = versions.iter().filter(|version| settled(version)).map(|v| v.installed).max();
    let old = |version: &&Version| newest.is_some_and(|newest| version.installed < newest);
    let others = versions.iter().filter(|version| version.name != current);
    others.filter(old).map(|version| version.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again() {
        let name = name(&[0xab; 32]);
        assert!(name.starts_with("nri-ldcache-0.") && name.ends_with("-abababab"), "{name}");
        let temporary = temporary(&name, 7);
        assert!(is_version(&name) && is_temporary(&temporary) && !is_version(&temporary));
        assert!(is_version("nri-ldcache-1.2.3-rc.1+x-00112233"));
        for other in [
            "nri-ldcache",
            "nri-ldcache-",
            "nri-ldcache-1.2.3",
            "nri-ldcache-1.2.3-0011223",
            "nri-ldcache-1.2.3-0011223G",
            "nri-ldcache-1.2.3-001122AB",
            "nri-ldcache-x-00112233",
            "nri-ldcache-1/2-00112233",
            "nri-ldcache--00112233",
            "nri-ldcachex1.2.3-00112233",
            ".nri-ldcache-1.2.3-00112233.tmp",
            ".nri-ldcache-1.2.3-00112233..tmp",
            ".nri-ldcache-1.2.3.7.tmp",
            "",
            ".tmp",
        ] {
            assert!(!is_version(other) && !is_temporary(other), "{other}");
        }
    }

    #[test]
    fn a_version_goes_once_a_newer_one_has_been_there_for_long_enough() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let minutes = |ages: &[(&str, i64)]| {
            let version = |(name, age): &(&str, i64)| {
                let span = Duration::from_secs(age.unsigned_abs() * 60);
                let installed = if *age < 0 { now + span } else { now - span };
                Version { name: (*name).to_owned(), installed }
            };
            ages.iter().map(version).collect::<Vec<_>>()
        };
        for (ages, current, gone) in [
            (&[("a", 5000)][..], "a", &[][..]),
            // The first time that b is installed, a daemon may just have told somebody of a.
            (&[("a", 5000), ("b", 0)], "b", &[]),
            (&[("a", 5000), ("b", 9)], "b", &[]),
            (&[("a", 5000), ("b", 10)], "b", &["a"]),
            (&[("a", 5000), ("b", 4000), ("c", 0)], "c", &["a"]),
            (&[("a", 5000), ("b", 9), ("c", 0)], "c", &[]),
            (&[("a", 3), ("b", 2), ("c", 1)], "c", &[]),
            // What is current never goes, though another looks newer.
            (&[("a", 5000), ("b", 4000)], "a", &[]),
            // Clocks that were set back, and two of one time.
            (&[("a", 5000), ("b", -60)], "b", &[]),
            (&[("a", 20), ("b", 20), ("c", 0)], "c", &[]),
            (&[], "a", &[]),
        ] {
            assert_eq!(superseded(&minutes(ages), current, now), gone, "{ages:?}");
        }
    }
}
