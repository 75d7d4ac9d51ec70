//! Links the program with packed relocations (`DT_RELR`), where what starts it understands them.
//!
//! A static PIE relocates itself before `main`, and reads its relocations for that. Packed, they are 2 KiB instead of 164, and the
//! daemon has 0.2 MiB less of its file in memory.

use std::env;
use std::process::Command;

/// The first glibc whose static programs apply them (NEWS for 2.36). With an older one they would crash.
const FIRST: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=.cargo/build.rs");
    let [target, host] = ["TARGET", "HOST"].map(|name| env::var(name).unwrap_or_default());
    // Of another machine's libc, or another linker's, nothing is known here.
    if target == host
        && target == "x86_64-unknown-linux-gnu"
        && env::var_os("RUSTC_LINKER").is_none()
        && glibc().is_some_and(|it| it >= FIRST)
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's libc, with which the program is linked (getconf(1)).
fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let (major, minor) =
        str::from_utf8(&answer.stdout).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
