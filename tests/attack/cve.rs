//! The CVEs of NVIDIA's container toolkit that a hook like this one can have, and the cases that cover them.

use std::fmt::Write as _;

use super::case::Case;

/// Number, what went wrong, what of a case's name tells that it covers it, and the tests beside the matrix.
pub(crate) const COVERED: [(&str, &str, &[&str], &str); 9] = [
    (
        "CVE-2024-0132",
        "a path is checked, changed, and used: the host's files are reached",
        &["/usr/lib: link", "/etc: link"],
        "attack::swapped",
    ),
    (
        "CVE-2024-0133",
        "the same, empty files appear on the host",
        &["link ../../.. into a volume", "dangling link"],
        "attack::swapped",
    ),
    (
        "CVE-2024-0134",
        "a link is followed, files appear at its end",
        &["link into a volume", "SONAME"],
        "hostile_pods",
    ),
    (
        "CVE-2024-0135",
        "a program of the host is written through /proc/self/exe",
        &["/proc/self/exe"],
        "what each case executes",
    ),
    (
        "CVE-2024-0136",
        "the image's own ldconfig is run, and gets the host's devices",
        &["/sbin/ldconfig: ", "/sbin: ", "/dev: "],
        "what each case executes, hostile::the_images_own_ldconfig_is_not_executed",
    ),
    (
        "CVE-2024-0137",
        "the image's code runs in the host's network namespace",
        &["/sbin/ldconfig: "],
        "what each case executes",
    ),
    ("CVE-2025-23359", "the first one again", &["/usr/lib: link", "/etc: link"], "attack::swapped"),
    (
        "CVE-2025-23266",
        "the container's environment is the hook's: LD_PRELOAD",
        &["ld.so.preload"],
        "hostile::the_containers_preload_is_not_loaded, e2e::an_environment_with_ld_preload_works",
    ),
    (
        "CVE-2025-23267",
        "/etc is a link through /proc/1/root: the host's cache is written",
        &["/proc/1/root", "/proc/self/cwd", "procfs"],
        "hostile::etc_through_the_first_process_leads_nowhere",
    ),
];

/// Of CVE-2026-24260 there is no case: it is a race, and has a test of its own.
const RACE: &str =
    "CVE-2026-24260 (another container swaps a directory for a link while the hook runs)";

/// The map as text: each CVE, how many cases cover it, and the first of them.
pub(crate) fn table(cases: &[Case]) -> String {
    let mut table = String::new();
    for (cve, what, parts, tests) in COVERED {
        let covers = |case: &&Case| parts.iter().any(|part| case.name.contains(part));
        let found: Vec<_> = cases.iter().filter(covers).collect();
        let example = found.first().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(table, "{cve} ({what}): {} cases such as {example}; {tests}", found.len());
    }
    let _ = writeln!(table, "{RACE}: attack::swapped");
    table
}

#[test]
fn every_cve_is_covered() {
    let cases = Case::all();
    for (cve, _, parts, _) in COVERED {
        for part in parts {
            assert!(cases.iter().any(|case| case.name.contains(part)), "{cve}: no case {part}");
        }
    }
}
