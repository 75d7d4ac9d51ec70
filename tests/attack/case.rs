//! One attack: made, run and judged.

use std::os::unix::fs::lchown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::expected::{Engine, Expected, expected};
use super::extreme::Extreme;
use super::object::Object;
use super::place::Place;
use super::site::{Ran, Site};
use super::situation::{MAPPED, Situation};
use super::snapshot::Snapshot;
use super::victim::{DRIVER, Victim};
use super::watched::Executed;

/// What a hook takes at most beyond its own limit.
const GRACE: Duration = Duration::from_millis(500);

/// What a file of an update may be called, and what is used up on the way to it.
const UPDATED: [&str; 7] = [
    "etc",
    "ld.so.cache",
    "ld.so.cache~",
    "ld.so.conf",
    "ld.so.conf.d",
    "00-nvcr-ldcache.conf",
    "zz-nvcr-ldcache.conf",
];

/// An attack.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) situation: Situation,
    pub(crate) engine: Engine,
    pub(crate) expected: Expected,
    attack: Attack,
}

#[derive(Debug)]
enum Attack {
    Planted(Place, Object),
    Extreme(&'static Extreme),
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: &'static str,
    pub(crate) ran: Ran,
    /// What must not be; empty if all is well.
    pub(crate) faults: Vec<String>,
}

impl Case {
    /// The whole matrix.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (engine, situation) in Engine::ALL
            .into_iter()
            .flat_map(|engine| Situation::ALL.map(|situation| (engine, situation)))
        {
            for place in Place::ALL {
                let fits = |object: &Object| {
                    object.fits(place) && makes_sense(place, *object, situation, engine)
                };
                let objects = Object::ALL.into_iter().filter(fits);
                cases.extend(objects.map(|object| Self::planted(place, object, situation, engine)));
            }
            if situation == Situation::Host {
                cases.extend(Extreme::ALL.iter().map(|extreme| Self::extreme(extreme, engine)));
            }
        }
        cases
    }

    fn planted(place: Place, object: Object, situation: Situation, engine: Engine) -> Self {
        Self {
            name: format!("{place}: {object}"),
            situation,
            engine,
            expected: expected(place, object, situation, engine),
            attack: Attack::Planted(place, object),
        }
    }

    fn extreme(extreme: &'static Extreme, engine: Engine) -> Self {
        Self {
            name: extreme.name.to_owned(),
            situation: Situation::Host,
            engine,
            expected: match engine {
                Engine::Ldconfig => extreme.expected_of_ldconfig(),
                _ => extreme.expected,
            },
            attack: Attack::Extreme(extreme),
        }
    }

    /// Makes the container, runs the hook, and looks at everything.
    pub(crate) fn run(&self, site: &Site) -> Result<Verdict> {
        self.judged(site).with_context(|| self.to_string())
    }

    fn judged(&self, site: &Site) -> Result<Verdict> {
        let victim = self.victim(site)?;
        let (before, mounts) = (Snapshot::of_container(&victim.root())?, site.mounts()?);
        let limit = format!("--timeout={}", self.limit().as_secs());
        let ran = site.run(&victim, self.situation, &[&limit, self.engine.argument()])?;
        let mut faults = site.damage()?;
        if site.mounts()? != mounts {
            faults.push("changed the host's mounts".to_owned());
        }
        let after = Snapshot::of_container(&victim.root())?;
        let changed = before.difference(&after);
        // ldconfig makes them, and removes those that lead nowhere.
        let soname_link = |path: &Path| match (before.get(path), after.get(path)) {
            (None, Some(made)) => made.is_soname_link(),
            (Some(gone), None) => gone.target.is_some() && is_library(path),
            _ => false,
        };
        let (changed, outcome): (Vec<_>, _) = match ran.did.code {
            Some(0) if changed.is_empty() => (changed, "NothingToDo"),
            Some(0) => (changed.into_iter().filter(|path| !is_update(path)).collect(), "Updated"),
            Some(_) => (changed, "Unchanged"),
            None => (changed, "killed"),
        };
        for path in changed.iter().filter(|path| !soname_link(path)) {
            faults.push(format!("{outcome}, and changed the container's /{}", path.display()));
        }
        faults.extend(self.unexpected(&victim, outcome, &ran));
        faults.extend(self.executed(outcome, &ran.did.executed));
        Ok(Verdict { outcome, ran, faults })
    }

    fn victim(&self, site: &Site) -> Result<Victim> {
        let size = match self.attack {
            Attack::Planted(..) => "size=64m",
            Attack::Extreme(extreme) => extreme.size,
        };
        let victim = Victim::new(self.situation, size)?;
        if self.engine == Engine::Incremental {
            victim.make_cache()?;
        }
        if self.situation.is_mapped() {
            victim.give()?;
        }
        victim.mount()?;
        match self.attack {
            Attack::Planted(place, object) => {
                object.plant(&victim.root(), place)?;
                if self.situation.is_mapped() && !object.is_mount() {
                    // Not what refuses it: it was given before it was made immutable.
                    drop(lchown(victim.path(place.path()), Some(MAPPED), Some(MAPPED)));
                }
            }
            Attack::Extreme(extreme) => (extreme.prepare)(&victim)?,
        }
        if let Attack::Planted(_, Object::Done) = self.attack {
            site.run(&victim, self.situation, &[self.engine.argument()])?;
        }
        Ok(victim)
    }

    /// The hook's own: short where it is waited for.
    fn limit(&self) -> Duration {
        Duration::from_secs(match self.expected {
            Expected::Unchanged(_) => 5,
            Expected::InTime => 10,
            Expected::Updated | Expected::NothingToDo => 20,
        })
    }

    /// What was executed and must not be, or the other way round.
    fn executed(&self, outcome: &str, executed: &[Executed]) -> Vec<String> {
        let may = usize::from(self.engine == Engine::Ldconfig);
        let must = if outcome == "Updated" { may } else { 0 };
        let number = executed.len();
        let wrong =
            (!(must..=may).contains(&number)).then(|| format!("executed {number} programs"));
        let alone = self.situation.namespaces();
        let allowed = |it: &&Executed| {
            it.sealed
                && it.environment == 0
                && alone.iter().all(|name| it.namespaces.contains(name))
        };
        let others = executed.iter().filter(|it| !allowed(it));
        wrong.into_iter().chain(others.map(|it| format!("executed {it:?}"))).collect()
    }

    /// What of the outcome is not as it was tabulated.
    fn unexpected(&self, victim: &Victim, outcome: &str, ran: &Ran) -> Option<String> {
        let in_time = match (self.expected, outcome) {
            (Expected::InTime, "Updated") => Expected::Updated,
            (Expected::InTime, _) => Expected::Unchanged("time was up"),
            (expected, _) => expected,
        };
        if outcome != in_time.to_string() {
            return Some(format!("ended as {outcome}, not as {}: {}", self.expected, ran.said));
        }
        if ran.did.took > self.limit() + GRACE {
            return Some(format!("took {:?}", ran.did.took));
        }
        match in_time {
            Expected::Unchanged(text) if !ran.said.contains(text) => {
                Some(format!("said {:?}, and not {text:?}", ran.said))
            }
            Expected::Unchanged(_) if ran.said.lines().count() != 1 => {
                Some(format!("said more than a line: {:?}", ran.said))
            }
            Expected::Updated => match victim.cache() {
                Ok(cache) if knows_driver(&cache) => None,
                Ok(_) => Some("the cache does not have the driver".to_owned()),
                Err(error) => Some(format!("{error:#}")),
            },
            _ => None,
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, situation, engine, .. } = self;
        write!(f, "{name} [{situation}, {engine:?}]")
    }
}

/// Is the cache one of glibc's, and leads to the driver?
fn knows_driver(cache: &[u8]) -> bool {
    let path = format!("{DRIVER}/libcuda.so.1\0");
    cache.starts_with(b"glibc-ld.so.cache1.1")
        && cache.windows(path.len()).any(|window| window == path.as_bytes())
}

fn is_library(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().windows(4).any(|part| part == b".so."))
}

fn is_update(path: &Path) -> bool {
    path.file_name().is_some_and(|name| UPDATED.iter().any(|known| name == *known))
}

/// Is the case another one in this situation than it is for the host's root?
fn makes_sense(place: Place, object: Object, situation: Situation, engine: Engine) -> bool {
    let matter = [Object::Absent, Object::VolumeLink, Object::ProcRootLink, Object::Fifo];
    if engine == Engine::Ldconfig {
        return match situation {
            Situation::Host => {
                let read = [Place::Lib, Place::VarCache, Place::AuxCache];
                place.is_written() || read.contains(&place)
            }
            Situation::NoNetwork | Situation::NoNamespaces => {
                place.is_written() && matter.contains(&object)
            }
            // It has the same jail there.
            _ => false,
        };
    }
    let covered = [Place::Proc, Place::Lib, Place::VarCache];
    match situation {
        Situation::Host => true,
        // A change of a lower file copies it up, and the parts of an overlay have their own inode numbers.
        Situation::Overlay => place.is_written() && !object.dangles() && object != Object::Procfs,
        Situation::UserNamespace => place.is_written() || covered.contains(&place),
        // Our own engines need none of those namespaces.
        Situation::NoNetwork | Situation::NoNamespaces => false,
        Situation::Unmapped => place == Place::Etc && object == Object::Directory,
        Situation::NoMountNamespace | Situation::NoAdmin => {
            [Place::Etc, Place::Cache].contains(&place) && matter[..2].contains(&object)
        }
    }
}
