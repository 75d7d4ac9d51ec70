//! [`Census`]: the containers that were there before us, and go without a hook.

use std::collections::{HashMap, HashSet};
use std::mem::take;

use nri::api::{Container, ContainerState, PodSandbox};

use crate::policy::{Policy, Verdict, decide};

/// How many of them are named.
const NAMED: usize = 5;

/// Counts containers that run and were created without us: while there was no plugin, or it was not connected.
///
/// Pods and containers come one by one and in any order. What is kept of them is what the policy looks at.
#[derive(Debug, Default)]
pub(super) struct Census {
    pods: HashMap<String, Pod>,
    /// Containers that were told before their pods.
    early: Vec<Container>,
    /// Those that go without, by id.
    without: HashSet<String>,
    named: Vec<String>,
}

/// What is kept of a pod: a tenth of what it is, and there may be a thousand.
#[derive(Debug)]
struct Pod {
    name: String,
    namespace: String,
    annotations: Box<[(String, String)]>,
}

impl Pod {
    fn new(policy: &Policy, pod: PodSandbox) -> Self {
        let annotations = pod.annotations.into_iter().filter(|(key, _)| policy.reads(key));
        Self { name: pod.name, namespace: pod.namespace, annotations: annotations.collect() }
    }

    fn sandbox(&self) -> PodSandbox {
        PodSandbox {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            annotations: self.annotations.iter().cloned().collect(),
            ..PodSandbox::default()
        }
    }
}

impl Census {
    /// A pod that exists.
    pub(super) fn pod(&mut self, policy: &Policy, mut pod: PodSandbox) {
        self.pods.insert(take(&mut pod.id), Pod::new(policy, pod));
    }

    /// A container that exists.
    pub(super) fn container(&mut self, policy: &Policy, mut container: Container) {
        if container.state.value() == ContainerState::CONTAINER_STOPPED as i32 {
            return;
        }
        match self.pods.get(&container.pod_sandbox_id) {
            Some(pod) => {
                let pod = pod.sandbox();
                self.look(policy, &pod, &container);
            }
            None => {
                container.args = Vec::new();
                container.labels.clear();
                container.rlimits = Vec::new();
                self.early.push(container);
            }
        }
    }

    /// Everything was told: how many go without, and some of them by name.
    pub(super) fn complete(&mut self, policy: &Policy) -> (usize, Vec<String>) {
        let pods = take(&mut self.pods);
        for container in take(&mut self.early) {
            let pod = pods.get(&container.pod_sandbox_id).map(Pod::sandbox);
            self.look(policy, &pod.unwrap_or_default(), &container);
        }
        (self.without.len(), take(&mut self.named))
    }

    /// A container is gone: how many go without, if that is another number now.
    pub(super) fn removed(&mut self, id: &str) -> Option<usize> {
        self.without.remove(id).then_some(self.without.len())
    }

    fn look(&mut self, policy: &Policy, pod: &PodSandbox, container: &Container) {
        if let Verdict::Update(..) = decide(policy, pod, container).verdict {
            self.without.insert(container.id.clone());
            if self.named.len() < NAMED {
                self.named.push(format!("{}/{} {}", pod.namespace, pod.name, container.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nri::api::Hook;

    fn container(id: &str, pod: &str, env: &str) -> Container {
        Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            name: "main".into(),
            env: vec![env.into()],
            state: ContainerState::CONTAINER_RUNNING.into(),
            ..Container::default()
        }
    }

    fn pod(id: &str, annotation: &str) -> PodSandbox {
        let annotations = [(Policy::ANNOTATION, annotation), ("other", "x")];
        PodSandbox {
            id: id.into(),
            name: id.into(),
            namespace: "default".into(),
            annotations: annotations.map(|(key, value)| (key.into(), value.into())).into(),
            ..PodSandbox::default()
        }
    }

    #[test]
    fn those_are_counted_that_would_get_a_hook_now() {
        const GPU: &str = "NVIDIA_VISIBLE_DEVICES=all";
        let policy = Policy::default();
        let mut census = Census::default();
        // Told before its pod, which then says that it shall not have one.
        census.container(&policy, container("early", "disabled", GPU));
        census.container(&policy, container("first", "late", GPU));
        census.pod(&policy, pod("disabled", "disabled"));
        census.pod(&policy, pod("enabled", "enabled"));
        census.pod(&policy, pod("late", "auto"));
        assert!(census.pods.values().all(|pod| pod.annotations.len() == 1));
        census.container(&policy, container("plain", "late", "A=B"));
        census.container(&policy, container("wanted", "enabled", "A=B"));
        let mut hooked = container("hooked", "late", GPU);
        let args = vec!["nri-ldcache".into(), "update-ldcache".into()];
        let hook = Hook { args, ..Hook::default() };
        hooked.hooks.mut_or_insert_default().create_container.push(hook);
        census.container(&policy, hooked);
        let mut stopped = container("stopped", "late", GPU);
        stopped.state = ContainerState::CONTAINER_STOPPED.into();
        census.container(&policy, stopped);
        let (count, named) = census.complete(&policy);
        assert_eq!((count, named.len()), (2, 2));
        assert!(named.contains(&"default/late main".to_owned()), "{named:?}");
        assert_eq!(census.removed("plain"), None);
        assert_eq!(census.removed("first"), Some(1));
        assert_eq!(census.removed("first"), None);
    }
}
