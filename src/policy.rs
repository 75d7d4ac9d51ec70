//! The policy: is this a GPU container, and what does its linker cache need? Pure: no I/O, no clock, no error.

use std::fmt;

use glob::Pattern;
use nri::api::{Container, PodSandbox};

use crate::log::cut;
use crate::signal::{self, Signal};
use crate::update::{LibDir, Update};

/// How much of what a pod asked for and does not get is told: an annotation may have 256 KiB, which are as many folders.
const REFUSED: usize = 8;

/// Whether a container that says nothing gets an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those that ask for an NVIDIA GPU.
    #[default]
    Auto,
    /// All of them.
    Enabled,
    /// None: only an annotation enables it.
    Disabled,
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "auto" => Some(Self::Auto),
            "enabled" | "true" => Some(Self::Enabled),
            "disabled" | "false" => Some(Self::Disabled),
            _ => None,
        }
    }
}

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Policy {
    /// For containers without an annotation.
    pub mode: Mode,
    /// The annotation that toggles; with `folders.` before it, the one that adds directories.
    pub annotation: String,
    /// Namespaces whose pods are left alone, whatever they say; `*` and `?` match as in a shell.
    pub excluded_namespaces: Vec<Pattern>,
    /// Directories to add for every container, behind those that the container names.
    pub folders: Vec<LibDir>,
    /// The update without directories.
    pub template: Update,
}

impl Policy {
    /// The annotation that toggles updates, unless the operator names another.
    pub const ANNOTATION: &str = "ldcache.noderesource.dev";

    /// Can the pod's annotation of this key change a decision?
    pub fn reads(&self, key: &str) -> bool {
        key.starts_with(&self.annotation) || signal::reads(key)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            annotation: Self::ANNOTATION.to_owned(),
            excluded_namespaces: Vec::new(),
            folders: Vec::new(),
            template: Update::default(),
        }
    }
}

/// What to do with a container, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// What was asked for and refused, in words: the container's author should hear of it.
    pub refused: Vec<String>,
}

/// What to do with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Add a hook that does this.
    Update(Update, Vec<Signal>),
    /// Change nothing.
    Leave(Reason),
}

/// Why a container is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing in it asks for an NVIDIA GPU.
    NotGpu,
    /// Its annotation of this name, or else the operator's mode, says so.
    Disabled(Option<String>),
    /// The operator excluded its namespace.
    ExcludedNamespace(String),
    /// It carries a hook already that refreshes its cache.
    HasHook(String),
}

impl Reason {
    /// Every word.
    pub const WORDS: [&str; 4] = ["not-gpu", "disabled", "excluded-namespace", "has-hook"];

    /// The reason as one word, for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotGpu => "not-gpu",
            Self::Disabled(_) => "disabled",
            Self::ExcludedNamespace(_) => "excluded-namespace",
            Self::HasHook(_) => "has-hook",
        }
    }
}

impl Reason {
    /// Would somebody who waits for an update of this container ask? The other reasons hold for most containers of a node.
    pub fn is_of_interest(&self) -> bool {
        matches!(self, Self::Disabled(Some(_)) | Self::HasHook(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGpu => {
                f.write_str("no device, CDI name, environment or mount asks for an NVIDIA GPU")
            }
            Self::Disabled(Some(key)) => write!(f, "disabled by annotation {key}"),
            Self::Disabled(None) => {
                f.write_str("disabled by configuration, and no annotation enables it")
            }
            Self::ExcludedNamespace(name) => {
                write!(f, "namespace {name} is excluded by configuration")
            }
            Self::HasHook(hook) => write!(f, "already has the hook {hook}"),
        }
    }
}

/// Decides about a container that is being created.
pub fn decide(policy: &Policy, pod: &PodSandbox, container: &Container) -> Decision {
    let mut refused = Vec::new();
    let verdict = match asks(policy, pod, container, &mut refused) {
        Err(reason) => Verdict::Leave(reason),
        Ok(signals) => Verdict::Update(update(policy, pod, container, &mut refused), signals),
    };
    Decision { verdict, refused }
}

/// Why the container shall be updated, or why not.
fn asks(
    policy: &Policy,
    pod: &PodSandbox,
    container: &Container,
    refused: &mut Vec<String>,
) -> Result<Vec<Signal>, Reason> {
    if policy.excluded_namespaces.iter().any(|pattern| pattern.matches(&pod.namespace)) {
        return Err(Reason::ExcludedNamespace(pod.namespace.clone()));
    }
    if let Some(hook) = present_hook(container) {
        return Err(Reason::HasHook(hook));
    }
    let said = annotation(pod, &policy.annotation, &container.name);
    let mode = said.as_ref().and_then(|(key, value)| {
        let mode = Mode::parse(value);
        if mode.is_none() {
            let value = cut(value.clone());
            refused.push(format!("annotation {key}: {value:?} is not enabled, disabled or auto"));
        }
        mode
    });
    let mut signals = Vec::new();
    match (mode, policy.mode) {
        (Some(Mode::Disabled), _) => return Err(Reason::Disabled(said.map(|(key, _)| key))),
        (None, Mode::Disabled) => return Err(Reason::Disabled(None)),
        (Some(Mode::Enabled), _) => signals.extend(said.map(|(key, _)| Signal::Annotation(key))),
        (None, Mode::Enabled) => signals.push(Signal::Configuration),
        (Some(Mode::Auto), _) | (None, Mode::Auto) => {}
    }
    signals.extend(signal::signals(pod, container));
    if signals.is_empty() { Err(Reason::NotGpu) } else { Ok(signals) }
}

/// The update with its directories: what the container's mounts and environment show, what its pod and the operator say.
fn update(
    policy: &Policy,
    pod: &PodSandbox,
    container: &Container,
    refused: &mut Vec<String>,
) -> Update {
    let key = format!("folders.{}", policy.annotation);
    let said = annotation(pod, &key, &container.name);
    let said = said.iter().flat_map(|(_, value)| value.split(',')).map(str::trim);
    let named = signal::folders(container)
        .into_iter()
        .chain(said.filter(|dir| !dir.is_empty()).map(str::to_owned));
    let mut update = policy.template.clone();
    let mut more = 0;
    let named = named.map(|dir| dir.parse::<LibDir>());
    for dir in named.chain(policy.folders.iter().cloned().map(Ok)) {
        match dir.and_then(|dir| update.add(dir)) {
            Ok(()) => {}
            Err(error) if refused.len() < REFUSED => refused.push(cut(format!("{error:#}"))),
            Err(_) => more += 1,
        }
    }
    if more > 0 {
        refused.push(format!("{more} folders more"));
    }
    update
}

/// The pod's annotation for a container, by NRI's rule: for the container by name, for all of the pod, then the bare key
/// (containerd/nri, `GetEffectiveAnnotation`). Only the pod's annotations count: a container has none of its own in Kubernetes.
fn annotation(pod: &PodSandbox, key: &str, container: &str) -> Option<(String, String)> {
    [format!("{key}/container.{container}"), format!("{key}/pod"), key.to_owned()]
        .into_iter()
        .find_map(|key| pod.annotations.get(&key).cloned().map(|value| (key, value)))
}

/// The hook of this container that refreshes the linker cache, if it has one: NVIDIA's or ours, by the sub-command that
/// both have.
fn present_hook(container: &Container) -> Option<String> {
    let hooks = &container.hooks;
    let lists =
        [&hooks.create_runtime, &hooks.create_container, &hooks.start_container, &hooks.prestart];
    let mut hooks = lists.into_iter().flatten();
    hooks
        .find(|hook| hook.args.iter().any(|arg| arg == Update::COMMAND))
        .map(|hook| hook.path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nri::api::{Hook, Mount};

    const KEY: &str = Policy::ANNOTATION;

    fn pod(annotations: &[(&str, &str)]) -> PodSandbox {
        let annotations =
            annotations.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        PodSandbox {
            namespace: "default".into(),
            annotations: annotations.collect(),
            ..PodSandbox::default()
        }
    }

    fn container(env: &[&str], mounts: &[&str]) -> Container {
        let mount =
            |destination: &&str| Mount { destination: destination.to_string(), ..Mount::default() };
        Container {
            name: "main".into(),
            env: env.iter().map(|entry| entry.to_string()).collect(),
            mounts: mounts.iter().map(mount).collect(),
            ..Container::default()
        }
    }

    fn gpu() -> Container {
        container(&["NVIDIA_VISIBLE_DEVICES=all"], &[])
    }

    fn reason(policy: &Policy, pod: &PodSandbox, container: &Container) -> &'static str {
        match decide(policy, pod, container).verdict {
            Verdict::Leave(reason) => reason.word(),
            Verdict::Update(..) => "update",
        }
    }

    fn dirs(decision: &Decision) -> Vec<&str> {
        match &decision.verdict {
            Verdict::Update(update, _) => update.dirs().iter().map(LibDir::as_str).collect(),
            Verdict::Leave(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn annotations_decide_over_signals_and_the_nearest_key_wins() {
        let policy = Policy::default();
        let (own, all) = (format!("{KEY}/container.main"), format!("{KEY}/pod"));
        for (annotations, container, expected) in [
            (vec![], gpu(), "update"),
            (vec![], container(&[], &[]), "not-gpu"),
            (vec![(KEY, "enabled")], container(&[], &[]), "update"),
            (vec![(KEY, "disabled")], gpu(), "disabled"),
            (vec![(KEY, "auto")], container(&[], &[]), "not-gpu"),
            (vec![(KEY, "auto")], gpu(), "update"),
            (vec![(KEY, "enabled"), (&all, "disabled")], gpu(), "disabled"),
            (vec![(&own, "enabled"), (&all, "disabled")], gpu(), "update"),
            (vec![("ldcache.noderesource.dev/container.other", "disabled")], gpu(), "update"),
            (vec![(KEY, "off")], gpu(), "update"),
            (vec![(KEY, "off")], container(&[], &[]), "not-gpu"),
        ] {
            assert_eq!(
                reason(&policy, &pod(&annotations), &container),
                expected,
                "{annotations:?}"
            );
        }
        let odd = decide(&policy, &pod(&[(KEY, "off")]), &gpu());
        assert_eq!(
            odd.refused,
            ["annotation ldcache.noderesource.dev: \"off\" is not enabled, disabled or auto"]
        );
    }

    #[test]
    fn the_operator_sets_the_default_and_the_exclusions() {
        let disabled = Policy { mode: Mode::Disabled, ..Policy::default() };
        assert_eq!(reason(&disabled, &pod(&[]), &gpu()), "disabled");
        assert_eq!(reason(&disabled, &pod(&[(KEY, "auto")]), &gpu()), "update");
        let enabled = Policy { mode: Mode::Enabled, ..Policy::default() };
        assert_eq!(reason(&enabled, &pod(&[]), &container(&[], &[])), "update");
        let excluded_namespaces = vec![Pattern::new("kube-*").unwrap()];
        let excluded = Policy { excluded_namespaces, ..Policy::default() };
        let system = PodSandbox { namespace: "kube-system".into(), ..pod(&[(KEY, "enabled")]) };
        assert_eq!(reason(&excluded, &system, &gpu()), "excluded-namespace");
        assert_eq!(reason(&excluded, &pod(&[]), &gpu()), "update");
    }

    #[test]
    fn a_container_that_has_the_hook_gets_no_second() {
        for (path, args, expected) in [
            (
                "/usr/bin/nvidia-cdi-hook",
                &["nvidia-cdi-hook", "update-ldcache", "--folder", "/x"][..],
                "has-hook",
            ),
            ("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook", "update-ldcache"], "has-hook"),
            ("/opt/nri-ldcache/nri-ldcache", &["nri-ldcache", "update-ldcache"], "has-hook"),
            ("/usr/bin/nvidia-cdi-hook", &["nvidia-cdi-hook", "create-symlinks"], "update"),
        ] {
            let mut container = gpu();
            let args = args.iter().map(|arg| arg.to_string()).collect();
            let hook = Hook { path: path.into(), args, ..Hook::default() };
            container.hooks.mut_or_insert_default().create_container.push(hook);
            assert_eq!(reason(&Policy::default(), &pod(&[]), &container), expected, "{path}");
        }
    }

    #[test]
    fn folders_come_from_all_sources_in_order_and_once() {
        let policy = Policy { folders: vec!["/operator".parse().unwrap()], ..Policy::default() };
        let container = container(
            &["NVIDIA_CTK_LIBCUDA_DIR=/ctk"],
            &[
                "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
                "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
                "/usr/local/nvidia",
            ],
        );
        let key = format!("folders.{KEY}");
        let decision = decide(&policy, &pod(&[(&key, "/own, /ctk")]), &container);
        assert_eq!(
            dirs(&decision),
            [
                "/usr/lib/x86_64-linux-gnu",
                "/usr/local/nvidia/lib64",
                "/usr/local/nvidia/lib",
                "/ctk",
                "/own",
                "/operator"
            ]
        );
        assert!(decision.refused.is_empty());
    }

    #[test]
    fn what_is_told_of_a_huge_annotation_is_little() {
        let long = "x".repeat(200_000);
        let folders = format!("folders.{KEY}");
        for (key, value) in
            [(&folders, "x,".repeat(100_000)), (&folders, long.clone()), (&KEY.to_owned(), long)]
        {
            let decision = decide(&Policy::default(), &pod(&[(key, &value)]), &gpu());
            let told: usize = decision.refused.iter().map(String::len).sum();
            assert!((1..10).contains(&decision.refused.len()) && told < 10_000, "{key}: {told}");
        }
        let decision = decide(&Policy::default(), &pod(&[(&folders, &"x,".repeat(100))]), &gpu());
        assert_eq!(decision.refused.last().unwrap(), "92 folders more");
    }

    #[test]
    fn hostile_folders_are_refused_and_said_so() {
        let key = format!("folders.{KEY}");
        let said = pod(&[(&key, "/ok,../x,/a\n/b,-f,/c/../d,rel,/e\0f")]);
        let mut container = gpu();
        container.env.push("NVIDIA_CTK_LIBCUDA_DIR=/x\n/y".into());
        let decision = decide(&Policy::default(), &said, &container);
        assert_eq!(dirs(&decision), ["/ok"]);
        assert_eq!(decision.refused.len(), 7, "{:?}", decision.refused);
        assert!(decision.refused[0].contains("\"/x\\n/y\" contains"), "{:?}", decision.refused);
    }
}
