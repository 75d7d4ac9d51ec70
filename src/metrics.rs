//! [`Metrics`]: what the daemon counts, for Prometheus. `charts/nri-ldcache/METRICS.md` lists them.
//!
//! Every combination of label values exists from the start, with 0: a rate over a counter that appears with its first
//! event misses that event. They are all words of this program: what an image or a pod says is never a label.

// What the metrics are about.
mod connection;
mod decisions;
mod hooks;
mod requests;

// How they are written.
mod exposition;

use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

pub use self::connection::Ended;
pub use self::exposition::Exposition;
pub use self::requests::{Method, Request};

use self::connection::Connection;
use self::decisions::Decisions;
use self::hooks::Hooks;
use self::requests::Requests;
use crate::injection::Fault;
use crate::policy::Decision;
use crate::report::Report;

/// What the daemon counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connection: Connection,
    requests: Requests,
    decisions: Decisions,
    hooks: Hooks,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nri_ldcache");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = family([version], Gauge::<i64>::default);
        build.get_or_create(&version).set(1);
        add(&mut registry, "build_info", "The version of this program, always 1", build);
        let connection = Connection::new(&mut registry);
        let requests = Requests::new(&mut registry);
        let decisions = Decisions::new(&mut registry);
        let hooks = Hooks::new(&mut registry);
        Self { registry, connection, requests, decisions, hooks }
    }
}

/// What happens to the connection with the runtime.
impl Metrics {
    /// There is a connection; the runtime does not know us yet.
    pub fn connected(&self) {
        self.connection.connected();
    }

    /// The runtime has registered us; `serves` if it asks about containers without having told which it has.
    pub fn registered(&self, serves: bool) {
        self.connection.registered(serves);
    }

    /// The runtime has told what exists, and asks about containers from now on.
    pub fn synchronized(&self) {
        self.connection.synchronized();
    }

    /// The connection is gone.
    pub fn disconnected(&self, ended: Ended) {
        self.connection.disconnected(ended);
    }
}

/// What the runtime asks, and what follows.
impl Metrics {
    /// The runtime asks something; it is counted when what is returned says how it went, or is dropped.
    pub fn asked(&self, method: Method) -> Request<'_> {
        self.requests.asked(method)
    }

    /// So many requests are not answered to the last byte.
    pub fn in_flight(&self, count: usize) {
        self.requests.in_flight(count);
    }

    /// The policy has decided about a container.
    pub fn decided(&self, decision: &Decision) {
        self.decisions.decided(decision);
    }

    /// So many containers run without a hook that the policy would have given them.
    pub fn without_hook(&self, count: usize) {
        self.decisions.without_hook(count);
    }
}

/// What happens to hooks.
impl Metrics {
    /// A hook was added to a container.
    pub fn injected(&self) {
        self.hooks.injected();
    }

    /// A hook was not added although the policy says so.
    pub fn withheld(&self, fault: &Fault) {
        self.hooks.withheld(fault);
    }

    /// The hook's file was looked at.
    pub fn looked_at(&self, file: Result<(), &Fault>) {
        self.hooks.looked_at(file.is_ok());
    }

    /// A hook has run and reported.
    pub fn ran(&self, report: &Report) {
        self.hooks.ran(report);
    }

    /// A container that was given a hook runs, and there is no report.
    pub fn unreported(&self) {
        self.hooks.unreported();
    }
}

impl Metrics {
    /// All metrics as they are now.
    pub fn expose(&self, exposition: Exposition) -> String {
        self.connection.tick();
        exposition.write(&self.registry)
    }
}

/// Names and values of labels.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A metric for each combination of labels, all there from the start.
fn family<const N: usize, M, C: MetricConstructor<M>>(
    labels: impl IntoIterator<Item = Labels<N>>,
    constructor: C,
) -> Family<Labels<N>, M, C> {
    let family = Family::new_with_constructor(constructor);
    for labels in labels {
        drop(family.get_or_create(&labels));
    }
    family
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Histograms of seconds.
type Durations = Family<Labels<1>, Histogram, fn() -> Histogram>;

fn durations<const K: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    labels: [Labels<1>; K],
    histogram: fn() -> Histogram,
) -> Durations {
    let durations = family(labels, histogram);
    registry.register_with_unit(name, help, Unit::Seconds, durations.clone());
    durations
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    add(registry, name, help, Gauge::default())
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use nri::api::{Container, PodSandbox};

    use super::*;
    use crate::policy::{Policy, decide};

    fn value(metrics: &Metrics, sample: &str) -> f64 {
        let text = metrics.expose(Exposition::Text);
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("nri_ldcache_{sample} ")));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }

    #[test]
    fn what_happens_is_counted() {
        let metrics = Metrics::default();
        metrics.connected();
        metrics.registered(false);
        assert_eq!((value(&metrics, "registered"), value(&metrics, "synchronized")), (1.0, 0.0));
        metrics.asked(Method::CreateContainer).answered("ok");
        drop(metrics.asked(Method::CreateContainer));
        let requests = |result| {
            let labels = format!("{{method=\"create-container\",result=\"{result}\"}}");
            value(&metrics, &format!("requests_total{labels}"))
        };
        assert_eq!((requests("ok"), requests("dropped"), requests("error")), (1.0, 1.0, 0.0));
        let labels = "{method=\"create-container\"}";
        assert_eq!(value(&metrics, &format!("request_duration_seconds_count{labels}")), 2.0);

        let gpu =
            Container { env: vec!["NVIDIA_VISIBLE_DEVICES=0".into()], ..Container::default() };
        for container in [gpu, Container::default()] {
            metrics.decided(&decide(&Policy::default(), &PodSandbox::default(), &container));
        }
        let decided = |labels| value(&metrics, &format!("decisions_total{{{labels}}}"));
        assert_eq!(decided("decision=\"update\",reason=\"visible-devices\""), 1.0);
        assert_eq!(decided("decision=\"leave\",reason=\"not-gpu\""), 1.0);
        metrics.disconnected(Ended::ByRuntime);
        assert_eq!(value(&metrics, "disconnects_total{reason=\"runtime\"}"), 1.0);
        assert_eq!((value(&metrics, "registered"), value(&metrics, "connects_total")), (0.0, 1.0));
    }

    #[test]
    fn a_gap_is_counted_while_it_lasts_and_only_then() {
        let metrics = Metrics::default();
        let gap = || value(&metrics, "disconnected_seconds_total");
        sleep(Duration::from_millis(20));
        let first = gap();
        assert!(first >= 0.02, "{first}");
        metrics.connected();
        metrics.registered(false);
        sleep(Duration::from_millis(20));
        metrics.synchronized();
        let second = gap();
        assert!(second >= first + 0.02, "{first} {second}");
        sleep(Duration::from_millis(20));
        assert_eq!(gap(), second);
        metrics.disconnected(Ended::ByRuntime);
        sleep(Duration::from_millis(20));
        assert!(gap() >= second + 0.02);
        metrics.registered(true);
        let third = gap();
        sleep(Duration::from_millis(20));
        assert_eq!(gap(), third);
    }
}
