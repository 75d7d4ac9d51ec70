//! A long-running program inside a node.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon of a node, killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    /// The pid inside the node.
    pid: String,
    /// nsenter(1), which lives as long as the daemon.
    child: Child,
    shell: Command,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, whose first line is its pid; `shell` is a shell for which that pid means something.
    pub(crate) fn spawn(
        mut command: Command,
        shell: Command,
        name: &str,
        log: PathBuf,
    ) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut pid = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut pid)?;
        let pid = pid.trim().to_owned();
        Ok(Self { name: name.to_owned(), pid, child, shell, log })
    }

    /// Its pid inside the node.
    pub(crate) fn pid(&self) -> &str {
        &self.pid
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Sends a signal, `TERM` or `KILL`, and waits for the end.
    pub(crate) fn end(mut self, signal: &str) -> Result<()> {
        self.signal(signal)
    }

    /// The same for one that will be replaced.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<()> {
        // The shell's kill: a minimal Debian has no kill(1).
        self.shell.args(["-c", &format!("kill -s {signal} {}", self.pid)]);
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            // Once more every time: it does no harm, and one that came too late does not count as an error.
            self.shell.stderr(Stdio::null()).status()?;
            ensure!(start.elapsed() < PATIENCE, "{} survives {signal}", self.name);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until `happened`; an error, with the end of the log, if the daemon ends or patience does.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        mut happened: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !happened(self) {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let (name, log) = (&self.name, self.log());
                bail!("{name} is not {what} ({ended:?}); its log:\n{}", shell::tail(&log));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.signal("KILL"));
    }
}
