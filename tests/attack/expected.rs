//! How a case has to end.

use std::fmt;

use super::object::Object;
use super::place::Place;
use super::situation::Situation;

/// What makes the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Native,
    /// From the image's cache.
    Incremental,
    /// The host's.
    Ldconfig,
}

impl Engine {
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::Incremental, Self::Ldconfig];

    /// The hook's argument.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Native => "--engine=native",
            Self::Incremental => "--engine=incremental",
            Self::Ldconfig => "--engine=ldconfig",
        }
    }
}

/// An outcome, as an administrator would tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The container's cache is written anew and has the driver.
    Updated,
    /// The hook fails with a reason that has this text, and the container's root is as it was.
    Unchanged(&'static str),
    /// One of the first two, as the machine's speed has it; the reason is the time.
    InTime,
    /// The hook succeeds, and the container's root is as it was.
    NothingToDo,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Updated => "Updated",
            Self::Unchanged(_) => "Unchanged",
            Self::InTime => "InTime",
            Self::NothingToDo => "NothingToDo",
        })
    }
}

/// How the attack upon a place has to end.
pub(crate) fn expected(
    place: Place,
    object: Object,
    situation: Situation,
    engine: Engine,
) -> Expected {
    match situation {
        Situation::Unmapped | Situation::NoMountNamespace | Situation::NoAdmin => {
            Expected::Unchanged("unshare mount namespace")
        }
        _ if object == Object::Done => Expected::NothingToDo,
        // What is covered or, for ldconfig, protected is /etc then, and can't be written.
        _ if object == Object::EtcLink && is_closed(place, engine) => Expected::Unchanged("/etc"),
        _ if harmless(place, object, engine) => Expected::Updated,
        // The reason names the path.
        _ => Expected::Unchanged(place.path()),
    }
}

/// May nothing be written there in the jail?
fn is_closed(place: Place, engine: Engine) -> bool {
    match place {
        Place::VarCache => engine == Engine::Ldconfig,
        _ => place.is_covered() && place != Place::Run,
    }
}

/// Can the update be done with that object in place, or in its stead?
fn harmless(place: Place, object: Object, engine: Engine) -> bool {
    use Object::*;
    match place {
        // Written into, so they must be directories of the root filesystem.
        Place::Etc | Place::ConfDir => matches!(object, Absent | Directory | Forbidden),
        // Read, or passed over as ldconfig does; but it would wait for a FIFO, and read what never ends.
        Place::Conf | Place::Include => !matches!(object, Fifo | Sparse),
        // Replaced by rename(2), which follows no link and opens nothing.
        Place::Cache => !object.is_mount() && !matches!(object, Directory | Immutable),
        // A file that an ldconfig left, and nothing else.
        Place::Temporary if engine == Engine::Ldconfig => {
            matches!(object, Absent | Sparse | Forbidden)
        }
        Place::FirstDropIn | Place::LastDropIn => matches!(object, Absent | Forbidden),
        // Nothing there has a part in the update.
        _ => true,
    }
}
