//! Refreshes the linker cache of GPU containers: an NRI plugin, and the isolated OCI hook that it injects.
//!
//! A pod asks for an NVIDIA GPU. Somebody (a device plugin, a CDI spec, a volume) puts driver libraries into its
//! container, and nobody refreshes the container's `/etc/ld.so.cache`, so that `libcuda.so.1` is not found. This program
//! sees the container being created, decides whether it is one of those, and adds one `createContainer` hook: itself.
//!
//! ```text
//! containerd / CRI-O            nri-ldcache run                  update-ldcache             the jail (forked)
//! CreateContainer ───NRI──▶ signal, policy ─▶ Update ─argv─▶  State ─▶ Rootfs ─cwd──▶  enter ─▶ Jail ─▶ Confined
//!                 ◀──────── injection (hook)                  ldconfig: sealed ──────▶  Plan, Changes, ldconfig
//! PostStartContainer ────▶  what the hook did, to the log ◀── report ◀───── Done ─────
//! ```
//!
//! One value crosses the runtime: [`update::Update`] is made by the policy, travels as arguments through somebody else's
//! `config.json`, and arrives as the same value. And a witness: what writes below `/etc` or runs ldconfig asks for a
//! [`jail::Confined`], which only a process in the jail has, so that refreshing the host's own cache does not compile.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may"))]

// What was typed.
pub mod cli;
// What an operator may set.
pub mod config;
// The daemon: connected to the runtime, asked about each container.
pub mod plugin;
// What it logs.
pub mod log;
// What it counts.
pub mod metrics;
// What would stop it on a node.
pub mod doctor;
// What the runtime's own configuration says.
mod runtime_config;
// Who asked for a GPU.
pub mod signal;
// What to do about it. Pure.
pub mod policy;
// The same for people.
pub mod explain;
// What is to be done: the value that crosses both process borders.
pub mod update;
// The hook that carries it, and the file on the host that the hook runs.
pub mod injection;
// How that file comes there, and goes.
pub mod host;
// The hook itself, outside and inside.
pub mod hook;
// What the linker finds afterwards.
pub mod found;
// What a run of it did, from the hook to the daemon.
pub mod report;
// What it finds that nobody told it.
pub mod discover;
// Which container the runtime means.
pub mod oci;
// The only place that changes namespaces and mounts.
pub mod jail;
// How paths of the image are opened.
pub mod root;
// What the cache needs to know of a library.
pub mod elf;
// The cache file.
pub mod ld_so_cache;
// The same for people.
pub mod inspect;
// What makes it without ldconfig.
pub mod engine;
// What the container's linker is told.
pub mod ld_so_conf;
// The same for another C library.
pub mod musl;
// Patterns in it.
pub mod glob;
// The program that writes the cache.
pub mod ldconfig;
// Where a byte is.
mod byte;
// Where many of them are.
pub mod pages;
// Where few of many are.
pub mod blocks;
// What is private otherwise.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
