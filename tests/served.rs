//! The daemon by itself, with a fake runtime and an address of this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nri::api::{Container, ContainerState, PodSandbox};
use nri::fake::{FakeRuntime, FakeSocket};

use crate::endpoint::{Answer, get, sample};
use crate::matrix::binary;

/// The daemon with a fake runtime's socket, its own file as hook, and an address of this machine.
pub(crate) struct Served {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) socket: FakeSocket,
    pub(crate) daemon: Child,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        Self::start_by(Command::new(binary()), args)
    }

    /// Starts it in a mount namespace of its own.
    pub(crate) fn start_apart() -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]).arg(binary());
        Self::start_by(unshare, &[])
    }

    fn start_by(mut command: Command, args: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (path, hook) = (directory.path().join("nri.sock"), directory.path().join("hook"));
        fs::copy(binary(), &hook)?;
        let socket = FakeSocket::bind(&path)?;
        command.arg("run").arg("--socket-path").arg(&path).arg("--hook-path").arg(&hook);
        command.arg("--report-dir").arg(directory.path().join("reports"));
        command.args(["--http-address", "127.0.0.1:0"]).args(args).env_clear();
        let mut daemon = command.stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(daemon.stderr.take().context("stderr is piped")?);
        let mut line = String::new();
        log.read_line(&mut line)?;
        let told = line.split("address").nth(1).context("no address")?;
        let address = told.trim_matches(|c: char| !c.is_ascii_digit()).parse();
        let address = address.with_context(|| line.clone())?;
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { directory, socket, daemon, address })
    }

    pub(crate) async fn registered(&self) -> Result<FakeRuntime> {
        let mut runtime = self.socket.accept().await?;
        runtime.handshake(&[], &[], 1).await?;
        Ok(runtime)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        get(self.address, path)
    }

    /// Checks the status of `/readyz` and of `/healthz`, and what is said of the former.
    pub(crate) fn is(&self, ready: u16, alive: u16, said: &str) -> Result<()> {
        let (readiness, liveness) = (self.get("/readyz")?, self.get("/healthz")?);
        ensure!(
            (readiness.status, liveness.status) == (ready, alive),
            "{readiness:?} {liveness:?}"
        );
        ensure!(readiness.body.contains(said), "{said:?} is not in {:?}", readiness.body);
        Ok(())
    }

    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        sample(&self.get("/metrics")?.body, name)
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let pid = self.daemon.id().to_string();
        ensure!(Command::new("kill").args(["-s", name, &pid]).status()?.success());
        Ok(())
    }

    pub(crate) fn hook(&self) -> PathBuf {
        self.directory.path().join("hook")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// A pod and its container that asks for a GPU.
pub(crate) fn gpu(id: &str) -> (PodSandbox, Container) {
    let pod = PodSandbox {
        id: format!("pod-of-{id}"),
        name: id.into(),
        namespace: "default".into(),
        ..PodSandbox::default()
    };
    let container = Container {
        id: id.into(),
        pod_sandbox_id: pod.id.clone(),
        name: "main".into(),
        env: vec!["NVIDIA_VISIBLE_DEVICES=all".into()],
        state: ContainerState::CONTAINER_RUNNING.into(),
        ..Container::default()
    };
    (pod, container)
}

/// Waits for what takes a moment.
pub(crate) fn wait(mut happened: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        match happened() {
            Err(_) if start.elapsed() < Duration::from_secs(10) => {
                sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}
