//! The second process of a hook, watched from outside.

use std::fs::{self, File, TryLockError};
use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{close, fchdir};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::process::{Child, Killed};
use super::{Executes, Shield, answer, seccomp};
use crate::oci::Rootfs;

/// Of the time that a hook has, the part that is kept for undoing and for telling: a fifth.
const RESERVE: u32 = 5;

/// Closes every descriptor but the standard ones: what a runtime left open must not be there for anything that runs inside
/// (runc's CVE-2024-21626).
pub fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.collect::<Vec<i32>>()
    });
    for fd in open.unwrap_or_else(|_| (3..256).collect()) {
        if fd > 2 {
            // The one that listed them is closed already.
            let _ = close(fd);
        }
    }
}

/// Runs `inside` in a process of its own, with `rootfs` as working directory, until `end` at most. It is given what shields it,
/// and the time at which it should have ended. Returns its answer, and itself, which may be about to end: that takes the kernel some
/// time, for mounts end with it.
///
/// The process is forked, not executed anew: that costs a millisecond less (in a virtual machine most of it for CPUID,
/// which every start of a C library asks for), and needs no procfs to find this program in.
pub fn run<T: Serialize + DeserializeOwned>(
    rootfs: &Rootfs,
    executes: Executes,
    end: Instant,
    inside: impl FnOnce(Shield, Instant) -> Result<T>,
) -> Result<(T, Killed)> {
    let name = rootfs.path().display();
    fchdir(rootfs).with_context(|| format!("change into root {name}"))?;
    let lock = lock(end).with_context(|| format!("lock root {name}"))?;
    let shield = match executes {
        Executes::Nothing if seccomp::is_there() => Shield::Seccomp,
        _ => Shield::Namespaces(isolate().context("unshare namespaces")?),
    };
    let (reader, writer) = pipe().context("make pipe")?;
    let reserve = end.saturating_duration_since(Instant::now()) / RESERVE;
    let child = Child::spawn(|| {
        // Both lead to the container's mounts as they are outside, where volumes can be written.
        let _ = close(rootfs.as_fd().as_raw_fd());
        let _ = close(lock.as_raw_fd());
        i32::from(answer::tell(&inside(shield, end - reserve), &writer).is_err())
    });
    let child = child.context("fork")?;
    drop(writer);
    let answer = answer::listen(reader, end);
    // Whatever it started ends with it, if it is pid 1 of their namespace.
    let killed = child.kill().context("kill jail")?;
    let understood = answer.and_then(|answer| {
        let silent = || format!("jail ended without an answer: {:?}", killed.status());
        ensure!(!answer.is_empty(), silent());
        answer::understand(&answer)
    });
    Ok((understood.with_context(|| format!("update {name}"))?, killed))
}

/// Locks the working directory against other hooks, for as long as this process or its child has it open.
///
/// The lock is on the directory itself, so that nothing is left behind: ldconfig has a temporary file of a fixed name, and
/// a run that puts its changes back must not do so under one that relies on them.
fn lock(end: Instant) -> Result<File> {
    let root = File::open(".")?;
    loop {
        match root.try_lock() {
            Ok(()) => return Ok(root),
            Err(TryLockError::WouldBlock) => {
                ensure!(Instant::now() < end, "another update of it takes too long");
                sleep(Duration::from_millis(2));
            }
            // A filesystem without locks has no second hook either, but for one that its user asked for.
            Err(TryLockError::Error(_)) => return Ok(root),
        }
    }
}

/// Leaves the host's namespaces, but for the mount namespace, which [`super::enter`] leaves itself. Returns those that it
/// could not leave.
///
/// Sandboxes refuse some of them, so it gives up what protects least first. The pid namespace holds for the next child.
fn isolate() -> nix::Result<Vec<String>> {
    const WANTED: [(CloneFlags, &str); 4] = [
        (CloneFlags::CLONE_NEWPID, "pid"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWNET, "network"),
    ];
    for some in (1..=WANTED.len()).rev() {
        match unshare(WANTED[..some].iter().map(|(flag, _)| *flag).collect()) {
            Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSPC) => {}
            done => return done.map(|()| names(&WANTED[some..])),
        }
    }
    Ok(names(&WANTED))
}

fn names(refused: &[(CloneFlags, &str)]) -> Vec<String> {
    refused.iter().map(|(_, name)| format!("{name} namespace")).collect()
}
