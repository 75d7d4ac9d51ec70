//! What becomes of hooks.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Durations, Labels, add, durations, family, gauge};
use crate::injection::Fault;
use crate::report::{Outcome, Report};

/// From what a small image takes to the time limit that hooks have unless it is set, in seconds.
const BUCKETS: [f64; 12] = [2e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Who makes a cache; a run that failed has none, and a report may be another version's.
const ENGINES: [&str; 5] = ["incremental", "native", "ldconfig", "none", "other"];

const OUTCOMES: [&str; 2] = ["updated", "failed"];

#[derive(Debug)]
pub(super) struct Hooks {
    injected: Counter,
    withheld: Family<Labels<1>, Counter>,
    ran: Family<Labels<2>, Counter>,
    fallbacks: Counter,
    duration: Durations,
    unreported: Counter,
    file_good: Gauge,
}

impl Hooks {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let file_good = gauge(
            registry,
            "hook_file_good",
            "Whether the hook's file on the host is there, executable and this very program; looked at whenever this is read",
        );
        let injected =
            add(registry, "hooks_injected", "Hooks added to containers", Counter::default());
        let withheld = add(
            registry,
            "hooks_withheld",
            "Hooks that were not added because their file is not good, and what is wrong with it",
            family(Fault::WORDS.map(|word| [("reason", word)]), Counter::default as fn() -> _),
        );
        let runs = OUTCOMES.into_iter().flat_map(|outcome| ENGINES.map(|name| run(outcome, name)));
        let ran = add(
            registry,
            "hook_runs",
            "Hooks that have run and reported, whether the cache was updated, and by whom it was made",
            family(runs, Counter::default as fn() -> _),
        );
        let duration = durations(
            registry,
            "hook_run_duration",
            "Time that hooks took which have reported, as they measured it themselves",
            ENGINES.map(|name| [("engine", name)]),
            || Histogram::new(BUCKETS),
        );
        let fallbacks = add(
            registry,
            "hook_fallbacks",
            "Hooks that looked through all directories because the image's cache was no base for a new one",
            Counter::default(),
        );
        let unreported = add(
            registry,
            "hook_reports_missing",
            "Containers that were given a hook and started without a report of it: where the hook's user can't write to the host, as in a pod with a user namespace, or where it was killed",
            Counter::default(),
        );
        Self { injected, withheld, ran, fallbacks, duration, unreported, file_good }
    }

    pub(super) fn injected(&self) {
        self.injected.inc();
    }

    pub(super) fn withheld(&self, fault: &Fault) {
        self.withheld.get_or_create(&[("reason", fault.word())]).inc();
    }

    pub(super) fn looked_at(&self, good: bool) {
        self.file_good.set(good.into());
    }

    pub(super) fn ran(&self, report: &Report) {
        let outcome = match report.outcome {
            Outcome::Updated => "updated",
            Outcome::Failed => "failed",
        };
        let engine = if report.engine.is_empty() { "none" } else { &report.engine };
        let engine = ENGINES.into_iter().find(|known| *known == engine).unwrap_or("other");
        self.ran.get_or_create(&run(outcome, engine)).inc();
        self.fallbacks.inc_by(report.fallback.is_some().into());
        let took = Duration::from_micros(report.took).as_secs_f64();
        self.duration.get_or_create(&[("engine", engine)]).observe(took);
    }

    pub(super) fn unreported(&self) {
        self.unreported.inc();
    }
}

fn run(outcome: &'static str, engine: &'static str) -> Labels<2> {
    [("outcome", outcome), ("engine", engine)]
}
