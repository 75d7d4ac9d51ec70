//! Directories that can't be installed into: one line that names the directory and the cause, and nothing is left.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use anyhow::{Result, ensure};

use super::ground::{Ground, Program, failed};
use crate::{node, shell};

/// Makes the directory what a test wants, and says why nothing may be installed then.
type Case = (fn(&Ground, &Program) -> Result<()>, &'static str);

#[test]
fn hostile_directories_are_refused_and_left_alone() -> Result<()> {
    let cases: [Case; 9] = [
        (|at, _| Ok(symlink("/tmp", at.dir())?), "/opt/nri-ldcache is a symbolic link"),
        (|at, _| Ok(fs::write(at.dir(), "")?), "/opt/nri-ldcache is a file, not a directory"),
        (|at, _| Ok(fs::remove_dir(at.root().join("opt"))?), "/opt is not there"),
        (
            |at, _| directory(at, 0o777),
            "nri-ldcache: others than its owner may write there (mode 777)",
        ),
        (|at, _| directory(at, 0o1777), "others than its owner may write there"),
        (|at, _| directory(at, 0o775), "others than its owner may write there"),
        (
            |at, program| {
                directory(at, 0o755)?;
                Ok(symlink("/bin/true", at.dir().join(program.name()?))?)
            },
            "is a symbolic link",
        ),
        (
            |at, program| {
                directory(at, 0o755)?;
                let fifo = at.dir().join(program.name()?);
                shell::output(Command::new("mkfifo").arg(fifo)).map(drop)
            },
            "is a FIFO",
        ),
        (
            |at, program| {
                directory(at, 0o755)?;
                Ok(fs::create_dir(at.dir().join(program.name()?))?)
            },
            "is a directory",
        ),
    ];
    let program = Program::first()?;
    for (prepare, expected) in cases {
        let ground = Ground::new()?;
        prepare(&ground, program)?;
        let before = ground.tree()?;
        let said = ground.refused(program)?;
        ensure!(said.starts_with("nri-ldcache: install into /opt/nri-ldcache: "), "{said}");
        ensure!(said.contains(expected), "{expected}: {said}");
        ensure!(ground.tree()? == before, "{expected}: something changed");
    }
    Ok(())
}

fn directory(at: &Ground, mode: u32) -> Result<()> {
    fs::create_dir(at.dir())?;
    Ok(fs::set_permissions(at.dir(), Permissions::from_mode(mode))?)
}

#[test]
fn directories_of_others_are_refused() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    for (below, expected) in [
        ("opt/nri-ldcache", "nri-ldcache: it belongs to user 1000"),
        ("opt", "/opt: it belongs to user 1000"),
    ] {
        let ground = Ground::new()?;
        directory(&ground, 0o755)?;
        chown(ground.root().join(below), Some(1000), None)?;
        let said = ground.refused(Program::first()?)?;
        ensure!(said.contains(expected), "{said}");
    }
    Ok(())
}

/// Runs `install` where a tmpfs is mounted at the directory; `script` is what happens before, in the same namespace.
fn mounted(ground: &Ground, options: &str, script: &str) -> Result<Command> {
    directory(ground, 0o755)?;
    let install = ground.command(Program::first()?);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
    command.arg(format!(
        r#"dir=$1; shift; mount -t tmpfs -o mode=755,{options} tmpfs "$dir"; {script} exec "$@""#
    ));
    command.arg("sh").arg(ground.dir()).arg(install.get_program()).args(install.get_args());
    Ok(command)
}

#[test]
fn mounts_that_can_hold_no_program_are_named() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    for (options, expected) in [
        ("noexec", "which is mounted noexec: Permission denied"),
        ("ro", "Read-only file system"),
        ("size=1m", "No space left on device"),
    ] {
        let ground = Ground::new()?;
        // What is left is looked at in the same namespace.
        let mut command = mounted(
            &ground,
            options,
            r#"status=0; "$@" || status=$?; ls -A "$dir"; exit "$status";"#,
        )?;
        let said = failed(command.output()?)?;
        ensure!(said.contains("install into /") && said.contains("/opt/nri-ldcache"), "{said}");
        ensure!(said.contains(expected), "{expected}: {said}");
    }
    Ok(())
}

#[test]
fn a_read_only_directory_that_has_the_file_is_fine() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let (ground, program) = (Ground::new()?, Program::first()?);
    let name = program.name()?;
    for (script, good) in [
        (r#""$@"; mount -o remount,ro "$dir";"#.to_owned(), true),
        (r#""$@"; mount -o remount,noexec "$dir";"#.to_owned(), false),
        (format!(r#""$@"; : >"$dir/{name}"; mount -o remount,ro "$dir";"#), false),
    ] {
        let output = mounted(&ground, "size=64m", &script)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() == good, "{script}: {said}");
        ensure!(good == said.is_empty(), "{script}: {said}");
        ground.empty()?;
    }
    Ok(())
}
