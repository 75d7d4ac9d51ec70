//! The OCI hook: two processes of this program, one outside the container and one inside.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::discover;
use crate::engine::{self, Made};
use crate::found::Found;
use crate::jail::{self, Changes, Confined, Executes, Jail, Killed, Memory, Shield};
use crate::ld_so_conf::Plan;
use crate::ldconfig::Ldconfig;
use crate::musl;
use crate::oci::State;
use crate::report::Report;
use crate::update::{Engine, LibDir, Update};

/// What an update did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// The most memory that the process in the jail had, in KiB.
    pub memory: Option<u64>,
    /// Who made the cache: not who was asked, if the image's cache was no base.
    pub engine: Engine,
    /// Why that was no base.
    pub fallback: Option<String>,
    /// Directories that the linker did not search before.
    pub added: Vec<String>,
    /// What the linker finds now; `None` if the cache could not be read back.
    pub found: Option<Found>,
    /// Layers of the sandbox that could not be had, each with its reason.
    pub refused: Vec<String>,
    /// What took how long, in microseconds, in order.
    pub steps: Vec<(String, u64)>,
}

/// Runs on the host, as the container's runtime started us: finds the root, seals the program, starts the jail.
///
/// `state` is the file with the container's state; empty or `-` is standard input. What came of it is written to the
/// host, where that can be; an error there changes nothing of what came of it.
pub fn run(update: &Update, state: &OsStr) -> Result<()> {
    let start = Instant::now();
    jail::close_inherited();
    let end = start + update.timeout();
    let state = read_state(state, end)?;
    // A bug of ours is no reason for a container not to start, if other failures are none.
    let result = catch_unwind(AssertUnwindSafe(|| update_root(update, &state, end)));
    let result = result.unwrap_or_else(|_| Err(anyhow!("panicked")));
    // The kernel takes the jail apart while we tell; it is waited for at the end.
    let (result, _killed) = match result {
        Ok((done, killed)) => (Ok(done), Some(killed)),
        Err(error) => (Err(error), None),
    };
    // In a user namespace the host's directory can't be written.
    let _ = Report::new(&state.id, start.elapsed(), &result).write(update.report_dir());
    result.map(drop)
}

fn read_state(source: &OsStr, end: Instant) -> Result<State> {
    match source.as_encoded_bytes() {
        b"" | b"-" => State::read(Patient(io::stdin(), end), "from standard input"),
        _ => {
            let name = source.display().to_string();
            let file = jail::open_without_waiting(source.as_ref());
            let file = file.with_context(|| format!("open state {name}"))?;
            State::read(Patient(file, end), &name)
        }
    }
}

/// What is read until a deadline.
struct Patient<R>(R, Instant);

impl<R: Read + AsFd> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match jail::readable(&self.0, self.1) {
            Ok(true) => self.0.read(buffer),
            Ok(false) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
        }
    }
}

fn update_root(update: &Update, state: &State, end: Instant) -> Result<(Done, Killed)> {
    let rootfs = state.rootfs()?;
    // What is executed inside is opened outside, before there is anything of the container to be met.
    let ldconfig = match update.engine() {
        Engine::Ldconfig => Some(Ldconfig::seal(update.ldconfig_path())?),
        Engine::Auto | Engine::Incremental | Engine::Native => None,
    };
    let ldconfig = ldconfig.as_ref();
    let inside = |shield, end| refresh(update, ldconfig, shield, end);
    jail::run(&rootfs, executes(ldconfig), end, inside)
}

fn executes(ldconfig: Option<&Ldconfig>) -> Executes {
    ldconfig.map_or(Executes::Nothing, |_| Executes::Ldconfig)
}

/// Runs in the container's root as working directory.
fn refresh(
    update: &Update,
    ldconfig: Option<&Ldconfig>,
    shield: Shield,
    end: Instant,
) -> Result<Done> {
    let (mut clock, memory) = (Clock::start(), Memory::watch());
    let jail = jail::enter(update.sandbox(), executes(ldconfig), shield, update.timeout());
    let jail = jail.context("enter jail")?;
    clock.lap("enter");
    let update = with_discovered(update, &jail);
    let plan = Plan::make(jail.root(), update.dirs()).context("plan configuration")?;
    let musl = musl::Plan::make(jail.root(), update.dirs()).context("plan musl's configuration")?;
    clock.lap("plan");
    let confined = jail.confine(plan.linked())?;
    clock.lap("confine");
    let mut changes = Changes::begin(&confined);
    let change = || {
        let prepared = plan.prepare(&mut changes).and_then(|()| musl.prepare(&changes));
        prepared.context("configure linker")?;
        match ldconfig {
            Some(ldconfig) => {
                configure(&plan, &musl, &mut changes)?;
                ldconfig.run(&confined, &mut changes, plan.left_out(), end).map(|()| None)
            }
            None => make_cache(&update, &plan, &musl, &mut changes, end).map(Some),
        }
    };
    // What was changed before a bug of ours showed is put back, too.
    let made = catch_unwind(AssertUnwindSafe(change));
    let made = match made.unwrap_or_else(|_| Err(anyhow!("panicked"))) {
        Ok(made) => made,
        Err(error) => return Err(put_back(changes, error)),
    };
    clock.lap("cache");
    let found = Found::read(confined.root(), made.as_ref(), update.dirs()).ok();
    clock.lap("check");
    let (engine, fallback) = maker(update.engine(), made);
    let memory = memory.peak();
    let (added, refused) = (plan.added().to_vec(), confined.refused().to_vec());
    Ok(Done { memory, engine, fallback, added, found, refused, steps: clock.steps })
}

/// The update with what the hook finds itself, if it shall look.
fn with_discovered(update: &Update, jail: &Jail) -> Update {
    let mut update = update.clone();
    if update.discovers() {
        let found = discover::dirs(jail.root(), jail.mounted());
        // One too many is told by the policy, which knows who asked; here nobody did.
        found.into_iter().for_each(|dir| drop(update.add(dir)));
    }
    update
}

/// Half an update is worse than none: the next ldconfig in the container would finish it.
fn put_back(changes: Changes<'_>, error: anyhow::Error) -> anyhow::Error {
    match changes.undo() {
        Ok(()) => error,
        Err(undone) => error.context(format!("put configuration back: {undone:#}")),
    }
}

/// Writes what the linker is told.
fn configure(plan: &Plan, musl: &musl::Plan, changes: &mut Changes<'_>) -> Result<()> {
    let written = plan.apply(changes).and_then(|()| musl.apply(changes));
    written.context("configure linker")
}

/// Makes the cache, and the links that it needs, without executing anything.
///
/// The cache comes first, and what is written last: whoever is killed while it looks through the image leaves no configuration
/// beside a cache that does not know it.
fn make_cache(
    update: &Update,
    plan: &Plan,
    musl: &musl::Plan,
    changes: &mut Changes<'_>,
    end: Instant,
) -> Result<Made> {
    let (cache, confined) = (Path::new(engine::CACHE), changes.confined());
    changes.expect_no_directory(cache)?;
    let mut made = search(update, plan.dir_lines(), confined, end)?;
    configure(plan, musl, changes)?;
    let lines = plan.dir_lines_of(confined.root()).context("read configuration")?;
    // An image may have other names for our files, and links that lead to them now.
    if lines != plan.dir_lines() {
        drop(made);
        made = search(update, &lines, confined, end)?;
    }
    changes.finish(cache, &made.cache)?;
    Ok(made)
}

/// Looks through the directories of a configuration.
fn search(update: &Update, lines: &[Vec<u8>], confined: &Confined, end: Instant) -> Result<Made> {
    let (root, links) = (confined.root(), &mut &*confined);
    let added: Vec<_> = update.dirs().iter().map(LibDir::as_str).collect();
    let dirs = engine::Dirs { lines, added: &added };
    let made = match update.engine() {
        Engine::Native => engine::full(root, dirs, links, end),
        _ => engine::incremental(root, dirs, links, end),
    };
    let made = made.context("make cache")?;
    ensure!(Instant::now() < end, "make cache: its time was up");
    Ok(made)
}

/// Who made the cache, and why not who was asked.
fn maker(asked: Engine, made: Option<Made>) -> (Engine, Option<String>) {
    match (made, asked) {
        (None, _) => (Engine::Ldconfig, None),
        (Some(Made { fallback: None, .. }), Engine::Auto | Engine::Incremental) => {
            (Engine::Incremental, None)
        }
        (Some(made), _) => (Engine::Native, made.fallback),
    }
}

struct Clock {
    last: Instant,
    steps: Vec<(String, u64)>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    fn lap(&mut self, step: &str) {
        let now = Instant::now();
        let taken = now - std::mem::replace(&mut self.last, now);
        self.steps.push((step.to_owned(), taken.as_micros() as u64));
    }
}
