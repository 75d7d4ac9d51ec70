//! Installing on a host: at every moment the file at the final path is whole and runs, or is not there.

mod daemon;
mod directory;
mod ground;
mod kill;
mod removal;
mod versions;

use std::process::Stdio;
use std::thread;

use anyhow::{Result, ensure};

use ground::{Ground, Program};

#[test]
fn an_installation_prints_its_path_and_writes_nothing_the_second_time() -> Result<()> {
    let (ground, program) = (Ground::new()?, Program::first()?);
    let path = ground.install(program)?;
    ensure!(path == ground.dir().join(program.name()?), "{}", path.display());
    let before = ground.tree()?;
    ground.install(program)?;
    ensure!(ground.tree()? == before, "{}", ground.tree()?);
    Ok(())
}

#[test]
fn a_file_that_was_changed_is_replaced() -> Result<()> {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    let (ground, program) = (Ground::new()?, Program::first()?);
    let path = ground.install(program)?;
    for spoil in [
        &(|| write(&path, "")) as &dyn Fn() -> std::io::Result<()>,
        &|| write(&path, "#!/bin/true"),
        &|| set_permissions(&path, Permissions::from_mode(0o644)),
        &|| set_permissions(&path, Permissions::from_mode(0o4777)),
    ] {
        spoil()?;
        ensure!(ground.install(program)? == path);
        program.check(&path)?;
    }
    Ok(())
}

#[test]
fn installations_at_once_wait_for_each_other() -> Result<()> {
    let ground = Ground::new()?;
    let programs = [Program::first()?.clone(), Program::other("a")?, Program::other("b")?];
    for _ in 0..5 {
        let children =
            programs.iter().cycle().take(9).map(|program| {
                Ok((program, ground.command(program).stdout(Stdio::piped()).spawn()?))
            });
        let children = children.collect::<Result<Vec<_>>>()?;
        for (program, child) in children {
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            program.check(&ground.dir().join(program.name()?))?;
        }
        ensure!(ground.names()?.len() == programs.len(), "{:?}", ground.names()?);
        ground.empty()?;
    }
    Ok(())
}

#[test]
fn the_umask_is_not_minded() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (ground, program) = (Ground::new()?, Program::first()?);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"umask 0777; exec "$@""#, "sh"]);
    let command = ground.command(program);
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    crate::shell::output(&mut shell)?;
    program.check(&ground.dir().join(program.name()?))?;
    let mode = ground.dir().metadata()?.permissions().mode();
    ensure!(mode & 0o7777 == 0o755, "{mode:o}");
    Ok(())
}

/// What a test that looks all the time saw wrong.
fn while_watched(
    watch: impl Fn() -> Result<()> + Sync,
    work: impl FnOnce() -> Result<()>,
) -> Result<u32> {
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                watch()?;
                looks += 1;
            }
            anyhow::Ok(looks)
        });
        let worked = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let looks = watcher.join().expect("a watch returns errors")?;
        worked.map(|()| looks)
    })
}
