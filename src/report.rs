//! [`Report`]: what one run of the hook did, written by the hook on the host, read by the daemon.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::found::{Found, Hidden};
use crate::hook::Done;

/// Most bytes of a report. What an image or a pod can make long is cut, so that six bytes for each are not more.
pub(crate) const LIMIT: u64 = 64 << 10;
const LISTED: usize = 64;
const LISTED_BYTES: usize = 3 << 10;
const TEXT: usize = 1000;
const HIDDEN_BYTES: usize = 1500;
const STEPS: usize = 16;
const STEP: usize = 32;

/// Most reports that are kept: more than a node has containers (kubelet's `maxPods` is 110 unless raised).
const KEPT: usize = 1000;

/// What a run of the hook came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The cache is new.
    Updated,
    /// It is as the image has it.
    Failed,
}

/// What one run of the hook did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The container's id.
    pub id: String,
    /// What it came to.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended, in milliseconds since 1970 UTC.
    pub ended: u64,
    /// How long it took, in microseconds.
    pub took: u64,
    /// The most memory that its process in the jail had, without that of ldconfig, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Who made the cache.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// Why the image's cache was no base for it, where one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Its steps inside the jail, with their microseconds, in order.
    pub steps: Vec<(String, u64)>,
    /// Directories that the linker did not search before.
    pub added: Vec<String>,
    /// What the linker finds now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// Layers of the sandbox that could not be had, each with its reason.
    pub refused: Vec<String>,
}

impl Report {
    /// Where reports are, on the host: it does not outlive the host's uptime, and neither do the containers.
    pub const DIR: &str = "/run/nri-ldcache";

    /// Tells what a run came to.
    pub fn new(id: &str, took: Duration, result: &Result<Done>) -> Self {
        let ended = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut report = Self {
            id: id.to_owned(),
            outcome: Outcome::Updated,
            reason: None,
            ended: ended.as_millis() as u64,
            took: took.as_micros() as u64,
            memory: None,
            engine: String::new(),
            fallback: None,
            steps: Vec::new(),
            added: Vec::new(),
            found: None,
            refused: Vec::new(),
        };
        match result {
            Ok(done) => {
                report.memory = done.memory;
                done.engine.name().clone_into(&mut report.engine);
                report.fallback = done.fallback.as_deref().map(|why| start(why, TEXT));
                let steps = done.steps.iter().take(STEPS);
                report.steps = steps.map(|(step, took)| (start(step, STEP), *took)).collect();
                report.added = some(&done.added, LISTED_BYTES, String::len);
                report.found.clone_from(&done.found);
                let libcuda = report.found.as_mut().and_then(|found| found.libcuda.as_mut());
                libcuda.into_iter().for_each(|it| it.path = start(&it.path, TEXT));
                let size = |it: &Hidden| it.path.len() + it.by.as_ref().map_or(0, String::len);
                if let Some(found) = &mut report.found {
                    found.hidden = some(&found.hidden, HIDDEN_BYTES, size);
                }
                report.refused = some(&done.refused, LISTED_BYTES, String::len);
            }
            Err(error) => {
                report.outcome = Outcome::Failed;
                report.reason = Some(start(&format!("{error:#}"), TEXT));
            }
        }
        report
    }

    /// Writes the report to `dir`, in place of an older one of the same container.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = path(dir, &self.id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
        prune(dir).with_context(|| format!("prune {}", dir.display()))?;
        let text = serde_json::to_vec(self)?;
        ensure!(text.len() as u64 <= LIMIT, "report is larger than {} KiB", LIMIT >> 10);
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            drop(fs::remove_file(&temporary));
        }
        written.with_context(|| format!("write {}", path.display()))
    }

    /// Reads the report of a container, if there is one.
    pub fn read(dir: &Path, id: &str) -> Result<Option<Self>> {
        let path = path(dir, id)?;
        let name = path.display();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open {name}")),
        };
        let mut text = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut text).with_context(|| format!("read {name}"))?;
        ensure!(text.len() as u64 <= LIMIT, "read {name}: larger than {} KiB", LIMIT >> 10);
        serde_json::from_slice(&text).map(Some).with_context(|| format!("read {name}"))
    }
}

/// The first characters of a text.
fn start(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Of some things as many as there is room for; one that is too large is passed over.
fn some<T: Clone>(all: &[T], mut room: usize, size: impl Fn(&T) -> usize) -> Vec<T> {
    let fitting = all.iter().take(LISTED).filter_map(|one| {
        room = room.checked_sub(size(one))?;
        Some(one.clone())
    });
    fitting.collect()
}

/// The file of a container. Ids are the runtime's; one that is no plain name has no report.
fn path(dir: &Path, id: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let named = !id.is_empty() && id.len() <= 200 && !id.starts_with('.') && id.chars().all(plain);
    ensure!(named, "container id {id:?} is no name for a file");
    Ok(dir.join(format!("{id}.json")))
}

/// Is a file of this name and content the report of a run, of this version or of another?
pub(crate) fn is_report(name: &str, text: &[u8]) -> bool {
    let value = serde_json::from_slice::<serde_json::Value>(text).unwrap_or_default();
    let id = name.strip_suffix(".json");
    id.is_some() && value.get("id").and_then(|id| id.as_str()) == id
}

/// Is this the name of a report that was being written?
pub(crate) fn is_temporary(name: &str) -> bool {
    let parts = name.strip_suffix(".tmp").and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(id, pid)| {
        !id.is_empty() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Makes room: when there are too many, the older half goes.
fn prune(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    if entries.len() < KEPT {
        return Ok(());
    }
    let dated = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut dated: Vec<_> = entries.into_iter().filter_map(dated).collect();
    dated.sort();
    for (_, path) in dated.iter().take(KEPT / 2) {
        // Another hook may do the same at the same time.
        drop(fs::remove_file(path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::{Library, Target};
    use anyhow::anyhow;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made");
        let libcuda = Library { path: "/a/libcuda.so.1".into(), is: Target::Mounted };
        let hidden = Hidden { path: "/a/libx.so".into(), by: None };
        let done = Done {
            added: vec!["/a".into()],
            found: Some(Found { libraries: 3, libcuda: Some(libcuda), hidden: vec![hidden] }),
            refused: vec![],
            steps: vec![("enter".into(), 7)],
            ..Done::default()
        };
        for result in [Ok(done), Err(anyhow!("{}", "x".repeat(5000)))] {
            let report = Report::new("c1", Duration::from_millis(5), &result);
            report.write(&dir).unwrap();
            let read = Report::read(&dir, "c1").unwrap().unwrap();
            assert_eq!(read, report);
            assert_eq!(read.outcome == Outcome::Failed, result.is_err());
            assert!(read.reason.is_none_or(|reason| reason.len() == TEXT));
        }
        assert_eq!(Report::read(&dir, "c2").unwrap(), None);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_report_of_much_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let long = "\u{1}".repeat(4000);
        let libcuda = Library { path: long.clone(), is: Target::Missing };
        let path = "\u{1}".repeat(750);
        let hidden = vec![Hidden { by: Some(path.clone()), path }; 64];
        let done = Done {
            fallback: Some(long.clone()),
            added: vec!["/a".repeat(1000); 256],
            found: Some(Found { libraries: usize::MAX, libcuda: Some(libcuda), hidden }),
            refused: vec!["\u{1}".repeat(48); 100],
            steps: vec![(long.clone(), u64::MAX); 100],
            ..Done::default()
        };
        for (result, added) in [(Ok(done), 1), (Err(anyhow!(long)), 0)] {
            Report::new("c1", Duration::MAX, &result).write(dir.path()).unwrap();
            let read = Report::read(dir.path(), "c1").unwrap().unwrap();
            assert_eq!(read.added.len(), added);
            assert_eq!(read.found.map_or(0, |found| found.hidden.len()), added);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for id in ["", "../x", "/x", ".x", "a/b", "a\0", &"a".repeat(300)] {
            let report = Report::new(id, Duration::ZERO, &Ok(Done::default()));
            assert!(
                report
                    .write(Path::new("/nowhere"))
                    .unwrap_err()
                    .to_string()
                    .contains("no name for a file")
            );
            assert!(Report::read(Path::new("/nowhere"), id).is_err());
        }
    }

    #[test]
    fn reports_are_bounded_in_number_and_size() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 10 {
            fs::write(dir.path().join(format!("{number}.json")), "{}").unwrap();
        }
        Report::new("c1", Duration::ZERO, &Ok(Done::default())).write(dir.path()).unwrap();
        assert!(fs::read_dir(dir.path()).unwrap().count() <= KEPT / 2 + 11);
        fs::write(dir.path().join("big.json"), "x".repeat(100 << 10)).unwrap();
        assert!(
            Report::read(dir.path(), "big").unwrap_err().to_string().contains("larger than 64 KiB")
        );
    }
}
