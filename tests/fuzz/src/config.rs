//! Configurations: what is accepted makes hooks that run, and what is not is told in one line.

use std::path::Path;

use nri_ldcache::config::Settings;
use nri_ldcache::fuzzing;

/// Reads a text as a file and as what the runtime passes.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let settings = match fuzzing::settings(text) {
        Ok(settings) => settings,
        Err(error) => {
            let said = format!("{error:#}");
            let line = said.strip_prefix("line ").and_then(|said| said.split_once(": "));
            let line = line.and_then(|(line, _)| line.parse::<usize>().ok());
            let lines = 1 + text.matches('\n').count();
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(Settings::from_runtime(text).is_err());
            return;
        }
    };
    let debug = |settings: &Settings| format!("{settings:?}");
    let again = Settings::default().over(settings.clone());
    assert_eq!(debug(&settings.clone().over(again.clone())), debug(&settings));
    assert_eq!(debug(&again), debug(&settings));
    if Settings::from_runtime(text).is_ok() {
        assert!(settings.idx.is_none() && settings.log_level.is_none());
    }
    if let Ok(identity) = settings.identity() {
        let said = identity.to_string();
        assert!(said.as_bytes()[..2].iter().all(u8::is_ascii_digit) && &said[2..3] == "-");
    }
    let Ok(policy) = settings.policy() else { return };
    assert!(!policy.annotation.contains(['/', ' ', '\n']));
    let mut update = policy.template.clone();
    let added = policy.folders.iter().try_for_each(|dir| update.add(dir.clone()));
    assert!(added.is_ok() || update.dirs().len() == 256);
    super::policy::update_holds(&update);
    let path = settings.hook_path.as_deref().unwrap_or(Path::new("/hook"));
    let settings = Settings { hook_path: Some(path.to_owned()), ..settings };
    if let Ok(injection) = settings.injection() {
        let hook = injection.hook(&update);
        assert_eq!(hook.args[2..], update.to_args());
        assert!(
            hook.path.starts_with('/') && hook.timeout.value > update.timeout().as_secs() as i64
        );
    }
}
