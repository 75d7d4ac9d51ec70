//! Hooks that are killed, frozen, or two at a time: the cache is the old one or the new one, and nothing is left behind.

pub(crate) mod moment;
mod target;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attack::elf::shared_object;
use crate::attack::expected::Engine;
use crate::attack::object;
use crate::attack::site;
use crate::attack::situation::Situation;
use crate::attack::snapshot::Snapshot;
use crate::attack::victim::{DRIVER, Victim};
use crate::gpu;
use crate::installation::BINARY;
use crate::node::{self, Node, Release};
use crate::shell;
use moment::Random;
use target::Target;

/// With each of the engines.
const KILLS: u32 = 90;
const FREEZES: u32 = 10;
const PAIRS: u32 = 10;

/// Of hooks that are frozen, none can have less; and of others.
const SHORT: &str = "--timeout=1";
const LONG: &str = "--timeout=5";
const PATIENCE: Duration = Duration::from_secs(8);

const OURS: [&str; 2] = ["00-nvcr-ldcache.conf", "zz-nvcr-ldcache.conf"];

/// A container whose hook is interrupted again and again.
struct Container {
    node: Node,
    victim: Victim,
    engine: Engine,
    /// The image's cache, and what the hook makes of it.
    old: Vec<u8>,
    new: Vec<u8>,
    /// The whole root after an update.
    updated: Snapshot,
    mounts: String,
    processes: BTreeSet<String>,
    /// How long a hook takes that nobody interrupts.
    takes: Duration,
}

impl Container {
    fn make(engine: Engine) -> Result<Self> {
        let node = site::start(Release::Forky)?;
        let (victim, old) = site::enter(&node, || {
            let victim = Victim::new(Situation::Host, "size=64m")?;
            for number in 0..300 {
                let soname = format!("libsome{number}.so.1");
                let library = format!("{}/{soname}.0", gpu::directory());
                fs::write(victim.path(&library), shared_object(soname.as_bytes()))?;
            }
            let mut ldconfig = Command::new("ldconfig");
            shell::output(ldconfig.arg("-r").arg(victim.root()))?;
            victim.mount()?;
            victim.state()?;
            let old = victim.cache()?;
            Ok((victim, old))
        })?;
        let mut container = Self {
            mounts: fs::read_to_string(node.path("/proc/1/mountinfo"))?,
            processes: processes(&node)?,
            node,
            victim,
            engine,
            old,
            new: Vec::new(),
            updated: Snapshot::default(),
            takes: Duration::ZERO,
        };
        container.complete()?;
        container.takes = container.time()?;
        container.new = container.cache()?;
        container.updated = container.snapshot()?;
        for cache in [&container.old, &container.new] {
            container.valid(cache)?;
        }
        ensure!(container.old != container.new, "the hook changes nothing");
        Ok(container)
    }

    fn root(&self, path: &str) -> PathBuf {
        self.node.path(&self.victim.path(path).to_string_lossy())
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of_container(&self.root(""))
    }

    fn cache(&self) -> Result<Vec<u8>> {
        fs::read(self.root("/etc/ld.so.cache")).context("read the container's cache")
    }

    /// glibc can read it, and finds all of it.
    fn valid(&self, cache: &[u8]) -> Result<()> {
        self.node.write("/opt/cache", "")?;
        fs::write(self.node.path("/opt/cache"), cache)?;
        let listing = self.node.run(&["ldconfig", "-p", "-C", "/opt/cache"])?;
        ensure!(listing.contains("libsome299.so.1"), "{listing}");
        Ok(())
    }

    /// Makes the root what it was before any hook.
    fn reset(&self) -> Result<()> {
        for name in OURS {
            object::remove(&self.root("/etc/ld.so.conf.d").join(name))?;
        }
        Ok(fs::write(self.root("/etc/ld.so.cache"), &self.old)?)
    }

    /// Is a file of ours there?
    fn is_configured(&self) -> bool {
        OURS.iter().any(|name| self.root("/etc/ld.so.conf.d").join(name).exists())
    }

    fn start(&self, limit: &str) -> Result<Child> {
        let mut hook = self.node.command(BINARY);
        hook.args(["update-ldcache", limit, "--folder", DRIVER, "--container-spec"]);
        hook.arg(self.victim.state_path()).arg(self.engine.argument());
        let log = fs::File::create(self.node.path("/run/hook.log"))?;
        Ok(hook.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
    }

    /// An update that nobody interrupts.
    fn complete(&self) -> Result<()> {
        let status = self.start(LONG)?.wait()?;
        let said = || fs::read_to_string(self.node.path("/run/hook.log")).unwrap_or_default();
        ensure!(status.success(), "{status}: {}", said());
        Ok(())
    }

    /// How long an update takes from when the hook is there: the second longest of some, for the machine has more to do.
    fn time(&self) -> Result<Duration> {
        let time = |_| {
            self.reset()?;
            let mut nsenter = self.start(LONG)?;
            Target::Outer.find(&mut nsenter)?;
            let start = Instant::now();
            nsenter.wait()?;
            Ok(start.elapsed())
        };
        let mut times = (0..6).map(time).collect::<Result<Vec<_>>>()?;
        times.sort();
        Ok(times[4])
    }

    /// What must be true after every interruption, and after the update that comes next.
    fn check(&self) -> Result<()> {
        let start = Instant::now();
        while processes(&self.node)? != self.processes {
            let left: Vec<_> =
                processes(&self.node)?.difference(&self.processes).cloned().collect();
            ensure!(start.elapsed() < PATIENCE, "processes are left: {left:?}");
            thread::sleep(Duration::from_millis(1));
        }
        let mounts = fs::read_to_string(self.node.path("/proc/1/mountinfo"))?;
        ensure!(mounts == self.mounts, "mounts are left:\n{mounts}");
        let cache = self.cache()?;
        ensure!(cache == self.old || cache == self.new, "the cache is neither old nor new");
        self.complete().context("update again")?;
        let after = self.snapshot()?;
        let different = self.updated.difference(&after);
        ensure!(different.is_empty(), "an update afterwards leaves {different:?}");
        Ok(())
    }
}

/// The pids of a node, as it numbers them.
fn processes(node: &Node) -> Result<BTreeSet<String>> {
    let names = fs::read_dir(node.path("/proc"))?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect())
}

fn with_each_engine(test: fn(Engine) -> Result<()>) -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let mut engines = Engine::ALL.into_iter();
    engines.try_for_each(|engine| test(engine).with_context(|| format!("{engine:?}")))
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid.try_into()?), signal) {
        // It has ended by itself meanwhile.
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("send {signal}")),
    }
}

fn wait(mut nsenter: Child) -> Result<()> {
    let start = Instant::now();
    while nsenter.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            nsenter.kill()?;
            bail!("the hook does not end");
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

#[test]
fn a_hook_that_is_killed_leaves_the_old_cache_or_the_new_one() -> Result<()> {
    with_each_engine(kills)
}

fn kills(engine: Engine) -> Result<()> {
    let (container, mut random) = (Container::make(engine)?, Random::seeded()?);
    let (mut hit, mut old, mut half) = (0, 0, 0);
    // Follows how much else the machine has to do: of five kills one comes behind the end.
    let mut span = container.takes;
    for number in 0..KILLS {
        container.reset()?;
        let target = Target::of(engine)[number as usize % Target::of(engine).len()];
        let mut nsenter = container.start(LONG)?;
        let moment = random.moment(span);
        Target::Outer.find(&mut nsenter)?;
        thread::sleep(moment);
        let found = target.find(&mut nsenter)?;
        let is_hit = found.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        if let Some(pid) = found {
            send(pid, Signal::SIGKILL)?;
        }
        (hit, span) =
            if is_hit { (hit + 1, span.mul_f64(1.025)) } else { (hit, span.mul_f64(0.9)) };
        wait(nsenter)?;
        let context = || format!("kill {number}, of {target:?} after {moment:?}");
        let is_old = container.cache().with_context(context)? == container.old;
        old += u32::from(is_old);
        half += u32::from(is_old && container.is_configured());
        container.check().with_context(context)?;
    }
    println!(
        "{engine:?}: {KILLS} kills, {hit} before the end, {old} times the cache was the old one, {half} of them beside our configuration"
    );
    let early_and_late = (KILLS / 20..KILLS - KILLS / 20).contains(&old);
    ensure!(hit > KILLS / 4 && early_and_late, "most came at the same time: {hit}, {old}");
    // ldconfig reads what is configured, so that comes first; our own engines know it before it is written.
    let is_whole = engine == Engine::Ldconfig || half * 4 <= old;
    ensure!(is_whole, "{half} of {old} updates were begun and not done");
    Ok(())
}

/// A stopped process dies of SIGKILL alone: of its parent's limit.
#[test]
fn a_jail_that_is_frozen_ends_with_its_limit() -> Result<()> {
    with_each_engine(|engine| freezes(engine, false))
}

/// And of its parent's death, once it has asked the kernel for that, which is the first that it does.
#[test]
fn a_jail_that_is_frozen_ends_with_its_parent() -> Result<()> {
    with_each_engine(|engine| freezes(engine, true))
}

fn freezes(engine: Engine, kill: bool) -> Result<()> {
    let (container, mut random) = (Container::make(engine)?, Random::seeded()?);
    let mut hit = 0;
    for number in 0..FREEZES {
        container.reset()?;
        let inside = &Target::of(engine)[1..];
        let target = inside[number as usize % inside.len()];
        let mut nsenter = container.start(if kill { LONG } else { SHORT })?;
        let moment = random.moment(container.takes / 2);
        let outer = Target::Outer.find(&mut nsenter)?;
        if kill {
            Target::Jail.find_inside(&mut nsenter)?;
        }
        thread::sleep(moment);
        if let Some(pid) = target.find(&mut nsenter)? {
            send(pid, Signal::SIGSTOP)?;
            hit += 1;
        }
        if let (Some(outer), true) = (outer, kill) {
            send(outer, Signal::SIGKILL)?;
        }
        wait(nsenter)?;
        let context = || format!("freeze {number}, of {target:?} after {moment:?}");
        container.check().with_context(context)?;
    }
    println!("{engine:?}: {FREEZES} freezes, {hit} before the end");
    ensure!(hit > 0, "all came after the end");
    Ok(())
}

#[test]
fn two_hooks_at_once_leave_a_whole_cache() -> Result<()> {
    with_each_engine(pairs)
}

fn pairs(engine: Engine) -> Result<()> {
    let (container, mut random) = (Container::make(engine)?, Random::seeded()?);
    for number in 0..PAIRS {
        container.reset()?;
        let mut one = container.start(LONG)?;
        thread::sleep(random.moment(container.takes / 2));
        let mut other = container.start(LONG)?;
        let ended = (one.wait()?, other.wait()?);
        let log = fs::read_to_string(container.node.path("/run/hook.log"))?;
        ensure!(ended.0.success() && ended.1.success(), "pair {number}: {ended:?} {log}");
        ensure!(container.cache()? == container.new, "pair {number}: the cache is not whole");
        container.check().with_context(|| format!("pair {number}"))?;
    }
    Ok(())
}
