//! A daemon that installs itself: what it injects, and what it does where it can't.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nri::api::{Container, PodSandbox};
use nri::fake::{FakeRuntime, FakeSocket};

use super::ground::{Ground, Program, failed};
use crate::{node, shell};

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon that installs itself on a ground, and a runtime that it is connected to.
struct Service {
    daemon: Child,
    log: PathBuf,
    runtime: FakeRuntime,
}

impl Service {
    /// `enter` is what is executed before it, to mount something.
    async fn start(ground: &Ground, enter: &[&str]) -> Result<Self> {
        let (socket, log) = (ground.root().join("nri.sock"), ground.root().join("log"));
        let listener = FakeSocket::bind(&socket)?;
        let mut command = match enter.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(Program::first()?.path());
                command
            }
            None => Command::new(Program::first()?.path()),
        };
        command.args(["run", "--install-dir=/opt/nri-ldcache", "--host-root"]).arg(ground.root());
        command.arg("--socket-path").arg(&socket).env_remove("NRI_LDCACHE_HOOK_PATH");
        let daemon = command.stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
        let mut runtime = listener.accept().await?;
        runtime.handshake(&[], &[], 1).await?;
        Ok(Self { daemon, log, runtime })
    }

    /// The path of the hook that a GPU container gets.
    async fn hook(&mut self) -> Result<Option<String>> {
        let container = Container {
            id: "c1".to_owned(),
            name: "c1".to_owned(),
            env: vec!["NVIDIA_VISIBLE_DEVICES=all".to_owned()],
            ..Container::default()
        };
        let answer = self.runtime.create_container(PodSandbox::default(), container).await?;
        let hooks = &answer.adjust.hooks.create_container;
        Ok(hooks.first().map(|hook| hook.path.clone()))
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(mut self) -> Result<()> {
        shell::output(Command::new("kill").arg(self.daemon.id().to_string()))?;
        let start = Instant::now();
        while self.daemon.try_wait()?.is_none() {
            ensure!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

#[tokio::test]
async fn a_daemon_injects_what_it_has_installed() -> Result<()> {
    let ground = Ground::new()?;
    let mut service = Service::start(&ground, &[]).await?;
    let hook = service.hook().await?.context(service.logged())?;
    ensure!(hook == format!("/opt/nri-ldcache/{}", Program::first()?.name()?), "{hook}");
    let seen = ground.root().join(hook.trim_start_matches('/'));
    Program::first()?.check(&seen)?;
    fs::remove_file(&seen)?;
    ensure!(service.hook().await?.is_none(), "a hook that is not there was injected");
    ensure!(service.logged().contains("no hooks will be injected"), "{}", service.logged());
    service.end()
}

#[tokio::test]
async fn a_daemon_that_can_not_install_serves_and_says_why() -> Result<()> {
    if !node::possible() {
        return Ok(());
    }
    // Whole and in its place, and of no use there.
    let remounted = r#""$2" install --host-root "${1%/opt/*}"; mount -o remount,noexec "$1";"#;
    for (options, then, expected) in [
        ("noexec", "", "mounted noexec"),
        ("ro", "", "Read-only file system"),
        ("size=64m", remounted, "mounted noexec"),
    ] {
        let ground = Ground::new()?;
        fs::create_dir(ground.dir())?;
        let dir = ground.dir().display().to_string();
        let script =
            format!(r#"mount -t tmpfs -o mode=755,{options} tmpfs "$1"; {then} shift; exec "$@""#);
        let enter =
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", &script, "sh", &dir];
        let mut service = Service::start(&ground, &enter).await?;
        for _ in 0..3 {
            ensure!(service.hook().await?.is_none(), "{options}: injected");
        }
        let log = service.logged();
        ensure!(log.matches("not installed, no hooks will be injected").count() == 1, "{log}");
        ensure!(log.contains(expected) && log.contains("/opt/nri-ldcache"), "{log}");
        service.end()?;
    }
    Ok(())
}

#[tokio::test]
async fn what_kept_a_daemon_from_installing_may_be_mended() -> Result<()> {
    let ground = Ground::new()?;
    fs::remove_dir(ground.root().join("opt"))?;
    let mut service = Service::start(&ground, &[]).await?;
    ensure!(service.hook().await?.is_none(), "{}", service.logged());
    fs::create_dir(ground.root().join("opt"))?;
    let start = Instant::now();
    while service.hook().await?.is_none() {
        ensure!(start.elapsed() < PATIENCE, "{}", service.logged());
        thread::sleep(Duration::from_millis(100));
    }
    service.end()
}

/// Anybody who may read the directory may lock it.
#[tokio::test]
async fn a_directory_that_is_locked_keeps_no_daemon_from_serving_or_ending() -> Result<()> {
    let ground = Ground::new()?;
    ground.install(Program::first()?)?;
    let somebody = fs::File::open(ground.dir())?;
    somebody.lock()?;
    let start = Instant::now();
    let mut service = Service::start(&ground, &[]).await?;
    ensure!(service.hook().await?.is_some(), "{}", service.logged());
    service.end()?;
    ensure!(start.elapsed() < PATIENCE, "it waited for the lock: {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_hook_is_installed_or_there_already() -> Result<()> {
    let mut run = Command::new(Program::first()?.path());
    run.args(["run", "--install-dir=/opt/x", "--hook-path=/opt/x/y"]);
    let said = failed(run.stdin(Stdio::null()).output()?)?;
    ensure!(said.contains("install-dir and hook-path exclude each other"), "{said}");
    ensure!(!Path::new("/opt/x").exists());
    Ok(())
}
