//! Many containers of all kinds on one node: no wrong decision, no growing memory, no waiting. `soak.sh` makes thousands.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::cri::Sandbox;
use crate::e2e::{ANNOTATION, FOLDERS};
use crate::endpoint::{sample, sum};
use crate::gpu;
use crate::hostile_pods::{fifo, layer, link};
use crate::installation::Installation;
use crate::matrix::{binary, together};
use crate::node::{self, Release};
use crate::pod::{Container, Pod};

/// How many containers are created at the same time.
const WORKERS: usize = 4;

/// A volume of the node that every container may write.
const VOLUME: &str = "/srv/soak";

/// What becomes of a container.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It is left alone.
    Left,
    /// Its linker finds libcuda.
    Updated,
    /// Its hook fails, and it starts all the same.
    Failed,
    /// Somebody else's hook, with our program, makes its linker find libcuda.
    Others,
}

/// A kind of container: in which of the pods it is, how it is made, what its image is made of, and what must come of it.
struct Kind {
    pod: usize,
    make: fn(Container) -> Container,
    prepare: Option<fn(&Path) -> Result<()>>,
    decision: (&'static str, &'static str),
    outcome: Outcome,
}

const NEUTRAL: usize = 0;
const ENABLED: usize = 1;
const DISABLED: usize = 2;

fn pods() -> [Pod; 3] {
    let pod = |name| Pod::new(name, "runc");
    let enabled =
        pod("enabled").annotation(ANNOTATION, "enabled").annotation(FOLDERS, "/opt/driver");
    [pod("neutral"), enabled, pod("disabled").annotation(ANNOTATION, "disabled")]
}

const fn kind(pod: usize, make: fn(Container) -> Container, reason: &'static str) -> Kind {
    let decision = ("update", reason);
    Kind { pod, make, prepare: None, decision, outcome: Outcome::Updated }
}

const fn left(pod: usize, make: fn(Container) -> Container, reason: &'static str) -> Kind {
    Kind { decision: ("leave", reason), outcome: Outcome::Left, ..kind(pod, make, reason) }
}

const fn hostile(prepare: fn(&Path) -> Result<()>) -> Kind {
    let gpu = kind(NEUTRAL, |container| gpu::devices(gpu::files(container)), "device");
    Kind { prepare: Some(prepare), outcome: Outcome::Failed, ..gpu }
}

const KINDS: [Kind; 9] = [
    kind(NEUTRAL, |container| gpu::devices(gpu::files(container)), "device"),
    left(NEUTRAL, |container| container, "not-gpu"),
    kind(NEUTRAL, |c| gpu::files(c).env("NVIDIA_VISIBLE_DEVICES", "all"), "visible-devices"),
    left(DISABLED, gpu::devices, "disabled"),
    kind(ENABLED, |c| c.mount(&format!("{}/lib64", gpu::VOLUME), "/opt/driver"), "annotation"),
    hostile(|layer| fifo(layer, "etc/ld.so.conf")),
    kind(NEUTRAL, |container| container.mount(gpu::VOLUME, "/usr/local/nvidia"), "directory"),
    hostile(|layer| link(layer, "etc/ld.so.conf.d", "/vol/etc/ld.so.conf.d")),
    Kind {
        outcome: Outcome::Others,
        ..left(NEUTRAL, |container| container.cdi(gpu::CDI_WITH_HOOK), "has-hook")
    },
];

#[test]
fn no_container_of_many_is_decided_wrongly() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let count = env::var("SOAK").map_or(Ok(60), |count| count.parse()).context("SOAK")?;
    let releases = match env::var("SOAK_NODE") {
        Ok(release) => vec![release.parse()?],
        Err(_) => vec![Release::Trixie, Release::Forky],
    };
    let soaked = together(releases, |release| {
        let node = Installation::with_plugin(release, binary())?;
        let soaked = soak(&node, count);
        if soaked.is_err() {
            eprintln!("{}", node.logs());
        }
        soaked.with_context(|| release.to_string())
    });
    soaked.into_iter().collect()
}

fn soak(node: &Installation, count: usize) -> Result<()> {
    fs::create_dir_all(node.containerd.node().path(VOLUME).join("etc/ld.so.conf.d"))?;
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let warm = (count / 3).min(100);
    run(node, &next, warm)?;
    let before = rss(node)?;
    run(node, &next, count)?;
    let (took, after) = (start.elapsed(), rss(node)?);
    let metrics = settled(node, count)?;
    decisions_are_right(&metrics, count)?;
    let planted = fs::read_dir(node.containerd.node().path(VOLUME).join("etc/ld.so.conf.d"))?;
    ensure!(planted.count() == 0, "something was written to the volume");
    let quantile = |part| quantile(&metrics, part);
    println!(
        "{}: {count} containers in {:.0} s, none decided wrongly; plugin {before} KiB resident after {warm}, {after} KiB at the end; creation p50 {:.3} ms, p99 {:.3} ms",
        node.release,
        took.as_secs_f64(),
        quantile(0.5)? * 1e3,
        quantile(0.99)? * 1e3,
    );
    ensure!(after * 10 <= before * 11, "memory grew from {before} to {after} KiB");
    // A tenth of what a handler is given: of a few containers on a busy machine, the 99th part is the worst one.
    ensure!(quantile(0.99)? <= 0.1, "p99 of {} s", quantile(0.99)?);
    Ok(())
}

/// Creates containers until `next` has come to `end`.
fn run(node: &Installation, next: &AtomicUsize, end: usize) -> Result<()> {
    thread::scope(|scope| {
        let work = || -> Result<()> {
            let sandboxes = pods().map(|pod| node.containerd.cri().sandbox(&pod));
            let sandboxes = sandboxes.into_iter().collect::<Result<Vec<_>>>()?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    next.fetch_min(end, Ordering::Relaxed);
                    return Ok(());
                }
                let kind = &KINDS[number % KINDS.len()];
                let created = create(node, &sandboxes[kind.pod], kind, number);
                created.with_context(|| format!("container {number}, {:?}", kind.decision))?;
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(|worker| worker.join());
        ended.try_for_each(|ended| ended.map_err(|_| anyhow!("a worker panicked"))?)
    })
}

/// Creates one, looks at it, and removes it.
fn create(node: &Installation, sandbox: &Sandbox<'_>, kind: &Kind, number: usize) -> Result<()> {
    let container = Container::new(&format!("c{number}")).volume(VOLUME, "/vol");
    let id = sandbox.create(&(kind.make)(container))?;
    if let Some(prepare) = kind.prepare {
        prepare(&layer(node, &id)?)?;
    }
    sandbox.start(&id)?;
    let hooks = node.containerd.hooks(&id)?;
    ensure!(hooks.len() == usize::from(kind.outcome != Outcome::Left), "{} hooks", hooks.len());
    let report = node.containerd.node().path(&format!("/run/nri-ldcache/{id}.json"));
    let report = fs::read(report).ok().map(|text| serde_json::from_slice::<Value>(&text));
    let outcome = report.transpose()?.map(|report| report["outcome"].clone());
    let expected = match kind.outcome {
        Outcome::Left => None,
        Outcome::Updated | Outcome::Others => Some(Value::from("updated")),
        Outcome::Failed => Some(Value::from("failed")),
    };
    ensure!(outcome == expected, "outcome {outcome:?}, not {expected:?}");
    // A hostile root's links lead out of it.
    if kind.prepare.is_none() {
        let cache = fs::read(node.containerd.rootfs(&id).join("etc/ld.so.cache"))?;
        let found = cache.windows(13).any(|name| name == b"libcuda.so.1\0");
        ensure!(found == (kind.outcome != Outcome::Left), "libcuda found: {found}");
    }
    sandbox.remove(&id)
}

/// The metrics once the last container's start was told.
fn settled(node: &Installation, count: usize) -> Result<String> {
    let start = Instant::now();
    loop {
        let metrics = node.metrics()?;
        let told = "requests_total{method=\"post-start-container\",result=\"ok\"}";
        // The sandboxes are no containers to NRI.
        if sample(&metrics, told)? as usize == count {
            return Ok(metrics);
        }
        ensure!(start.elapsed() < Duration::from_secs(10), "{told} {}", sample(&metrics, told)?);
        thread::sleep(Duration::from_millis(50));
    }
}

fn decisions_are_right(metrics: &str, count: usize) -> Result<()> {
    let mut expected: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut injected, mut updated, mut failed) = (0, 0, 0);
    for kind in (0..count).map(|number| &KINDS[number % KINDS.len()]) {
        *expected.entry(kind.decision).or_default() += 1;
        injected += usize::from(kind.decision.0 == "update");
        updated += usize::from(matches!(kind.outcome, Outcome::Updated | Outcome::Others));
        failed += usize::from(kind.outcome == Outcome::Failed);
    }
    for ((decision, reason), count) in expected {
        let name = format!("decisions_total{{decision=\"{decision}\",reason=\"{reason}\"}}");
        is(metrics, &name, count)?;
    }
    is(metrics, "hooks_injected_total", injected)?;
    is(metrics, "hook_reports_missing_total", 0)?;
    is(metrics, "connects_total", 1)?;
    let runs = |outcome: &str| sum(metrics, "hook_runs_total", &format!("outcome=\"{outcome}\""));
    ensure!(runs("updated")? as usize == updated, "{} updated, not {updated}", runs("updated")?);
    ensure!(runs("failed")? as usize == failed, "{} failed, not {failed}", runs("failed")?);
    for result in ["error", "panicked", "dropped"] {
        let requests = sum(metrics, "requests_total", &format!("result=\"{result}\""))?;
        ensure!(requests == 0.0, "{requests} requests {result}");
    }
    Ok(())
}

fn is(metrics: &str, name: &str, expected: usize) -> Result<()> {
    let found = sample(metrics, name)? as usize;
    ensure!(found == expected, "{name} is {found}, not {expected}");
    Ok(())
}

/// Resident memory of the plugin in KiB (proc_pid_status(5), `VmRSS`).
fn rss(node: &Installation) -> Result<u64> {
    let pid = node.plugin.as_ref().context("the plugin was started")?.pid();
    let status = fs::read_to_string(node.containerd.node().path(&format!("/proc/{pid}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let Some(size) = line.and_then(|line| line.split_whitespace().next()) else {
        bail!("no VmRSS")
    };
    Ok(size.parse()?)
}

/// Below what so many of all creations took, in seconds: as Prometheus does it, with straight lines between the bounds.
fn quantile(metrics: &str, part: f64) -> Result<f64> {
    let prefix = "nri_ldcache_request_duration_seconds_bucket{";
    let buckets = metrics.lines().filter_map(|line| line.strip_prefix(prefix));
    let buckets = buckets.filter(|line| line.contains("\"create-container\""));
    let parsed = buckets.map(|line| {
        let (labels, count) = line.rsplit_once(' ').context("a bucket without a count")?;
        let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let bound = bound.context("a bucket without a bound")?.replace("+Inf", "inf");
        Ok((bound.parse::<f64>()?, count.parse::<f64>()?))
    });
    let parsed = parsed.collect::<Result<Vec<_>>>()?;
    let rank = part * parsed.last().context("no buckets")?.1;
    let mut below = (0.0, 0.0);
    for (bound, count) in parsed {
        if count >= rank {
            return Ok(below.0 + (bound - below.0) * (rank - below.1) / (count - below.1));
        }
        below = (bound, count);
    }
    bail!("no bucket has all")
}
