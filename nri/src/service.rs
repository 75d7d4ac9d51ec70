//! The Plugin service: what arrives on connection 1, brought to a [`Plugin`].

mod calls;

use std::error;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::select;
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, get_status};

use crate::api::{self, MessageField};
use crate::mux::Existing;
use crate::{Event, HandlerError, Plugin, Runtime};

/// What runtimes use that do not tell (NRI before 0.7).
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What runtimes use that do not tell (NRI before 0.7).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest deadline a handler gets, however little the runtime wants to wait.
const SHORTEST: Duration = Duration::from_millis(100);

/// What the runtime is told; the panic's own message has gone to stderr.
const PANICKED: &str = "plugin panicked";

/// Answers every call of the service.
#[derive(Debug)]
pub(crate) struct Service<P> {
    plugin: Arc<P>,
    request_timeout: Mutex<Duration>,
    /// The plugin panicked when it was given something that exists.
    unsynchronized: AtomicBool,
    closed: watch::Sender<bool>,
}

impl<P: Plugin> Service<P> {
    pub(crate) fn new(plugin: Arc<P>) -> Self {
        Self {
            plugin,
            request_timeout: Mutex::new(REQUEST_TIMEOUT),
            unsynchronized: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        }
    }

    /// How long the runtime waits for an answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        *self.request_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is over: drops the handlers that still run, because ttrpc would let them.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn set_request_timeout(&self, told: Duration) {
        *self.request_timeout.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Whether something went wrong in [`Service::existing`] since the last time.
    fn take_unsynchronized(&self) -> bool {
        self.unsynchronized.swap(false, Ordering::Relaxed)
    }

    /// Hands over what the mux took out of a `Synchronize` request.
    pub(crate) fn existing(&self, existing: Existing) {
        let handed_over = std::panic::catch_unwind(AssertUnwindSafe(|| match existing {
            Existing::Pod(pod) => self.plugin.existing_pod(pod),
            Existing::Container(container) => self.plugin.existing_container(container),
            Existing::TooLarge(bytes) => {
                tracing::warn!(bytes, "pod or container passed over for its size");
            }
        }));
        if handed_over.is_err() {
            self.unsynchronized.store(true, Ordering::Relaxed);
        }
    }

    /// Runs a handler so that the runtime gets an answer in time whatever happens.
    ///
    /// A missing answer is far worse than an error: the runtime would create the container without
    /// us and drop the plugin.
    async fn answer<T>(
        &self,
        call: &TtrpcContext,
        handler: impl Future<Output = Result<T, HandlerError>> + Send,
    ) -> ttrpc::Result<T> {
        let limit = deadline(call.timeout_nano, self.request_timeout());
        let mut closed = self.closed.subscribe();
        let answer = select! {
            answer = timeout(limit, AssertUnwindSafe(handler).catch_unwind()) => answer,
            _ = closed.wait_for(|closed| *closed) => return Err(ttrpc::Error::LocalClosed),
        };
        match answer {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(status(Code::UNKNOWN, chain(&*error))),
            Ok(Err(_panic)) => Err(status(Code::INTERNAL, PANICKED)),
            Err(_elapsed) => {
                // The plugin itself has no other way to know.
                tracing::error!(?limit, "plugin took too long to answer the runtime");
                let message = format!("plugin took longer than {} ms", limit.as_millis());
                Err(status(Code::DEADLINE_EXCEEDED, message))
            }
        }
    }

    /// The same for an event, which cannot fail.
    async fn notify<T: Default>(
        &self,
        call: &TtrpcContext,
        handler: impl Future<Output = ()> + Send,
    ) -> ttrpc::Result<T> {
        self.answer(call, async {
            handler.await;
            Ok(T::default())
        })
        .await
    }

    async fn dispatch(&self, event: api::StateChangeEvent) {
        let (pod, container) = (present(event.pod), present(event.container));
        match Event::from_number(event.event) {
            Some(Event::PostCreateContainer) => {
                self.plugin.post_create_container(pod, container).await;
            }
            Some(Event::PostStartContainer) => {
                self.plugin.post_start_container(pod, container).await;
            }
            Some(Event::RemoveContainer) => self.plugin.remove_container(pod, container).await,
            _ => {}
        }
    }
}

/// Half of the time that the runtime waits, so that there is time left for the answer's way.
fn deadline(timeout_nano: i64, request_timeout: Duration) -> Duration {
    let told = u64::try_from(timeout_nano).ok().filter(|nanos| *nanos > 0);
    let waits =
        told.map_or(request_timeout, |nanos| Duration::from_nanos(nanos).min(request_timeout));
    (waits / 2).max(SHORTEST)
}

/// Milliseconds as told by the runtime.
fn millis(told: i64, default: Duration) -> Duration {
    u64::try_from(told).ok().filter(|ms| *ms > 0).map_or(default, Duration::from_millis)
}

fn present<T: Default>(message: MessageField<T>) -> T {
    message.into_option().unwrap_or_default()
}

fn status(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

/// An error and its sources as one sentence.
fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl From<&api::ConfigureRequest> for Runtime {
    fn from(told: &api::ConfigureRequest) -> Self {
        Self {
            name: told.runtime_name.clone(),
            version: told.runtime_version.clone(),
            nri_version: Some(told.NRI_version.clone()).filter(|version| !version.is_empty()),
            registration_timeout: millis(told.registration_timeout, REGISTRATION_TIMEOUT),
            request_timeout: millis(told.request_timeout, REQUEST_TIMEOUT),
        }
    }
}
