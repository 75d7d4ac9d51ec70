//! A plugin that does as the container says, and a runtime that is connected to it.

use std::io;
use std::sync::{Arc, Mutex};

use nri::api::{Container, ContainerAdjustment, Hook, Hooks, KeyValue, PodSandbox};
use nri::fake::FakeRuntime;
use nri::{Closed, Error, Event, Events, HandlerError, Identity, Plugin, Runtime, Session};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// Records what it is called for.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) runtime: Mutex<Option<(String, Runtime)>>,
    pub(crate) events: Events,
    /// Lets a container named "gate" pass.
    pub(crate) gate: Notify,
    /// Told when a container named "gate" waits.
    pub(crate) waits: Notify,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            runtime: Mutex::default(),
            events: Event::CreateContainer.into(),
            gate: Notify::new(),
            waits: Notify::new(),
        }
    }
}

impl Recorder {
    fn record(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    /// What it was called for since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Plugin for Recorder {
    async fn configure(&self, config: &str, runtime: &Runtime) -> Result<Events, HandlerError> {
        *self.runtime.lock().unwrap() = Some((config.to_owned(), runtime.clone()));
        match config {
            "fail" => Err("bad configuration".into()),
            _ => Ok(self.events),
        }
    }

    fn existing_pod(&self, pod: PodSandbox) {
        assert_ne!(pod.id, "panic");
        self.record(format!("pod {}", pod.id));
    }

    fn existing_container(&self, container: Container) {
        self.record(format!("container {}", container.id));
    }

    async fn synchronized(&self) {
        self.record("synchronized");
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, HandlerError> {
        self.record(format!("create {}/{}", pod.name, container.name));
        match &*container.name {
            "slow" => std::future::pending().await,
            "panic" => panic!("as asked"),
            "fail" => Err(Box::new(io::Error::other(Outer(io::Error::other("inner"))))),
            "gate" => {
                self.waits.notify_one();
                self.gate.notified().await;
                Ok(Some(adjustment(container.args.first())))
            }
            "adjust" => Ok(Some(adjustment(container.args.first()))),
            _ => Ok(None),
        }
    }

    async fn post_create_container(&self, pod: PodSandbox, container: Container) {
        self.record(format!("post-create {}/{}", pod.name, container.name));
    }

    async fn post_start_container(&self, pod: PodSandbox, container: Container) {
        self.record(format!("post-start {}/{}", pod.name, container.name));
        if container.name == "panic" {
            panic!("as asked");
        }
    }

    async fn remove_container(&self, pod: PodSandbox, container: Container) {
        self.record(format!("remove {}/{}", pod.name, container.name));
    }

    async fn shutdown(&self) {
        self.record("shutdown");
    }
}

/// An error with a source.
#[derive(Debug)]
struct Outer(io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("outer")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// A hook, and a variable of as many bytes as asked for.
pub(crate) fn adjustment(bytes: Option<&String>) -> ContainerAdjustment {
    let hook = Hook { path: "/hook".into(), args: vec!["hook".into()], ..Default::default() };
    let value = "x".repeat(bytes.map_or(0, |bytes| bytes.parse().unwrap()));
    ContainerAdjustment {
        hooks: Some(Hooks { create_container: vec![hook], ..Default::default() }).into(),
        env: vec![KeyValue { key: "BYTES".into(), value, ..Default::default() }],
        ..Default::default()
    }
}

pub(crate) fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.into(), name: id.into(), ..Default::default() }
}

pub(crate) fn container(id: &str) -> Container {
    Container { id: id.into(), name: id.into(), ..Default::default() }
}

/// A container that is answered with about so many bytes.
pub(crate) fn container_of(name: &str, bytes: usize) -> Container {
    Container { args: vec![bytes.to_string()], ..container(name) }
}

/// A session between a plugin and a runtime.
pub(crate) struct World {
    pub(crate) plugin: Arc<Recorder>,
    pub(crate) runtime: FakeRuntime,
    pub(crate) shutdown: oneshot::Sender<()>,
    pub(crate) session: JoinHandle<Result<Closed, Error>>,
}

impl World {
    /// The plugin is about to register.
    pub(crate) fn new() -> Self {
        Self::with(Recorder::default())
    }

    pub(crate) fn with(plugin: Recorder) -> Self {
        let (runtime, socket) = FakeRuntime::pair().unwrap();
        let session = Session::inherit(socket).unwrap();
        let (shutdown, asked) = oneshot::channel::<()>();
        let plugin = Arc::new(plugin);
        let identity = Identity::new("10", "recorder").unwrap();
        let session = tokio::spawn(session.run(identity, Arc::clone(&plugin), async {
            match asked.await {
                Ok(()) => {}
                Err(_) => std::future::pending().await,
            }
        }));
        Self { plugin, runtime, shutdown, session }
    }

    /// The plugin is ready, and nothing existed before.
    pub(crate) async fn ready() -> Self {
        let mut world = Self::new();
        world.handshake().await;
        world
    }

    pub(crate) async fn handshake(&mut self) {
        self.runtime.handshake(&[], &[], 1).await.unwrap();
        assert_eq!(self.plugin.take(), ["synchronized"]);
    }

    /// The session goes on.
    pub(crate) async fn check_alive(&mut self) {
        self.plugin.take();
        let answer = self.runtime.create_container(pod("p"), container("alive")).await.unwrap();
        assert!(answer.adjust.is_none());
        assert_eq!(self.plugin.take(), ["create p/alive"]);
    }
}
