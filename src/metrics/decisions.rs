//! What the policy says of containers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, add, family, gauge};
use crate::policy::{Decision, Reason, Verdict};
use crate::signal::Signal;

#[derive(Debug)]
pub(super) struct Decisions {
    decided: Family<Labels<2>, Counter>,
    without_hook: Gauge,
}

impl Decisions {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let update = Signal::WORDS.map(|word| labels("update", word));
        let leave = Reason::WORDS.map(|word| labels("leave", word));
        let decided = add(
            registry,
            "decisions",
            "Containers that the runtime asked about, what was decided, and why: of several signs that a container wants an update, the first",
            family(update.into_iter().chain(leave), Counter::default as fn() -> _),
        );
        let without_hook = gauge(
            registry,
            "containers_without_hook",
            "Containers that ran already when the runtime told which it has, that have no hook which refreshes the linker cache, that would be given one if they were created now, and that were not removed since",
        );
        Self { decided, without_hook }
    }

    pub(super) fn decided(&self, decision: &Decision) {
        let labels = match &decision.verdict {
            Verdict::Update(_, signals) => {
                signals.first().map(|word| labels("update", word.word()))
            }
            Verdict::Leave(reason) => Some(labels("leave", reason.word())),
        };
        // Nothing is updated without a signal.
        if let Some(labels) = labels {
            self.decided.get_or_create(&labels).inc();
        }
    }

    pub(super) fn without_hook(&self, count: usize) {
        self.without_hook.set(count as i64);
    }
}

fn labels(decision: &'static str, reason: &'static str) -> Labels<2> {
    [("decision", decision), ("reason", reason)]
}
