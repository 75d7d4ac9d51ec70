//! What probes and scrapers see of the daemon, whatever the runtime does to it.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nri::api::{CreateContainerRequest, CreateContainerResponse, Message};
use nri::fake::PLUGIN;

use crate::served::{Served, gpu, wait};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_handshake_and_liveness_does_not() -> Result<()> {
    let served = Served::start(&[])?;
    let mut runtime = served.socket.accept().await?;
    let registration = runtime.registration().await?;
    served.is(503, 200, "not registered by the runtime\n")?;
    runtime.accept(&registration).await?;
    runtime.configure().await?;
    served.is(503, 200, "not synchronized by the runtime\n")?;
    ensure!(served.metric("registered")? == 1.0 && served.metric("synchronized")? == 0.0);
    runtime.synchronize(&[], &[], 1).await?;
    served.is(200, 200, "ok\n")?;
    ensure!(served.metric("synchronized")? == 1.0);
    drop(runtime);
    wait(|| served.is(503, 200, "not connected to the runtime\n"))?;
    ensure!(served.metric("registered")? == 0.0);
    ensure!(served.metric("disconnects_total{reason=\"runtime\"}")? == 1.0);
    let runtime = served.registered().await?;
    served.is(200, 200, "ok\n")?;
    ensure!(served.metric("connects_total")? == 2.0);
    drop(runtime);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_file_that_vanishes_is_seen_by_the_next_probe() -> Result<()> {
    let served = Served::start(&[])?;
    let mut runtime = served.registered().await?;
    served.is(200, 200, "ok\n")?;
    let away = served.directory.path().join("away");
    fs::rename(served.hook(), &away)?;
    served.is(503, 200, "find hook")?;
    ensure!(served.metric("hook_file_good")? == 0.0);
    let (pod, container) = gpu("without");
    let answer = runtime.create_container(pod, container).await?;
    ensure!(answer.adjust.hooks.create_container.is_empty(), "a hook that can't be run");
    ensure!(served.metric("hooks_withheld_total{reason=\"missing\"}")? == 1.0);
    fs::rename(&away, served.hook())?;
    served.is(200, 200, "ok\n")?;
    let (pod, container) = gpu("with");
    let answer = runtime.create_container(pod, container).await?;
    ensure!(answer.adjust.hooks.create_container.len() == 1, "no hook");
    fs::write(&away, "another program")?;
    fs::rename(&away, served.hook())?;
    served.is(503, 200, "is not executable for all")?;
    ensure!(served.metric("hooks_injected_total")? == 1.0);
    Ok(())
}

/// The file is as it was, and no container that has it could be created.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_file_whose_mount_becomes_noexec_is_not_injected() -> Result<()> {
    if !crate::node::possible() {
        return Ok(());
    }
    let served = Served::start_apart()?;
    let mut runtime = served.registered().await?;
    served.is(200, 200, "ok\n")?;
    let mount = r#"mount --bind "$1" "$1"; mount -o remount,bind,noexec "$1""#;
    let mut inside = Command::new("nsenter");
    inside.args([
        "--mount",
        "--target",
        &served.daemon.id().to_string(),
        "sh",
        "-euc",
        mount,
        "sh",
    ]);
    ensure!(inside.arg(served.directory.path()).status()?.success());
    served.is(503, 200, "is mounted noexec")?;
    let (pod, container) = gpu("without");
    let answer = runtime.create_container(pod, container).await?;
    ensure!(answer.adjust.hooks.create_container.is_empty(), "a hook that can't be run");
    ensure!(served.metric("hooks_withheld_total{reason=\"not-executable\"}")? == 1.0);
    Ok(())
}

/// A runtime that stops in the middle of a request and does not go away: nothing here mends that but a new connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_makes_it_unready_and_unhealthy() -> Result<()> {
    let served = Served::start(&[])?;
    let mut runtime = served.socket.accept().await?;
    // Long enough for a busy machine to look before it is over twice.
    let limit = Duration::from_secs(2);
    runtime.request_timeout = limit;
    runtime.handshake(&[], &[], 1).await?;
    let start = Instant::now();
    // The header of a request of 100 bytes on stream 99, and the first of these.
    let part = [&[0, 0, 0, 100, 0, 0, 0, 99, 1, 0][..], b"\x0a\x1bnri.pkg"].concat();
    runtime.trunk().send_frame(PLUGIN, &part).await?;
    wait(|| {
        ensure!(served.metric("requests_inflight")? == 1.0);
        Ok(())
    })?;
    served.is(200, 200, "ok\n")?;
    wait(|| served.is(503, 503, "a request is not answered since"))?;
    ensure!(start.elapsed() > 2 * limit, "too early: {:?}", start.elapsed());
    drop(runtime);
    wait(|| served.is(503, 200, "not connected"))?;
    served.registered().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_were_there_before_are_counted_until_they_are_removed() -> Result<()> {
    let served = Served::start(&[])?;
    let mut runtime = served.socket.accept().await?;
    let (pods, containers): (Vec<_>, Vec<_>) = ["a", "b", "c"].map(gpu).into_iter().unzip();
    runtime.handshake(&pods, &containers, 3).await?;
    ensure!(served.metric("containers_without_hook")? == 3.0);
    for (left, (pod, container)) in [2.0, 1.0].into_iter().zip(pods.into_iter().zip(containers)) {
        runtime.remove_container(pod, container).await?;
        ensure!(served.metric("containers_without_hook")? == left);
    }
    Ok(())
}

/// A protobuf field of up to 16 KiB.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len();
    [&[number << 3 | 2, len as u8 | 0x80, (len >> 7) as u8], bytes].concat()
}

/// Closing in the middle of a request would create its container without a hook.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_in_at_sigterm_is_answered() -> Result<()> {
    let mut served = Served::start(&[])?;
    let mut runtime = served.registered().await?;
    let (pod, container) = gpu("last");
    let (pod, container) = (Some(pod).into(), Some(container).into());
    let asked = CreateContainerRequest { pod, container, ..Default::default() };
    let service = field(1, b"nri.pkg.api.v1alpha1.Plugin");
    let asked = field(3, &asked.write_to_bytes()?);
    let request = [service, field(2, b"CreateContainer"), asked].concat();
    let stream = 1001;
    let header = [(request.len() as u32).to_be_bytes(), u32::to_be_bytes(stream)].concat();
    let message = [&header[..], &[1, 0], &request].concat();
    let (first, second) = message.split_at(message.len() / 2);
    runtime.trunk().send_frame(PLUGIN, first).await?;
    wait(|| {
        ensure!(served.metric("requests_inflight")? == 1.0);
        Ok(())
    })?;
    served.signal("TERM")?;
    sleep(Duration::from_millis(300));
    runtime.trunk().send_frame(PLUGIN, second).await?;
    let answer: CreateContainerResponse = runtime.finish(stream).await?;
    ensure!(answer.adjust.hooks.create_container.len() == 1, "no hook: {answer:?}");
    runtime.closed().await?;
    ensure!(served.daemon.wait()?.success());
    Ok(())
}
