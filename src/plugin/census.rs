//! [`Census`]: the containers that were there before us, and go without a hook.

use std::collections::{HashMap, HashSet};
use std::mem::take;

use nri::api::{Container, ContainerState, Message as _, PodSandbox};

use crate::policy::{Policy, Verdict, decide};
use crate::signal;

/// How many of them are named.
const NAMED: usize = 5;

/// Most bytes of a pod's annotations that are kept, and of all containers that were told before their pods. Kubernetes allows
/// 256 KiB and a megabyte each, which is more than the daemon may have; what is left out may be counted wrongly.
const ANNOTATIONS: usize = 4 << 10;
const EARLY: usize = 8 << 20;

/// Counts containers that run and were created without us: while there was no plugin, or it was not connected.
///
/// Pods and containers come one by one and in any order. What is kept of them is what the policy looks at.
#[derive(Debug, Default)]
pub(super) struct Census {
    pods: HashMap<String, Pod>,
    /// Containers that were told before their pods, and their bytes.
    early: Vec<Container>,
    early_bytes: usize,
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
        let mut left = ANNOTATIONS;
        let mut fits = |(key, value): &(String, String)| {
            let rest = left.checked_sub(key.len() + value.len());
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let read = pod.annotations.into_iter().filter(|(key, _)| policy.reads(key));
        let annotations = read.filter(|annotation| fits(annotation)).collect();
        Self { name: pod.name, namespace: pod.namespace, annotations }
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
                container.annotations.retain(|key, _| policy.reads(key));
                container.env.retain(|entry| signal::reads_env(entry));
                let bytes = self.early_bytes + container.compute_size() as usize;
                if bytes <= EARLY {
                    self.early_bytes = bytes;
                    self.early.push(container);
                }
            }
        }
    }

    /// Everything was told: how many go without, and some of them by name.
    pub(super) fn complete(&mut self, policy: &Policy) -> (usize, Vec<String>) {
        let pods = take(&mut self.pods);
        self.early_bytes = 0;
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
    use nri::api::{Hook, Mount};

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
    fn what_is_kept_does_not_grow_with_what_pods_say() {
        let policy = Policy::default();
        let mut census = Census::default();
        let long = "x".repeat(200_000);
        let mut hostile = pod("hostile", "enabled");
        for key in ["cdi.k8s.io/a".to_owned(), format!("{}/pod", Policy::ANNOTATION)] {
            hostile.annotations.insert(key, long.clone());
        }
        census.pod(&policy, hostile);
        let kept = &census.pods["hostile"].annotations;
        assert!(kept.len() == 1 && kept[0].1 == "enabled", "{} annotations", kept.len());
        for number in 0..100 {
            let mut early = container(&number.to_string(), "late", "NVIDIA_VISIBLE_DEVICES=all");
            early.env.push(format!("LONG={long}"));
            early.annotations.insert("long".into(), long.clone());
            early.mounts.push(Mount { source: long.clone(), ..Mount::default() });
            census.container(&policy, early);
        }
        let bytes: u64 = census.early.iter().map(|early| early.compute_size()).sum();
        assert!((EARLY as u64 * 9 / 10..EARLY as u64).contains(&bytes), "{bytes}");
        assert_eq!(census.complete(&policy).0, census.without.len());
        assert!(census.without.len() > 30 && census.early_bytes == 0);
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
