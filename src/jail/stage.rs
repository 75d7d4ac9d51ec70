//! The second process of a hook: started in new namespaces, watched from outside.

use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::fchdir;

use crate::ldconfig::Ldconfig;
use crate::oci::Rootfs;
use crate::update::Update;

/// Bytes kept of what the stage says; ldconfig has a warning for each odd file of an image.
const STDERR_LIMIT: usize = 16 << 10;

/// Characters kept of its last line.
const REASON_LIMIT: usize = 400;

/// Runs the sub-command `jail` of this program on `rootfs`, in namespaces of its own, until its time is up.
pub fn run(rootfs: &Rootfs, update: &Update, ldconfig: Ldconfig) -> Result<()> {
    let name = rootfs.path().display();
    fchdir(rootfs).with_context(|| format!("change into root {name}"))?;
    isolate().context("unshare namespaces")?;
    let mut stage = Command::new("/proc/self/exe")
        .arg0("nri-ldcache")
        .arg("jail")
        .args(update.to_args())
        .env_clear()
        .stdin(ldconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start jail")?;
    let outcome = watch(&mut stage, Instant::now() + update.timeout());
    // Its descendants, if it has any, end with it: it is pid 1 of their namespace.
    let _ = stage.kill();
    let status = stage.wait().context("wait for jail")?;
    let said = outcome.with_context(|| format!("update {name}"))?;
    ensure!(status.success(), "update {name}: {}", reason(&said, &status.to_string()));
    Ok(())
}

/// Leaves the host's namespaces, but for the mount namespace, which [`super::enter`] leaves itself.
///
/// Sandboxes refuse some of them, so it gives up what protects least first. The pid namespace holds for the next child.
fn isolate() -> nix::Result<()> {
    let wanted = [
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWIPC,
        CloneFlags::CLONE_NEWUTS,
        CloneFlags::CLONE_NEWNET,
    ];
    for some in (1..=wanted.len()).rev() {
        match unshare(wanted[..some].iter().copied().collect()) {
            Err(Errno::EPERM | Errno::EINVAL | Errno::ENOSPC) => {}
            done => return done,
        }
    }
    Ok(())
}

/// Collects what the stage writes to its standard error, until it ends or `deadline` has passed.
fn watch(stage: &mut Child, deadline: Instant) -> Result<Vec<u8>> {
    let mut stderr = stage.stderr.take().context("take standard error of jail")?;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        wait_readable(&stderr, deadline)?;
        let count = stderr.read(&mut buffer).context("read standard error of jail")?;
        if count == 0 {
            return wait_ended(stage, deadline).map(|()| said);
        }
        said.extend_from_slice(&buffer[..count]);
        // The last lines have the reason.
        let excess = said.len().saturating_sub(STDERR_LIMIT);
        said.drain(..excess);
    }
}

fn wait_readable(file: &impl AsFd, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "killed, for its time was up");
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error).context("poll jail"),
        }
    }
}

/// The end of its standard error is the end of the stage, but for one that closed it.
fn wait_ended(stage: &mut Child, deadline: Instant) -> Result<()> {
    while stage.try_wait().context("wait for jail")?.is_none() {
        if Instant::now() > deadline {
            bail!("killed, for its time was up");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The last line that was said, without what could hurt a terminal or a log, else `otherwise`.
fn reason(said: &[u8], otherwise: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let Some(line) = said.lines().rfind(|line| !line.trim().is_empty()) else {
        return otherwise.to_owned();
    };
    let mut reason = String::new();
    for character in line.strip_prefix("nri-ldcache: ").unwrap_or(line).chars().take(REASON_LIMIT) {
        match character.is_control() {
            true => _ = write!(reason, "{}", character.escape_default()),
            false => reason.push(character),
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_and_harmless() {
        assert_eq!(
            reason(b"warning\nnri-ldcache: enter jail: EPERM\n\n", "x"),
            "enter jail: EPERM"
        );
        assert_eq!(reason(b"\x1b[31mred\n", "x"), "\\u{1b}[31mred");
        assert_eq!(reason(b" \n", "exit status: 1"), "exit status: 1");
        assert_eq!(reason(&[b'a'; 5000], "x").len(), REASON_LIMIT);
    }
}
