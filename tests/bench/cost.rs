//! What a refresh reads.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{shell, time};

/// What a way to refresh a root reads.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// Files that it opens to read or write them; directories aside.
    pub(crate) opened: usize,
    /// Of these, those in the root.
    pub(crate) in_root: usize,
    /// Bytes that it reads, of files and all else. ldconfig maps libraries, which are not in here.
    pub(crate) read: u64,
    /// Bytes that come from the disk because of it after the page cache was dropped, with what the kernel reads ahead.
    pub(crate) fetched: u64,
}

impl Cost {
    /// Opened files and bytes that are read, by strace(1).
    pub(crate) fn traced(command: &Command) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut strace = Command::new("/usr/bin/strace");
        let calls = "trace=open,openat,openat2,read,pread64,readv,preadv,pivot_root";
        strace.args(["-f", "-e", calls, "-o"]);
        strace.arg(log.path()).arg(command.get_program()).args(command.get_args());
        time(&mut strace)?;
        let log = fs::read_to_string(log.path())?;
        let mut cost = Self::default();
        // The hook's first process stays outside, and others open nothing of the host any more once one is inside. ldconfig -r
        // opens its own libraries, if any, and then the root's.
        let outside = log.lines().find(|line| line.contains(" pivot_root("));
        let first = log.split_whitespace().next().filter(|_| outside.is_some());
        let mut is_inside = outside.is_none();
        for line in log.lines() {
            is_inside |= line.contains(" pivot_root(");
            let returned = line.rsplit_once(" = ").and_then(|(_, value)| value.parse::<u64>().ok());
            let Some(returned) = returned else { continue };
            match line.contains(" open") {
                true if line.contains("O_PATH") || line.contains("O_DIRECTORY") => {}
                true => {
                    cost.opened += 1;
                    let is_outside = first.is_some() && line.split_whitespace().next() == first;
                    cost.in_root += usize::from(is_inside && !is_outside);
                }
                false => cost.read += returned,
            }
        }
        Ok(cost)
    }
}

/// Bytes that a command makes the disk read (proc_pid_io(5), which counts children that were waited for).
pub(crate) fn fetched(command: &mut Command) -> Result<u64> {
    let count = || -> Result<u64> {
        let io = fs::read_to_string("/proc/self/io")?;
        let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        Ok(line.context("no read_bytes")?.parse()?)
    };
    let before = count()?;
    time(command)?;
    Ok(count()? - before)
}

/// Makes the next access to each file one to the disk (Documentation/admin-guide/sysctl/vm.rst, `drop_caches`).
pub(crate) fn drop_page_cache() -> Result<()> {
    shell::output(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop the page cache")
}
