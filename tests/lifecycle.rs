//! The runtime restarts, the plugin dies, two of them run: what a node goes through in its life.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::e2e::{ANNOTATION, BY_CDI, BY_DEVICES, Running, request};
use crate::endpoint::{ADDRESS, get_inside, sample, sum};
use crate::gpu;
use crate::installation::Installation;
use crate::matrix::{binary, together};
use crate::node::{self, Release};
use crate::pod::Pod;

/// How often containerd is restarted, and the plugin killed, on each node.
const ROUNDS: u32 = 20;

/// How soon the plugin is back when containerd is.
const BACK: Duration = Duration::from_secs(10);

/// A check on a node of its own for each containerd.
fn on_each(check: impl Fn(&mut Installation) -> Result<()> + Sync) -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    let releases = together([Release::Trixie, Release::Forky], |release| {
        let mut node = Installation::without_plugin(release, binary())?;
        let checked = check(&mut node);
        if checked.is_err() {
            eprintln!("{}", node.logs());
        }
        checked.with_context(|| release.to_string())
    });
    releases.into_iter().collect()
}

/// Whether the plugin is asked about containers, in its how manieth connection; an error while it can't say.
fn service(node: &Installation) -> Result<Option<u32>> {
    let metrics = node.metrics()?;
    let synchronized = sample(&metrics, "synchronized")? == 1.0;
    Ok(synchronized.then_some(sample(&metrics, "connects_total")? as u32))
}

/// An upgrade of containerd, and its crash: the plugin finds the way back by itself, and a pod that was created while it was
/// connected has its hook.
#[test]
fn the_plugin_outlives_containerd() -> Result<()> {
    on_each(|node| {
        node.start_plugin()?;
        let (done, pods, sure) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        let node = &*node;
        let slowest = thread::scope(|scope| {
            let creator = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    pods.fetch_add(1, Ordering::Relaxed);
                    sure.fetch_add(creation(node)?.into(), Ordering::Relaxed);
                }
                Ok::<_, anyhow::Error>(())
            });
            let restarted = restart_again_and_again(node, || sure.load(Ordering::Relaxed));
            done.store(true, Ordering::Relaxed);
            creator.join().expect("the creator returns errors")?;
            restarted
        })?;
        let pod = request(node, "runc", BY_CDI)?;
        ensure!(pod.exec(&[gpu::APP])?.stdout == gpu::GREETING, "not refreshed at the end");
        let metrics = node.metrics()?;
        let gap = sample(&metrics, "disconnected_seconds_total")?;
        let ended = sample(&metrics, "disconnects_total{reason=\"runtime\"}")?;
        let ends = f64::from(ROUNDS)..=f64::from(2 * ROUNDS);
        ensure!(ends.contains(&ended) && gap > 0.0, "{ended} ends, {gap} s of gap");
        let (made, all) =
            (sample(&metrics, "connects_total")?, sum(&metrics, "disconnects_total", "reason")?);
        ensure!(all == made - 1.0, "{made} connections were made, and {all} ended");
        let (pods, sure) = (pods.into_inner(), sure.into_inner());
        println!(
            "{}: {ROUNDS} restarts, {gap:.1} s of gap, connected {slowest:?} after containerd was ready at the latest; {pods} pods under way, {sure} of them while the plugin was connected, all with a hook",
            node.release
        );
        Ok(())
    })
}

/// Each time, until the plugin is connected again and a pod was created meanwhile that must have a hook; and between two of
/// them it stays connected. The longest time from when containerd was ready to when the plugin was connected.
fn restart_again_and_again(node: &Installation, sure: impl Fn() -> u32) -> Result<Duration> {
    let (mut slowest, mut connected) = (Duration::ZERO, service(node)?.context("not connected")?);
    for round in 0..ROUNDS {
        let before = stayed(node, connected).with_context(|| format!("before round {round}"))?;
        node.containerd.restart(["TERM", "KILL"][round as usize % 2])?;
        let (start, pods) = (Instant::now(), sure());
        // A containerd that is ending may have taken us in once more.
        connected = loop {
            match service(node)? {
                Some(now) if now != before => break now,
                _ => ensure!(start.elapsed() < BACK, "round {round}: not connected again"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        slowest = slowest.max(start.elapsed());
        while sure() == pods {
            ensure!(start.elapsed() < BACK * 3, "round {round}: no pod with a hook");
            thread::sleep(Duration::from_millis(50));
        }
    }
    stayed(node, connected)?;
    Ok(slowest)
}

/// The connection that was there before, and must still be there.
fn stayed(node: &Installation, connected: u32) -> Result<u32> {
    let now = service(node)?;
    ensure!(now == Some(connected), "connection {now:?}, not {connected} as before");
    Ok(connected)
}

/// Creates a pod; if the plugin was connected from its beginning to its end, it must have a hook, and that is sure.
fn creation(node: &Installation) -> Result<bool> {
    let before = service(node)?;
    let pod = request(node, "runc", BY_DEVICES);
    let after = service(node)?;
    // Where containerd was killed, nothing can be expected.
    let Ok(pod) = pod else { return Ok(false) };
    if before.is_none() || before != after {
        return Ok(false);
    }
    ensure!(pod.hooks()? == 1, "a pod without a hook while the plugin was connected");
    let app = pod.exec(&[gpu::APP]);
    // containerd may have been killed since.
    ensure!(app.is_err() || app?.stdout == gpu::GREETING, "a hook and no libcuda");
    Ok(true)
}

/// containerd drops a plugin that dies; what must never happen is that a pod does not start because of us.
#[test]
fn pods_start_while_the_plugin_is_killed() -> Result<()> {
    on_each(|node| {
        let (done, kills) = (AtomicBool::new(false), AtomicU32::new(0));
        let node = &*node;
        thread::scope(|scope| {
            let killer = scope.spawn(|| kill_until(node, &done, &kills));
            let mut runtimes = ["runc", "crun"].into_iter().cycle();
            let mut pods = 0;
            let created = runtimes.try_for_each(|runtime| {
                if pods >= 20 && kills.load(Ordering::Relaxed) >= ROUNDS {
                    return Err(None);
                }
                pods += 1;
                request(node, runtime, BY_CDI).map(drop).map_err(Some)
            });
            done.store(true, Ordering::Relaxed);
            killer.join().expect("the killer returns errors")?;
            println!("{}: {pods} pods, {} kills", node.release, kills.load(Ordering::Relaxed));
            created.or_else(|error| error.map_or(Ok(()), Err))
        })
    })
}

/// Starts the plugin and kills it a little later each time, so that it dies at every stage of its work.
fn kill_until(node: &Installation, done: &AtomicBool, kills: &AtomicU32) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        let plugin = node.spawn_plugin()?;
        let count = kills.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(u64::from(count % 10) * 20));
        plugin.end("KILL")?;
    }
    Ok(())
}

/// A rolling update with a surge, or two charts by mistake: the second sees the hook of the first.
#[test]
fn two_plugins_inject_one_hook() -> Result<()> {
    on_each(|node| {
        node.start_plugin()?;
        let args = ["--idx", "95", "--http-address", "127.0.0.1:9178"];
        let mut second = node.spawn_plugin_as("second", &args)?;
        second.wait_until("synchronized", |second| second.log().contains("synchronized"))?;
        for runtime in ["runc", "crun"].into_iter().cycle().take(4) {
            let pod = request(node, runtime, BY_DEVICES)?;
            ensure!(pod.hooks()? == 1, "{} hooks", pod.hooks()?);
            ensure!(pod.exec(&[gpu::APP])?.stdout == gpu::GREETING, "not refreshed");
        }
        let seen = get_inside(node.containerd.node(), "127.0.0.1:9178", "/metrics")?.body;
        let left = "decisions_total{decision=\"leave\",reason=\"has-hook\"}";
        ensure!(sample(&node.metrics()?, "hooks_injected_total")? == 4.0, "by the first");
        ensure!(sample(&seen, left)? == 4.0, "by the second");
        // The first goes, the second takes over.
        node.plugin.take().context("the plugin was started")?.end("TERM")?;
        ensure!(request(node, "runc", BY_DEVICES)?.hooks()? == 1, "nobody took over");
        Ok(())
    })
}

/// What ran before the plugin has no hook, and is told; what it has given a hook is not, by a plugin that comes later.
#[test]
fn containers_that_ran_before_the_plugin_are_counted() -> Result<()> {
    on_each(|node| {
        let without = |node: &Installation| sample(&node.metrics()?, "containers_without_hook");
        {
            let node: &Installation = node;
            let (pod, container) = BY_DEVICES(Pod::new("off", "runc"), gpu::with_app("app"));
            let _disabled =
                Running::start(node, &pod.annotation(ANNOTATION, "disabled"), &container)?;
            let _plain = request(node, "runc", |pod, container| (pod, container))?;
            let _hooked = request(node, "runc", |pod, app| (pod, app.cdi(gpu::CDI_WITH_HOOK)))?;
            let gpu_pod = request(node, "runc", BY_DEVICES)?;
            let plugin = synchronized(node)?;
            ensure!(without(node)? == 1.0, "{} of 1 without a hook", without(node)?);
            ensure!(plugin.log().contains("some=\"default/test-"), "{}", plugin.log());
            drop(gpu_pod);
            ensure!(without(node)? == 0.0, "{} after it is gone", without(node)?);
            let _ours = request(node, "runc", BY_DEVICES)?;
            plugin.end("TERM")?;
            let _plugin = synchronized(node)?;
            ensure!(without(node)? == 0.0, "{} although ours has a hook", without(node)?);
        }
        Ok(())
    })
}

fn synchronized(node: &Installation) -> Result<Daemon> {
    let mut plugin = node.spawn_plugin()?;
    plugin.wait_until("synchronized", |_| {
        let answer = get_inside(node.containerd.node(), ADDRESS, "/readyz");
        answer.is_ok_and(|answer| answer.status == 200)
    })?;
    Ok(plugin)
}
