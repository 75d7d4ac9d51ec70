//! The connection with the runtime.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, add, family, gauge};

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The runtime closed it: it stops, or we did not answer in time.
    ByRuntime,
    /// We were told to stop.
    ByShutdown,
    /// The runtime did not speak the protocol.
    ByViolation,
    /// The runtime did not want us.
    Refused,
    /// The runtime did not answer our registration.
    Unanswered,
    /// The socket failed.
    Failed,
}

impl Ended {
    const ALL: [Self; 6] = [
        Self::ByRuntime,
        Self::ByShutdown,
        Self::ByViolation,
        Self::Refused,
        Self::Unanswered,
        Self::Failed,
    ];

    fn labels(self) -> Labels<1> {
        let reason = match self {
            Self::ByRuntime => "runtime",
            Self::ByShutdown => "shutdown",
            Self::ByViolation => "violation",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Failed => "failed",
        };
        [("reason", reason)]
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    registered: Gauge,
    synchronized: Gauge,
    connects: Counter,
    disconnects: Family<Labels<1>, Counter>,
    gap: Counter<f64, AtomicU64>,
    /// Up to when the gap is counted, while there is one.
    counted: Mutex<Option<Instant>>,
}

impl Connection {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let registered =
            gauge(registry, "registered", "Whether the runtime has registered the plugin");
        let synchronized = gauge(
            registry,
            "synchronized",
            "Whether the runtime has told which containers it has, after which it asks about new ones",
        );
        let connects =
            add(registry, "connects", "Connections made to the runtime", Counter::default());
        let disconnects = family(Ended::ALL.map(Ended::labels), Counter::default as fn() -> _);
        let disconnects = add(
            registry,
            "disconnects",
            "Connections to the runtime that ended, and why: the runtime closed it (runtime), the plugin was told to stop (shutdown), the runtime did not speak the protocol (violation), did not want the plugin (refused) or did not answer it (unanswered), or the socket failed",
            disconnects,
        );
        let gap = Counter::default();
        registry.register_with_unit(
            "disconnected",
            "Time since the plugin was started in which no runtime asked it: containers that are created then have no hook",
            Unit::Seconds,
            gap.clone(),
        );
        let counted = Mutex::new(Some(Instant::now()));
        Self { registered, synchronized, connects, disconnects, gap, counted }
    }

    pub(super) fn connected(&self) {
        self.connects.inc();
    }

    pub(super) fn registered(&self, serves: bool) {
        self.registered.set(1);
        if serves {
            self.end_gap();
        }
    }

    pub(super) fn synchronized(&self) {
        self.synchronized.set(1);
        self.end_gap();
    }

    pub(super) fn disconnected(&self, ended: Ended) {
        self.disconnects.get_or_create(&ended.labels()).inc();
        self.registered.set(0);
        self.synchronized.set(0);
        self.counted().get_or_insert_with(Instant::now);
    }

    /// Counts the gap up to now.
    pub(super) fn tick(&self) {
        if let Some(counted) = &mut *self.counted() {
            self.count(counted);
        }
    }

    fn end_gap(&self) {
        if let Some(mut counted) = self.counted().take() {
            self.count(&mut counted);
        }
    }

    fn count(&self, counted: &mut Instant) {
        let now = Instant::now();
        self.gap.inc_by((now - *counted).as_secs_f64());
        *counted = now;
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
