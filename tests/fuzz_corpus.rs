//! The fuzzing targets without a fuzzer: each file of their corpora, and the same few thousand changes of them every time.

#[path = "fuzz/src/lib.rs"]
mod properties;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Changed inputs for each target.
const ROUNDS: usize = 3000;

/// Runs the corpus of a target.
fn run(target: &str) -> Result<()> {
    let (_, check) =
        *properties::TARGETS.iter().find(|(name, _)| *name == target).context("no target")?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut corpus = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        corpus.push(fs::read(entry?.path())?);
    }
    corpus.sort();
    ensure!(!corpus.is_empty(), "nothing in {}", dir.display());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Files on a disk take longer than bytes in memory.
    let rounds = if target == "engine" { ROUNDS / 20 } else { ROUNDS };
    let changed = (0..rounds).map(|round| random.change(&corpus[round % corpus.len()], &corpus));
    for input in corpus.iter().cloned().chain(changed.collect::<Vec<_>>()) {
        let held = catch_unwind(|| check(&input)).is_ok();
        ensure!(held, "target {target}, input b\"{}\"", input.escape_ascii());
    }
    Ok(())
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    /// An input with one to four changes.
    fn change(&mut self, input: &[u8], corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(20)).min(bytes.len());
            let donor = &corpus[self.below(corpus.len())];
            let from = self.below(donor.len());
            let until = (from + self.below(40)).min(donor.len());
            match (self.below(6), bytes.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << self.below(8),
                (1, Some(byte)) => {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'/', b' '][self.below(8)]
                }
                (2, _) => drop(bytes.drain(at..end)),
                (3, _) => bytes.extend_from_within(at..end),
                (4, _) => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, donor[from..until].iter().copied())),
            }
        }
        bytes
    }
}

#[test]
fn states_and_bundles() -> Result<()> {
    run("oci")
}

#[test]
fn linker_configurations() -> Result<()> {
    run("ld_so_conf")
}

#[test]
fn libraries() -> Result<()> {
    run("elf")
}

#[test]
fn caches() -> Result<()> {
    run("ld_so_cache")
}

#[test]
fn roots() -> Result<()> {
    run("engine")
}

#[test]
fn pods_and_containers() -> Result<()> {
    run("policy")
}

#[test]
fn configurations() -> Result<()> {
    run("config")
}

#[test]
fn trunks() -> Result<()> {
    run("mux")
}

#[test]
fn mount_tables() -> Result<()> {
    run("mountinfo")
}

#[test]
fn answers() -> Result<()> {
    run("answer")
}

#[test]
fn loaders_and_their_files() -> Result<()> {
    run("loader")
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(dir.join("Cargo.toml"))?;
    for (name, _) in properties::TARGETS {
        ensure!(dir.join("corpus").join(name).is_dir(), "no corpus of {name}");
        ensure!(manifest.contains(&format!("name = \"{name}\"")), "no fuzzer {name}");
    }
    Ok(())
}
