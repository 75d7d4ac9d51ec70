//! [`Ldcache`]: the plugin, as the runtime calls it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use nri::api::{Container, ContainerAdjustment, PodSandbox};
use nri::{Event, Events, HandlerError, InFlight, Plugin, Runtime};

use super::active::Active;
use super::census::Census;
use super::health::Health;
use super::installation::Installation;
use crate::config::Layers;
use crate::metrics::{Ended, Method, Metrics};

/// The plugin: what the operator set, what follows of it, and what came of that.
#[derive(Debug)]
pub(super) struct Ldcache {
    layers: Layers,
    installation: Arc<Installation>,
    active: Mutex<Arc<Active>>,
    census: Mutex<Census>,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    /// The runtime started us. Before NRI 0.7 it does not tell such a plugin what exists, and nobody can see that it won't.
    launched: bool,
}

impl Ldcache {
    pub(super) fn new(
        layers: Layers,
        installation: Arc<Installation>,
        launched: bool,
    ) -> Result<Self> {
        let active = Active::new(&layers.settings(), &installation, Event::PostStartContainer)?;
        Ok(Self {
            layers,
            installation,
            active: Mutex::new(Arc::new(active)),
            census: Mutex::default(),
            metrics: Metrics::default(),
            health: Health::default(),
            launched,
        })
    }

    /// There is a connection with the runtime.
    pub(super) fn connected(&self, in_flight: InFlight) {
        self.metrics.connected();
        self.health.connected(in_flight);
    }

    /// It has ended; had the runtime come to ask about containers?
    pub(super) fn disconnected(&self, ended: Ended) -> bool {
        let served = self.health.unasked().is_none();
        self.metrics.disconnected(ended);
        self.health.disconnected();
        served
    }

    pub(super) fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes over what the runtime tells of itself.
    fn register(&self, config: &str, runtime: &Runtime) -> Result<Events> {
        let settings = self.layers.configured(config)?;
        let hooks_ran = match runtime.name.as_str() {
            "cri-o" => Event::PostCreateContainer,
            _ => Event::PostStartContainer,
        };
        let active = Arc::new(Active::new(&settings, &self.installation, hooks_ran)?);
        // The new one has its lock on the hook's file before the old one drops its own. Trouble is told, and no reason to go.
        let _ = active.hook_file(&self.metrics);
        *self.active.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = active;
        *self.census() = Census::default();
        self.metrics.registered(self.launched);
        self.health.registered(runtime.request_timeout);
        if self.launched {
            self.health.synchronized();
        }
        tracing::info!(
            runtime = %runtime.name, version = %runtime.version, nri = runtime.nri_version.as_deref().unwrap_or("unknown"),
            "registered"
        );
        if runtime.name == "docker" {
            tracing::warn!("docker ignores the hooks that plugins add: nothing will be refreshed");
        }
        Ok(Event::CreateContainer
            | Event::PostCreateContainer
            | Event::PostStartContainer
            | Event::RemoveContainer)
    }
}

impl Plugin for Ldcache {
    async fn configure(&self, config: &str, runtime: &Runtime) -> Result<Events, HandlerError> {
        let request = self.metrics.asked(Method::Configure);
        let events = self.register(config, runtime);
        request.answered(if events.is_ok() { "ok" } else { "error" });
        Ok(events?)
    }

    fn existing_pod(&self, pod: PodSandbox) {
        self.census().pod(&self.active().policy, pod);
    }

    fn existing_container(&self, container: Container) {
        self.census().container(&self.active().policy, container);
    }

    async fn synchronized(&self) {
        let request = self.metrics.asked(Method::Synchronize);
        self.metrics.synchronized();
        self.health.synchronized();
        let (count, some) = self.census().complete(&self.active().policy);
        self.metrics.without_hook(count);
        tracing::info!("synchronized, containers created from now on are looked at");
        if count > 0 {
            tracing::warn!(
                count,
                some = some.join(", "),
                "containers that run already would get a hook if they were created now; recreate their pods"
            );
        }
        request.answered("ok");
    }

    async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, HandlerError> {
        let request = self.metrics.asked(Method::CreateContainer);
        let active = self.active();
        // An error here would stop the container, and a GPU container with an old cache is better than none.
        let adjust = || active.adjust(&self.metrics, &pod, &container);
        let adjustment = catch_unwind(AssertUnwindSafe(adjust));
        request.answered(if adjustment.is_ok() { "ok" } else { "panicked" });
        Ok(adjustment.unwrap_or_else(|_| {
            tracing::error!(namespace = %pod.namespace, pod = %pod.name, container = %container.name, "panicked, container left alone");
            None
        }))
    }

    async fn post_create_container(&self, pod: PodSandbox, container: Container) {
        let request = self.metrics.asked(Method::PostCreateContainer);
        self.active().after(Event::PostCreateContainer, &self.metrics, &pod, &container);
        request.answered("ok");
    }

    async fn post_start_container(&self, pod: PodSandbox, container: Container) {
        let request = self.metrics.asked(Method::PostStartContainer);
        self.active().after(Event::PostStartContainer, &self.metrics, &pod, &container);
        request.answered("ok");
    }

    async fn remove_container(&self, _pod: PodSandbox, container: Container) {
        let request = self.metrics.asked(Method::RemoveContainer);
        if let Some(count) = self.census().removed(&container.id) {
            self.metrics.without_hook(count);
        }
        request.answered("ok");
    }
}
