//! Why there is no session.

use std::path::PathBuf;
use std::time::Duration;
use std::{error, fmt, io};

/// Why a session could not be started, or failed before its plugin was registered.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A plugin's index or name that no runtime accepts.
    Identity(String),
    /// The environment of a launched plugin makes no sense.
    Environment(String),
    /// Nobody listens. `ENOENT` and `ECONNREFUSED` are normal while the runtime restarts.
    Connect {
        /// The runtime's socket.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The inherited or connected socket cannot be used.
    Io(io::Error),
    /// The runtime does not want this plugin; trying again with the same identity is of no use.
    Refused {
        /// A gRPC status code.
        code: i32,
        /// The runtime's own words.
        message: String,
    },
    /// The runtime did not answer the registration within this time.
    Unanswered(Duration),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(why) => write!(f, "plugin {why}"),
            Self::Environment(why) => write!(f, "environment of a launched plugin: {why}"),
            Self::Connect { path, .. } => write!(f, "connect to {}", path.display()),
            Self::Io(_) => write!(f, "use the runtime's socket"),
            Self::Refused { code, message } => {
                write!(f, "registration refused by the runtime: {message} (status {code})")
            }
            Self::Unanswered(limit) => {
                write!(f, "registration not answered within {} s", limit.as_secs_f32())
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Io(source) => Some(source),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}
