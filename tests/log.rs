//! What the daemon logs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nri::fake::FakeSocket;

use crate::matrix::binary;
use crate::served::gpu;

/// Each line of a JSON log is an object, whatever a pod calls itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_has_one_object_a_line() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (path, log) = (directory.path().join("nri.sock"), directory.path().join("log"));
    let socket = FakeSocket::bind(&path)?;
    let mut command = Command::new(binary());
    command.args(["run", "--log-format=json", "--log-level=debug", "--http-address=127.0.0.1:0"]);
    command.arg("--socket-path").arg(&path).arg("--report-dir").arg(directory.path());
    let mut daemon = command.env_clear().stderr(fs::File::create(&log)?).spawn()?;
    let mut runtime = socket.accept().await?;
    let (mut pod, mut container) = gpu("x");
    pod.name = "a\"b\n{}\u{1b}[31m".into();
    pod.annotations.insert("folders.ldcache.noderesource.dev".into(), "\n../x".into());
    runtime.handshake(&[pod.clone()], &[container.clone()], 1).await?;
    runtime.create_container(pod.clone(), container.clone()).await?;
    for report in [
        r#"{"id":"x","outcome":"failed","reason":"a\nb","ended":1,"took":2,"steps":[],"added":[],"refused":[]}"#,
        "{",
    ] {
        fs::write(directory.path().join("x.json"), report)?;
        runtime.post_start_container(pod.clone(), container.clone()).await?;
    }
    container.env.clear();
    runtime.create_container(pod, container).await?;
    drop(runtime);
    sleep(Duration::from_millis(200));
    let stopped = Command::new("kill").args(["-s", "TERM", &daemon.id().to_string()]).status()?;
    ensure!(stopped.success() && daemon.wait()?.success());
    check_json(&log)?;
    let mut command = Command::new(binary());
    command.args(["run", "--log-format=json", "--annotation=a/b"]).env_clear();
    let output = command.output()?;
    let ended: serde_json::Value = serde_json::from_slice(&output.stderr)?;
    ensure!(!output.status.success() && ended["message"] == "ended", "{ended}");
    Ok(())
}

fn check_json(log: &Path) -> Result<()> {
    let log = fs::read_to_string(log)?;
    let mut told = Vec::new();
    for line in log.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).with_context(|| line.to_owned())?;
        let message = object["message"].as_str().with_context(|| line.to_owned())?.to_owned();
        ensure!(object["level"].is_string() && object["timestamp"].is_string(), "{line}");
        told.push(message);
    }
    for event in [
        "served",
        "registered",
        "synchronized",
        "run already",
        "update",
        "not updated",
        "report not read",
        "refused",
        "leave",
        "session ended",
        "stopped",
    ] {
        if !told.iter().any(|message| message.contains(event)) {
            bail!("nothing says {event:?} in\n{log}");
        }
    }
    Ok(())
}
