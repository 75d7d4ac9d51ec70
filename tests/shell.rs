//! Programs of the machine that the tests call.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `command` and returns what it printed; an error carries the command line and its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}\n{stderr}{}", output.status, tail(&stdout));
    Ok(stdout.into_owned())
}

/// Copies a program by a process of its own. What this one has open for writing while another of its threads forks can't be
/// executed until that child has executed something else (execve(2), ETXTBSY).
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    output(Command::new("cp").args(["--preserve=mode", "--"]).args([from, to])).map(drop)
}

/// Tells whoever waits: unlike `eprintln!`, it is seen from a test that passes too.
pub(crate) fn tell(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// The last lines of a long text, the ones that tell why it ended.
pub(crate) fn tail(text: &str) -> &str {
    let start = text.rmatch_indices('\n').nth(20).map_or(0, |(at, _)| at + 1);
    &text[start..]
}
