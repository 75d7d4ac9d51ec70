//! [`Diagnosis`]: what would keep this node's containers from being refreshed, and what to do about it.
//!
//! It only looks: nothing is registered, connected to, changed or restarted. What can't be seen from here, in a pod that has
//! two directories of the host, is unknown and not bad.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::config::Settings;

mod file;
mod kernel;
mod nri;
mod runtime;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// It works, with less than there could be.
    Warning,
    /// No container would be refreshed, or some would not be created.
    Bad,
    /// It can't be seen from here.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about; the same on every node.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was seen, for people.
    pub seen: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, seen: impl Into<String>) -> Self {
        Self { name, state: State::Good, seen: seen.into(), remedy: None }
    }

    fn warning(name: &'static str, seen: impl Into<String>, remedy: &str) -> Self {
        Self { name, state: State::Warning, seen: seen.into(), remedy: Some(remedy.to_owned()) }
    }

    fn bad(name: &'static str, seen: impl Into<String>, remedy: &str) -> Self {
        Self { name, state: State::Bad, seen: seen.into(), remedy: Some(remedy.to_owned()) }
    }

    fn unknown(name: &'static str, seen: impl Into<String>, remedy: &str) -> Self {
        Self { name, state: State::Unknown, seen: seen.into(), remedy: Some(remedy.to_owned()) }
    }
}

/// What `doctor` found, and with `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The version of this program.
    pub version: &'static str,
    /// Whether no check came out bad.
    pub good: bool,
    /// Every check that was made.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Looks at the node with the eyes of a daemon that has these settings.
    pub fn make(settings: &Settings) -> Self {
        let mut checks = vec![sound(settings)];
        let runtimes = runtime::find(settings.host_root());
        checks.extend(nri::checks(settings, &runtimes));
        checks.extend(file::checks(settings));
        checks.extend(kernel::checks(settings));
        let good = checks.iter().all(|check| check.state != State::Bad);
        Self { version: env!("CARGO_PKG_VERSION"), good, checks }
    }

    /// The diagnosis as a JSON object.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Do the settings themselves make sense?
fn sound(settings: &Settings) -> Check {
    let sound = settings.identity().and_then(|identity| settings.policy().map(|_| identity));
    match sound {
        Ok(identity) => Check::good("settings", format!("plugin {identity}")),
        Err(error) => Check::bad("settings", format!("{error:#}"), "correct the setting"),
    }
}

/// A line for each check, and one with the remedy below those that have one.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for Check { name, state, seen, remedy } in &self.checks {
            let state = match state {
                State::Good => "good",
                State::Warning => "warning",
                State::Bad => "BAD",
                State::Unknown => "unknown",
            };
            writeln!(f, "{state:<8}{name:<width$}  {}", line(seen))?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:<8}{:<width$}  -> {}", "", "", line(remedy))?;
            }
        }
        Ok(())
    }
}

/// What files of the host say may have lines and colours of its own.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_lines_and_programs_read_json() {
        let checks = vec![
            Check::good("a", "fine"),
            Check::bad("longer", "two\nlines", "mend it"),
            Check::unknown("b", "no", "look"),
        ];
        let diagnosis = Diagnosis { version: "1", good: false, checks };
        let text = "good    a       fine\nBAD     longer  two lines\n                -> mend it\nunknown b       no\n                -> look\n";
        assert_eq!(diagnosis.to_string(), text);
        let json: serde_json::Value = serde_json::from_str(&diagnosis.json().unwrap()).unwrap();
        assert_eq!(json["checks"][1]["state"], "bad");
        assert_eq!(json["checks"][0].get("remedy"), None);
    }

    #[test]
    fn settings_that_make_no_policy_are_told() {
        let settings = Settings::parse("folders = ['x']").unwrap();
        assert_eq!(sound(&settings).state, State::Bad);
        assert_eq!(sound(&Settings::default()).seen, "plugin 90-nri-ldcache");
    }
}
