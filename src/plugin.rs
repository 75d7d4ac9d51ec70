//! The daemon: an NRI plugin that stays connected. The only module, with its children, that knows tokio.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use nri::api::{Container, ContainerAdjustment, PodSandbox};
use nri::{Closed, Event, Events, Identity, Launch, Plugin, Runtime, Session};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::{Layers, Settings};
use crate::injection::Injection;
use crate::policy::{Decision, Policy, Verdict, decide};
use crate::report::{Outcome, Report};

/// Delays between attempts to connect: doubled from the first to the last, begun anew after a session that lasted.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(5);
const LASTED: Duration = Duration::from_secs(30);

/// The last delay where a runtime listens and does not want us: each registration waits for locks that every container
/// operation of the node holds (<https://github.com/containerd/containerd/issues/14083>).
const LAST_DELAY_WHEN_REFUSED: Duration = Duration::from_secs(120);

/// Runs until SIGTERM or SIGINT, or, if the runtime launched us, until it closes the connection.
pub fn run(settings: Layers) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(serve(settings))
}

async fn serve(layers: Layers) -> Result<()> {
    let settings = layers.settings();
    let plugin = Arc::new(Ldcache::new(layers)?);
    let stop = stop_signal()?;
    if let Some(launch) = Launch::from_env(|name| std::env::var(name).ok())? {
        let identity = launch.identity().clone();
        let closed = launch.connect()?.run(identity.clone(), plugin, stopped(stop)).await?;
        // The runtime never launches a plugin again, and kills the one it has closed.
        tracing::info!(plugin = %identity, %closed, "session ended");
        return Ok(());
    }
    stay_connected(&settings, plugin, stop).await
}

async fn stay_connected(
    settings: &Settings,
    plugin: Arc<Ldcache>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let identity = settings.identity()?;
    let path = settings.socket_path();
    let mut delay = FIRST_DELAY;
    let mut complained = String::new();
    while !*stop.borrow() {
        let start = Instant::now();
        let ended = session(path, &identity, &plugin, stop.clone()).await;
        let listens = !matches!(ended, Err(nri::Error::Connect { .. }));
        match ended {
            Ok(Closed::ByShutdown) => break,
            Ok(closed) => {
                tracing::warn!(plugin = %identity, %closed, "session ended, containers are created without hooks");
                complained.clear();
            }
            // The same trouble is told once, not every five seconds.
            Err(error) if chain(&error) != complained => {
                complained = chain(&error);
                tracing::warn!(plugin = %identity, error = %complained, "not connected, will try again; is NRI enabled in the runtime?");
            }
            Err(_) => {}
        }
        let last = if listens { LAST_DELAY_WHEN_REFUSED } else { LAST_DELAY };
        delay = if start.elapsed() > LASTED { FIRST_DELAY } else { (delay * 2).min(last) };
        tokio::select! {
            () = sleep(delay) => {}
            () = stopped(stop.clone()) => {}
        }
    }
    tracing::info!(plugin = %identity, "stopped");
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &nri::Error) -> String {
    let causes =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut parts: Vec<_> = causes.map(ToString::to_string).collect();
    parts.dedup();
    parts.join(": ")
}

async fn session(
    path: &Path,
    identity: &Identity,
    plugin: &Arc<Ldcache>,
    stop: watch::Receiver<bool>,
) -> Result<Closed, nri::Error> {
    let session = Session::connect(path).await?;
    session.run(identity.clone(), Arc::clone(plugin), stopped(stop)).await
}

/// Becomes true with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and it sends before it goes.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The plugin: what the operator set, and what follows of it.
#[derive(Debug)]
struct Ldcache {
    layers: Layers,
    active: Mutex<Arc<Active>>,
}

/// Settings in force.
#[derive(Debug)]
struct Active {
    policy: Policy,
    injection: Injection,
    /// After which event createContainer hooks have run: CRI-O creates the container in the OCI runtime before it tells
    /// of a creation, containerd when it starts it.
    hooks_ran: Event,
    /// Where the hooks' reports are seen.
    reports: PathBuf,
    /// The last trouble with the hook's file that was told.
    complained: Mutex<Option<String>>,
}

impl Ldcache {
    fn new(layers: Layers) -> Result<Self> {
        let active = Active::new(&layers.settings(), Event::PostStartContainer)?;
        Ok(Self { layers, active: Mutex::new(Arc::new(active)) })
    }

    fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl Plugin for Ldcache {
    async fn configure(
        &self,
        config: &str,
        runtime: &Runtime,
    ) -> Result<Events, nri::HandlerError> {
        let settings = self.layers.configured(config)?;
        let hooks_ran = match runtime.name.as_str() {
            "cri-o" => Event::PostCreateContainer,
            _ => Event::PostStartContainer,
        };
        let active = Arc::new(Active::new(&settings, hooks_ran)?);
        *self.active.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::clone(&active);
        tracing::info!(
            runtime = %runtime.name, version = %runtime.version, nri = runtime.nri_version.as_deref().unwrap_or("unknown"),
            "registered"
        );
        if runtime.name == "docker" {
            tracing::warn!("docker ignores the hooks that plugins add: nothing will be refreshed");
        }
        active.hook_is_good();
        Ok(Event::CreateContainer | Event::PostCreateContainer | Event::PostStartContainer)
    }

    async fn synchronized(&self) {
        tracing::info!("synchronized, containers created from now on are looked at");
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, nri::HandlerError> {
        let active = self.active();
        // An error here would stop the container, and a GPU container with an old cache is better than none.
        let adjustment = catch_unwind(AssertUnwindSafe(|| active.adjust(&pod, &container)));
        Ok(adjustment.unwrap_or_else(|_| {
            tracing::error!(namespace = %pod.namespace, pod = %pod.name, container = %container.name, "panicked, container left alone");
            None
        }))
    }

    async fn post_create_container(&self, pod: PodSandbox, container: Container) {
        self.active().after(Event::PostCreateContainer, &pod, &container);
    }

    async fn post_start_container(&self, pod: PodSandbox, container: Container) {
        self.active().after(Event::PostStartContainer, &pod, &container);
    }
}

impl Active {
    fn new(settings: &Settings, hooks_ran: Event) -> Result<Self> {
        let reports = settings.reports();
        Ok(Self {
            hooks_ran,
            reports,
            policy: settings.policy()?,
            injection: settings.injection()?,
            complained: Mutex::new(None),
        })
    }

    fn adjust(&self, pod: &PodSandbox, container: &Container) -> Option<ContainerAdjustment> {
        let decision = decide(&self.policy, pod, container);
        log(pod, container, &decision);
        let Verdict::Update(update, _) = &decision.verdict else { return None };
        self.hook_is_good().then(|| self.injection.adjustment(update))
    }

    /// Tells what the container's hook did, once it has been run and if it has reported.
    fn after(&self, event: Event, pod: &PodSandbox, container: &Container) {
        if event != self.hooks_ran {
            return;
        }
        let (namespace, pod, name) = (&pod.namespace, &pod.name, &container.name);
        match Report::read(&self.reports, &container.id) {
            Ok(None) => {}
            Ok(Some(report)) if report.outcome == Outcome::Updated => {
                let found = report.found.unwrap_or_default();
                let libcuda = found
                    .libcuda
                    .map_or_else(String::new, |found| format!("{} ({:?})", found.path, found.is));
                tracing::info!(
                    %namespace, %pod, container = %name, id = %container.id,
                    engine = report.engine, fallback = report.fallback.unwrap_or_default(),
                    added = report.added.join(","), libraries = found.libraries, libcuda,
                    refused = report.refused.join(", "), microseconds = report.took,
                    "updated"
                );
            }
            Ok(Some(report)) => tracing::warn!(
                %namespace, %pod, container = %name, id = %container.id,
                reason = report.reason.unwrap_or_default(), microseconds = report.took,
                "not updated, the container has the cache of its image"
            ),
            Err(error) => {
                tracing::warn!(%namespace, %pod, container = %name, error = format!("{error:#}"), "report not read");
            }
        }
    }

    /// Looks at the hook's file, and tells trouble with it once.
    fn hook_is_good(&self) -> bool {
        let trouble = self.injection.verify().err().map(|error| format!("{error:#}"));
        let mut complained =
            self.complained.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(error) = trouble.as_ref().filter(|error| complained.as_ref() != Some(error)) {
            tracing::error!(%error, "no hooks will be injected");
        }
        *complained = trouble;
        complained.is_none()
    }
}

/// One line for each decision: those about GPU containers at info, the others at debug.
fn log(pod: &PodSandbox, container: &Container, decision: &Decision) {
    let (namespace, pod_name, name) = (&pod.namespace, &pod.name, &container.name);
    for refused in &decision.refused {
        tracing::warn!(%namespace, pod = %pod_name, container = %name, "refused: {refused}");
    }
    match &decision.verdict {
        Verdict::Update(update, signals) => {
            let because: Vec<_> = signals.iter().map(ToString::to_string).collect();
            let dirs: Vec<_> = update.dirs().iter().map(|dir| dir.as_str()).collect();
            tracing::info!(
                %namespace, pod = %pod_name, container = %name, id = %container.id,
                because = because.join(", "), folders = dirs.join(","), "update"
            );
        }
        Verdict::Leave(reason) if !reason.is_of_interest() => {
            tracing::debug!(
                %namespace, pod = %pod_name, container = %name, id = %container.id,
                reason = reason.word(), "leave: {reason}"
            );
        }
        Verdict::Leave(reason) => {
            tracing::info!(
                %namespace, pod = %pod_name, container = %name, id = %container.id,
                reason = reason.word(), "leave: {reason}"
            );
        }
    }
}
