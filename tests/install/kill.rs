//! Installations that are killed.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ground::{Ground, Program};
use super::while_watched;
use crate::interrupt::moment::Random;

const KILLS: u32 = 120;

/// Another process looks at the final paths all the time, and executes what is there.
#[test]
fn an_installation_that_is_killed_leaves_a_whole_file_or_none() -> Result<()> {
    let (program, older, mut random) =
        (Program::first()?, Program::other("older")?, Random::seeded()?);
    let (mut hit, mut left, mut placed, mut looks) = (0, 0, 0, 0);
    let takes = time(program)?;
    for number in 0..KILLS {
        let ground = Ground::new()?;
        let old = ground.install(&older)?;
        let new = ground.dir().join(program.name()?);
        let seen = std::sync::atomic::AtomicBool::new(false);
        let watch = || {
            older.check(&old)?;
            let ever = seen.load(std::sync::atomic::Ordering::Relaxed);
            if ever || new.symlink_metadata().is_ok() {
                program.check(&new)?;
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        };
        let moment = random.moment(takes);
        let work = || {
            let mut child = ground.command(program).stdout(Stdio::null()).spawn()?;
            thread::sleep(moment);
            hit += u32::from(child.try_wait()?.is_none());
            child.kill()?;
            child.wait()?;
            placed += u32::from(fs::exists(&new)?);
            left += u32::from(ground.names()?.iter().any(|name| name.starts_with('.')));
            ensure!(ground.install(program)? == new, "installed elsewhere");
            program.check(&new)?;
            ensure!(ground.names()?.len() == 2, "something is left: {:?}", ground.names()?);
            Ok(())
        };
        looks += while_watched(watch, work)
            .with_context(|| format!("kill {number}, after {moment:?} of {takes:?}"))?;
    }
    println!(
        "{KILLS} kills within {takes:?}: {hit} before the end, {left} left a temporary file, {placed} times the file was in place; {looks} looks"
    );
    ensure!(hit > KILLS / 2 && left > KILLS / 8, "most came too late: {hit}, {left}");
    ensure!(looks > KILLS, "nobody looked");
    Ok(())
}

/// How long an installation takes beside somebody who looks: the shortest of some.
fn time(program: &Program) -> Result<Duration> {
    let ground = Ground::new()?;
    let older = Program::other("older")?;
    let path = ground.install(&older)?;
    let mut shortest = Duration::MAX;
    while_watched(
        || older.check(&path),
        || {
            for _ in 0..8 {
                let start = Instant::now();
                let installed = ground.install(program)?;
                shortest = shortest.min(start.elapsed());
                fs::remove_file(installed)?;
            }
            Ok(())
        },
    )?;
    Ok(shortest)
}
