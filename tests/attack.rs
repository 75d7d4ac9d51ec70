//! The attack matrix: attacked path × kind of object × namespaces × engine, each made, run and judged on a throw-away host.
//!
//! `tests/attack.sh` prints it. The hook is driven directly, as a runtime would drive it, and for each case
//! * the host's files, volumes among them, are the same by name, owner, mode, size, link target, mtime and ctime,
//! * the mount tables of the host and of every namespace that sees its mounts are the same,
//! * what the hook executed was a sealed memfd without an environment, in namespaces of its own, or nothing,
//! * no process of the hook is left, and it ended by itself within its limit,
//! * it ended as `attack/expected.rs` has it, with one line of reason that names the object,
//! * a container's root that was not updated is as it was, links for SONAMEs excepted, and one that was has changed
//!   nowhere else than an update does: the image's programs leave a trace when they are executed.
//!
//! The CVEs of the hook that this one replaces, and what covers them, are [`cve::COVERED`].

mod cache;
mod case;
mod cve;
pub(crate) mod elf;
pub(crate) mod expected;
mod extreme;
pub(crate) mod object;
mod place;
pub(crate) mod site;
pub(crate) mod situation;
pub(crate) mod snapshot;
mod swapped;
pub(crate) mod victim;
mod watched;

use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::node::{self, Release};
use case::{Case, Verdict};
use site::Site;

#[test]
fn every_attack_ends_as_tabulated() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let start = Instant::now();
    let wanted = std::env::var("ATTACK").unwrap_or_default();
    let all = Case::all();
    ensure!(all.len() >= 150, "only {} cases", all.len());
    let cases: Vec<_> = all.iter().filter(|case| case.to_string().contains(&wanted)).collect();
    // The releases' ldconfigs differ: each gets every other case.
    let (one, other) =
        cases.iter().enumerate().partition::<Vec<_>, _>(|(number, _)| number % 2 == 0);
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| attack(Release::Trixie, &one));
        let other = scope.spawn(|| attack(Release::Forky, &other));
        (one.join().expect("returns errors"), other.join().expect("returns errors"))
    });
    let mut verdicts = [one?, other?].concat();
    verdicts.sort();
    let mut failed = Vec::new();
    for (number, line, faults) in verdicts {
        println!("{line}");
        if !faults.is_empty() {
            failed.push(format!("{}\n    {}", cases[number], faults.join("\n    ")));
        }
    }
    println!("\n{} cases, {} failed, {:?}\n", cases.len(), failed.len(), start.elapsed());
    print!("{}", cve::table(&all));
    ensure!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// Runs cases on one host. Their numbers, lines of the table, and faults.
fn attack(
    release: Release,
    cases: &[(usize, &&Case)],
) -> Result<Vec<(usize, String, Vec<String>)>> {
    Site::visit(release, |site| {
        let judge = |(number, case): &(usize, &&Case)| {
            let verdict = case.run(site)?;
            Ok((*number, line(case, &verdict), verdict.faults))
        };
        cases.iter().map(judge).collect()
    })
}

/// A line of the table.
fn line(case: &Case, verdict: &Verdict) -> String {
    let mark = if verdict.faults.is_empty() { ' ' } else { '!' };
    let said = verdict.ran.said.lines().next_back().unwrap_or_default();
    let reason = said.rsplit_once("rootfs: ").map_or(said, |(_, reason)| reason);
    let reason: String = reason.chars().take(90).collect();
    let ms = verdict.ran.did.took.as_millis();
    let Case { name, situation, engine, .. } = case;
    let (situation, engine) = (situation.to_string(), format!("{engine:?}"));
    let outcome = verdict.outcome;
    let executed = verdict.ran.did.executed.len();
    let reason = verdict.ran.engine.as_deref().unwrap_or(&reason);
    format!(
        "{mark} {name:<66} {situation:<17} {engine:<11} {outcome:<11} {ms:>5} ms {executed}  {reason}"
    )
}
