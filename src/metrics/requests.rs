//! What the runtime asks.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Durations, Labels, add, durations, family, gauge};

/// From what a decision takes to what the runtime waits by default, in seconds.
const BUCKETS: [f64; 16] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.5,
    1.0, 2.0,
];

const RESULTS: [&str; 4] = ["ok", "error", "panicked", "dropped"];

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The events that the plugin wants.
    Configure,
    /// To know what exists.
    Synchronize,
    /// An adjustment of a container.
    CreateContainer,
    /// To know that a container was created.
    PostCreateContainer,
    /// To know that a container was started.
    PostStartContainer,
    /// To know that a container was removed.
    RemoveContainer,
}

impl Method {
    const ALL: [Self; 6] = [
        Self::Configure,
        Self::Synchronize,
        Self::CreateContainer,
        Self::PostCreateContainer,
        Self::PostStartContainer,
        Self::RemoveContainer,
    ];

    fn label(self) -> (&'static str, &'static str) {
        let method = match self {
            Self::Configure => "configure",
            Self::Synchronize => "synchronize",
            Self::CreateContainer => "create-container",
            Self::PostCreateContainer => "post-create-container",
            Self::PostStartContainer => "post-start-container",
            Self::RemoveContainer => "remove-container",
        };
        ("method", method)
    }
}

#[derive(Debug)]
pub(super) struct Requests {
    answered: Family<Labels<2>, Counter>,
    duration: Durations,
    in_flight: Gauge,
}

impl Requests {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let results = |method: Method| RESULTS.map(|result| [method.label(), ("result", result)]);
        let labels = Method::ALL.into_iter().flat_map(results);
        let answered = add(
            registry,
            "requests",
            "Requests of the runtime, and what they were answered: with success (ok), an error, success that leaves the container alone because deciding about it panicked (panicked), or nothing or an error because the connection ended, it took too long, or something else panicked (dropped)",
            family(labels, Counter::default as fn() -> _),
        );
        let duration = durations(
            registry,
            "request_duration",
            "Time that the plugin took for a request, from when it was read to when the answer was ready",
            Method::ALL.map(|method| [method.label()]),
            || Histogram::new(BUCKETS),
        );
        let in_flight = gauge(
            registry,
            "requests_inflight",
            "Requests that the runtime has begun to send and that are not answered to the last byte",
        );
        Self { answered, duration, in_flight }
    }

    pub(super) fn asked(&self, method: Method) -> Request<'_> {
        Request { requests: self, method, came: Instant::now(), result: "dropped" }
    }

    pub(super) fn in_flight(&self, count: usize) {
        self.in_flight.set(count as i64);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Request<'a> {
    requests: &'a Requests,
    method: Method,
    came: Instant,
    result: &'static str,
}

impl Request<'_> {
    /// The answer is ready: it is `ok`, `error` or `panicked`.
    pub fn answered(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let labels = [self.method.label(), ("result", self.result)];
        self.requests.answered.get_or_create(&labels).inc();
        let duration = self.requests.duration.get_or_create(&[self.method.label()]);
        duration.observe(self.came.elapsed().as_secs_f64());
    }
}
