//! What a plugin does when the runtime calls.

use std::error;
use std::future::{Future, ready};
use std::time::Duration;

use crate::api::{Container, ContainerAdjustment, PodSandbox};
use crate::{Event, Events};

/// What a handler may fail with; the runtime is told the whole chain of sources.
pub type HandlerError = Box<dyn error::Error + Send + Sync>;

/// A plugin: what to do when the runtime calls.
///
/// Handlers are `async fn`s and are given half of the time that the runtime waits, one second by
/// default (see [`Runtime::request_timeout`]). A handler that takes longer is dropped at its next
/// `await`, and one that panics is caught: both are answered with an error, in time, and the
/// session goes on. Without that answer the runtime would create the container *without* asking
/// this plugin, and disconnect it. A handler that blocks its thread cannot be stopped this way.
/// Handlers that still run when their session ends are dropped, too.
///
/// Runtimes call one handler at a time, while holding a lock that every container operation of
/// the node waits for: be quick.
pub trait Plugin: Send + Sync + 'static {
    /// The session begins: returns the events to be called for.
    ///
    /// `config` is empty unless the runtime launched the plugin. A session never survives its
    /// connection, so whatever an earlier one left half done can be forgotten here.
    ///
    /// # Errors
    ///
    /// The runtime drops the plugin.
    fn configure(
        &self,
        config: &str,
        runtime: &Runtime,
    ) -> impl Future<Output = Result<Events, HandlerError>> + Send {
        let _ = (config, runtime);
        let events =
            Event::CreateContainer | Event::PostCreateContainer | Event::PostStartContainer;
        ready(Ok(events))
    }

    /// A pod that exists already; called for each of them, one after the other.
    ///
    /// Pods and containers come in the order in which the runtime sends them: a large node is
    /// told in several parts, so a pod may well come after some containers. The crate keeps
    /// nothing of them, and does not mention one of more than 1 MiB. This is called from the task
    /// that carries the connection, so it must not block; if it panics, the runtime is told that
    /// the synchronization failed.
    fn existing_pod(&self, pod: PodSandbox) {
        let _ = pod;
    }

    /// A container that exists already. See [`Plugin::existing_pod`].
    fn existing_container(&self, container: Container) {
        let _ = container;
    }

    /// All existing pods and containers have been handed over; the plugin is in service.
    ///
    /// The connection may end before this is called, and NRI before 0.7 never calls it in a
    /// plugin that was launched.
    fn synchronized(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// A container is about to be created: returns what to change in it, if anything.
    ///
    /// # Errors
    ///
    /// The container is not created, and the kubelet tries again later.
    fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = Result<Option<ContainerAdjustment>, HandlerError>> + Send {
        let _ = (pod, container);
        ready(Ok(None))
    }

    /// A container was created. With CRI-O its `createContainer` hooks have run, with containerd
    /// they run when it is started.
    fn post_create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = ()> + Send {
        let _ = (pod, container);
        ready(())
    }

    /// A container was started.
    fn post_start_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = ()> + Send {
        let _ = (pod, container);
        ready(())
    }

    /// A container was removed.
    fn remove_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> impl Future<Output = ()> + Send {
        let _ = (pod, container);
        ready(())
    }

    /// The runtime is going away. No runtime is known to say so: they just close the connection.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// What the runtime tells about itself when it configures a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Runtime {
    /// `containerd`, `cri-o` or `docker`. Docker ignores the hooks of an adjustment.
    pub name: String,
    /// In no particular format: `v2.3.4`, `1.7.24~ds1`, `1.36.0`.
    pub version: String,
    /// The version of NRI, told by 0.12 and newer: `v0.12.0`, or `0.0.0-unknown`.
    pub nri_version: Option<String>,
    /// How long the runtime waits for a plugin to register; 5 s before NRI 0.7, which did not
    /// tell.
    pub registration_timeout: Duration,
    /// How long the runtime waits for each answer; 2 s before NRI 0.7, which did not tell.
    pub request_timeout: Duration,
}
