//! What shall hold of any input. The fuzzers find inputs, and `tests/fuzz_corpus.rs` has the same done with the corpora.
#![allow(unreachable_pub, reason = "a library for the fuzzers, a module for the tests")]

// What a runtime tells a hook.
pub mod oci;
// What an image tells its linker.
pub mod ld_so_conf;
pub mod loader;
// What else is in an image.
pub mod elf;
pub mod engine;
pub mod ld_so_cache;
// What the kernel tells of its volumes.
pub mod mountinfo;
// What a process among its files tells us.
pub mod answer;
// What a pod tells the daemon.
pub mod policy;
// What an operator tells it.
pub mod config;
// What a runtime tells it.
pub mod mux;

/// A target's name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("oci", oci::check),
    ("ld_so_conf", ld_so_conf::check),
    ("elf", elf::check),
    ("ld_so_cache", ld_so_cache::check),
    ("engine", engine::check),
    ("policy", policy::check),
    ("config", config::check),
    ("mux", mux::check),
    ("mountinfo", mountinfo::check),
    ("answer", answer::check),
    ("loader", loader::check),
];
