//! What the hook executes: a sealed memfd without an environment, in namespaces of its own, or nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::expected::Engine;
use super::site;
use super::situation::Situation;
use super::victim::{DRIVER, Victim};
use crate::installation::BINARY;
use crate::node::{self, Release};
use crate::shell;

#[test]
fn only_a_sealed_memfd_is_executed() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    for engine in Engine::ALL {
        let trace = trace(engine)?;
        let executed = executed(&trace).with_context(|| format!("{engine:?}:\n{trace}"))?;
        ensure!(executed == usize::from(engine == Engine::Ldconfig), "{engine:?}:\n{trace}");
    }
    Ok(())
}

/// How many programs the hook executes; an error if one of them is another than it should be.
fn executed(trace: &str) -> Result<usize> {
    let ours = format!("execve(\"{BINARY}\"");
    let start = trace.find(&ours).context("the hook is not executed")?;
    let (mut sealed, mut left, mut executed) = (Vec::new(), String::new(), 0);
    for line in trace[start..].lines().skip(1) {
        if let Some(fd) = argument(line, "fcntl(")
            && line.contains("F_ADD_SEALS")
        {
            let all = ["F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE"];
            ensure!(all.iter().all(|seal| line.contains(seal)), "a seal is missing: {line}");
            ensure!(line.ends_with("= 0"), "{line}");
            sealed.push(fd.to_owned());
        }
        if line.contains("unshare(") && line.ends_with("= 0") {
            left += line;
        }
        ensure!(!line.contains("execve(\""), "a path is executed: {line}");
        if let Some(fd) = argument(line, "execveat(") {
            ensure!(line.contains("AT_EMPTY_PATH"), "a path is executed: {line}");
            ensure!(sealed.iter().any(|sealed| sealed == fd), "not sealed: {line}");
            for namespace in ["NEWNS", "NEWPID", "NEWIPC", "NEWUTS", "NEWNET"] {
                ensure!(left.contains(namespace), "in the host's {namespace}: {line}");
            }
            ensure!(line.contains("NULL") || line.contains("0 vars"), "an environment: {line}");
            executed += 1;
        }
    }
    Ok(executed)
}

/// The first argument of a system call.
fn argument<'a>(line: &'a str, call: &str) -> Option<&'a str> {
    let (_, arguments) = line.split_once(call)?;
    arguments.split([',', ')']).next()
}

/// Runs the hook for an innocent container; the machine's strace(1) watches, for the node has none.
fn trace(engine: Engine) -> Result<String> {
    let node = site::start(Release::Forky)?;
    let victim = site::enter(&node, || {
        let victim = Victim::new(Situation::Host, "size=64m")?;
        victim.mount()?;
        victim.state()?;
        Ok(victim)
    })?;
    let log = tempfile::NamedTempFile::new()?;
    let inside = node.command(BINARY);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-s", "256", "-e", "trace=execve,execveat,unshare,fcntl"]);
    strace.arg("-o").arg(log.path()).arg(inside.get_program()).args(inside.get_args());
    strace.args(["update-ldcache", engine.argument(), "--folder", DRIVER, "--container-spec"]);
    strace.arg(victim.state_path());
    shell::output(&mut strace)?;
    Ok(fs::read_to_string(log.path())?)
}
