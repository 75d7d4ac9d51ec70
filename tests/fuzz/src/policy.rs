//! Pods and containers: whatever they say, a hook's arguments are what was decided, and its directories are harmless.

use std::ffi::OsString;

use arbitrary::{Arbitrary, Unstructured};
use nri::api::{CDIDevice, Container, Hook, LinuxDevice, Mount, PodSandbox};
use nri_ldcache::cli::{self, Command};
use nri_ldcache::policy::{Decision, Mode, Policy, Verdict, decide};
use nri_ldcache::signal;
use nri_ldcache::update::{Engine, LibDir, OnFailure, Update};

/// One pod, one of its containers, and the operator's policy.
///
/// As an input, a line for each thing that one of them says, with `\n`, `\0`, `\t` and `\\` in it as in Rust:
/// `env NVIDIA_VISIBLE_DEVICES=all`.
#[derive(Clone, Debug, Default)]
pub struct Case {
    policy: Policy,
    pod: PodSandbox,
    container: Container,
}

/// Reads a text as a case.
pub fn check(data: &[u8]) {
    if let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) {
        case.check();
    }
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut case = Self::default();
        let text = String::from_utf8_lossy(u.bytes(u.len())?);
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            case.say(word, unescape(rest));
        }
        Ok(case)
    }
}

fn unescape(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        plain.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                other => other.unwrap_or(c),
            },
            _ => c,
        });
    }
    plain
}

impl Case {
    fn say(&mut self, word: &str, rest: String) {
        let Self { policy, pod, container } = self;
        let pair = rest.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let numbers = rest.split(' ').filter_map(|word| word.parse().ok()).collect::<Vec<i64>>();
        match word {
            "namespace" => pod.namespace = rest,
            "annotation" => pod.annotations.extend(pair),
            "own" => container.annotations.extend(pair),
            "name" => container.name = rest,
            "env" => container.env.push(rest),
            "mount" => container.mounts.push(Mount { destination: rest, ..Mount::default() }),
            "cdi" => container.CDI_devices.push(CDIDevice { name: rest, ..CDIDevice::default() }),
            "device" => {
                let mut words = rest.split(' ').map(str::to_owned);
                let (type_, path) =
                    (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let major = numbers.first().copied().unwrap_or_default();
                let device = LinuxDevice { type_, path, major, ..LinuxDevice::default() };
                container.linux.mut_or_insert_default().devices.push(device);
            }
            "hook" => {
                let args = rest.split(' ').map(str::to_owned).collect();
                let hook = Hook { path: "/hook".into(), args, ..Hook::default() };
                container.hooks.mut_or_insert_default().create_container.push(hook);
            }
            "mode" if rest == "enabled" => policy.mode = Mode::Enabled,
            "mode" if rest == "disabled" => policy.mode = Mode::Disabled,
            "exclude" => policy.excluded_namespaces.extend(rest.parse()),
            "folder" => policy.folders.extend(rest.parse::<LibDir>()),
            "warn" => policy.template = policy.template.clone().with_on_failure(OnFailure::Warn),
            _ => {}
        }
    }

    /// Decides, twice.
    pub fn check(&self) {
        let Self { policy, pod, container } = self;
        let one = decision_holds(policy, pod, container);
        // The other way round in the hash map: with several CDI names, one of them is told.
        let annotations = pod.annotations.clone().into_iter().collect();
        let pod = PodSandbox { annotations, ..pod.clone() };
        let other = decide(policy, &pod, container);
        assert_eq!(one.refused, other.refused);
        match (&one.verdict, &other.verdict) {
            (Verdict::Update(one, _), Verdict::Update(other, _)) => assert_eq!(one, other),
            (one, other) => assert_eq!(one, other),
        }
    }
}

/// Decides, and checks what was decided.
pub fn decision_holds(policy: &Policy, pod: &PodSandbox, container: &Container) -> Decision {
    let decision = decide(policy, pod, container);
    if !container.name.contains(char::is_control) {
        let odd = decision.refused.iter().find(|line| line.contains(char::is_control));
        assert!(odd.is_none(), "more than one line: {odd:?}");
    }
    match &decision.verdict {
        Verdict::Leave(reason) => {
            assert!(!reason.word().is_empty() && !reason.to_string().is_empty())
        }
        Verdict::Update(update, signals) => {
            let mut words: Vec<_> = signals.iter().map(signal::Signal::word).collect();
            assert!(
                !words.is_empty() && signals.iter().all(|signal| !signal.to_string().is_empty())
            );
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), signals.len(), "a signal is told twice");
            let dirs: Vec<_> = update.dirs().iter().map(LibDir::as_str).collect();
            assert_eq!(dirs, expected(policy, pod, container));
            update_holds(update);
        }
    }
    decision
}

/// The directories that an update should have, made in a simpler way.
fn expected(policy: &Policy, pod: &PodSandbox, container: &Container) -> Vec<String> {
    let mut named = signal::folders(container);
    let key = format!("folders.{}", policy.annotation);
    let keys = [format!("{key}/container.{}", container.name), format!("{key}/pod"), key];
    if let Some(value) = keys.iter().find_map(|key| pod.annotations.get(key)) {
        named.extend(value.split(',').map(|dir| dir.trim().to_owned()));
    }
    named.extend(policy.folders.iter().map(LibDir::to_string));
    let mut dirs = Vec::new();
    for dir in named.iter().filter_map(|dir| dir.parse::<LibDir>().ok()) {
        if !dirs.iter().any(|known| known == dir.as_str()) {
            dirs.push(dir.to_string());
        }
    }
    dirs.truncate(256);
    dirs
}

/// Checks that an update has harmless directories, each once, and arrives as it is.
pub fn update_holds(update: &Update) {
    for (index, dir) in update.dirs().iter().enumerate() {
        let text = dir.as_str();
        assert!(text.starts_with('/') && text.len() < 4096, "{text:?}");
        assert!(!text.contains(|c: char| c.is_control() || "#=,".contains(c)), "{text:?}");
        assert!(!text.split('/').any(|part| part == ".." || part == "."), "{text:?}");
        assert!(!update.dirs()[..index].contains(dir), "{text:?} is there twice");
        assert_eq!(text.parse::<LibDir>().ok().as_ref(), Some(dir), "{text:?}");
    }
    let args = update.to_args();
    assert!(args.iter().all(|arg| !arg.contains('\0')), "{args:?}");
    // Who calls NVIDIA's program and says nothing else means glibc's own way.
    let toolkit = match update.engine() {
        Engine::Auto => Engine::Ldconfig,
        other => other,
    };
    for (name, expected) in [
        ("nri-ldcache", update.clone()),
        ("/usr/bin/nvidia-cdi-hook", update.clone().with_engine(toolkit)),
    ] {
        let line = [name, Update::COMMAND].into_iter().chain(args.iter().map(String::as_str));
        match cli::parse(line.map(OsString::from), false) {
            Ok(Command::UpdateLdcache(arrived)) => assert_eq!(arrived.update, expected),
            other => panic!("{args:?}: {other:?}"),
        }
    }
}
