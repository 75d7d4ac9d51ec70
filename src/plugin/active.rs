//! [`Active`]: the settings in force, and what they mean for a container.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use nri::Event;
use nri::api::{Container, ContainerAdjustment, PodSandbox};

use super::installation::Installation;
use crate::config::Settings;
use crate::injection::{Fault, Injection};
use crate::log::cut;
use crate::metrics::Metrics;
use crate::policy::{Decision, Policy, Verdict, decide};
use crate::report::{Outcome, Report};

/// For how many containers a report is awaited at once: more than are being created at any time.
const AWAITED: usize = 256;

/// Settings in force.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) policy: Policy,
    injection: Injection,
    installation: Arc<Installation>,
    /// After which event createContainer hooks have run: CRI-O creates the container in the OCI runtime before it tells
    /// of a creation, containerd when it starts it.
    hooks_ran: Event,
    /// Where the hooks' reports are seen.
    reports: PathBuf,
    /// Containers that were given a hook and are not started yet.
    awaited: Mutex<VecDeque<String>>,
    /// The last trouble with the hook's file that was told.
    complained: Mutex<Option<String>>,
}

impl Active {
    pub(super) fn new(
        settings: &Settings,
        installation: &Arc<Installation>,
        hooks_ran: Event,
    ) -> Result<Self> {
        let reports = settings.reports();
        Ok(Self {
            hooks_ran,
            reports,
            policy: settings.policy()?,
            injection: settings.injection()?,
            installation: Arc::clone(installation),
            awaited: Mutex::default(),
            complained: Mutex::new(None),
        })
    }

    pub(super) fn adjust(
        &self,
        metrics: &Metrics,
        pod: &PodSandbox,
        container: &Container,
    ) -> Option<ContainerAdjustment> {
        let decision = decide(&self.policy, pod, container);
        metrics.decided(&decision);
        log(pod, container, &decision);
        let Verdict::Update(update, _) = &decision.verdict else { return None };
        if let Err(fault) = self.hook_file(metrics) {
            metrics.withheld(&fault);
            return None;
        }
        metrics.injected();
        self.await_report(&container.id);
        Some(self.injection.adjustment(update))
    }

    /// Tells what the container's hook did, once it has been run and if it has reported.
    pub(super) fn after(
        &self,
        event: Event,
        metrics: &Metrics,
        pod: &PodSandbox,
        container: &Container,
    ) {
        if event != self.hooks_ran {
            return;
        }
        let awaited = self.no_longer_awaited(&container.id);
        match Report::read(&self.reports, &container.id) {
            Ok(None) if awaited => metrics.unreported(),
            Ok(None) => {}
            Ok(Some(report)) => {
                metrics.ran(&report);
                tell(pod, container, report);
            }
            Err(error) => {
                let (namespace, pod, name) = (&pod.namespace, &pod.name, &container.name);
                tracing::warn!(%namespace, %pod, container = %name, error = format!("{error:#}"), "report not read");
            }
        }
    }

    /// Looks at the hook's file, and tells trouble with it once.
    pub(super) fn hook_file(&self, metrics: &Metrics) -> Result<(), Fault> {
        let looked = self.installation.is_good().and_then(|()| self.injection.verify());
        metrics.looked_at(looked.as_ref().copied());
        let trouble = looked.as_ref().err().map(ToString::to_string);
        let mut complained =
            self.complained.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &trouble {
            Some(error) if complained.as_ref() != Some(error) => {
                tracing::error!(%error, "no hooks will be injected");
            }
            None if complained.is_some() => tracing::info!("the hook's file is good again"),
            _ => {}
        }
        *complained = trouble;
        looked
    }

    fn await_report(&self, id: &str) {
        let mut awaited = self.awaited();
        awaited.truncate(AWAITED - 1);
        awaited.push_front(id.to_owned());
    }

    fn no_longer_awaited(&self, id: &str) -> bool {
        let mut awaited = self.awaited();
        let found = awaited.iter().position(|awaited| awaited == id);
        found.and_then(|at| awaited.remove(at)).is_some()
    }

    fn awaited(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.awaited.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a hook did.
fn tell(pod: &PodSandbox, container: &Container, report: Report) {
    let (namespace, pod, name) = (&pod.namespace, &pod.name, &container.name);
    if report.outcome != Outcome::Updated {
        tracing::warn!(
            %namespace, %pod, container = %name, id = %container.id,
            reason = report.reason.unwrap_or_default(), microseconds = report.took,
            "not updated, the container has the cache of its image"
        );
        return;
    }
    let found = report.found.unwrap_or_default();
    let libcuda =
        found.libcuda.map_or_else(String::new, |found| format!("{} ({:?})", found.path, found.is));
    let hidden = found.hidden.iter().map(|it| match &it.by {
        Some(by) => format!("{} by {by}", it.path),
        None => it.path.clone(),
    });
    let hidden: Vec<_> = hidden.collect();
    tracing::info!(
        %namespace, %pod, container = %name, id = %container.id,
        engine = report.engine, fallback = report.fallback.unwrap_or_default(),
        added = report.added.join(","), libraries = found.libraries, libcuda,
        hidden = hidden.join(","),
        refused = report.refused.join(", "), microseconds = report.took,
        "updated"
    );
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
                because = cut(because.join(", ")), folders = cut(dirs.join(",")), "update"
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
