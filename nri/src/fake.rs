//! The other end of the socket: a runtime for the tests of a plugin.
//!
//! [`FakeRuntime`] speaks the protocol as containerd and CRI-O do, through a reader that is as
//! strict as theirs (a frame at the wrong place closes the connection), but does only what it is
//! told: a test can leave steps out, swap them, or send bytes that make no sense.

mod calls;
mod handshake;
pub(crate) mod trunk;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

pub use self::calls::Failure;
pub use self::handshake::Registration;
use self::trunk::StrictReader;
pub use self::trunk::{Frame, Trunk};

/// The connection on which the runtime calls the plugin.
pub const PLUGIN: u32 = 1;

/// The connection on which the plugin calls the runtime.
pub const RUNTIME: u32 = 2;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// How long anything but a request may take before a test is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket on which plugins are accepted.
#[derive(Debug)]
pub struct FakeSocket(UnixListener);

impl FakeSocket {
    /// Listens at `path`; a socket that is there already is replaced, as a runtime does.
    ///
    /// # Errors
    ///
    /// What unlink(2) or bind(2) says.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(path).map(Self),
        }
    }

    /// Waits for the next plugin.
    ///
    /// # Errors
    ///
    /// What accept(2) says.
    pub async fn accept(&self) -> io::Result<FakeRuntime> {
        FakeRuntime::new(self.0.accept().await?.0)
    }
}

/// A runtime with one plugin.
#[derive(Debug)]
pub struct FakeRuntime {
    /// Told in `Configure`; `containerd` at first.
    pub name: String,
    /// Told in `Configure`; `v2.3.4` at first.
    pub version: String,
    /// Told in `Configure`, unless `None`, as before NRI 0.12.
    pub nri_version: Option<String>,
    /// Told in `Configure`: 5 s at first; zero, as before NRI 0.7, is not told.
    pub registration_timeout: Duration,
    /// Told in `Configure` and in each request, and kept: 2 s at first; zero is not told, and 2 s
    /// are kept.
    pub request_timeout: Duration,
    /// Told in `Configure`, empty at first.
    pub config: String,
    trunk: Trunk,
    plugin: StrictReader,
    runtime: StrictReader,
    next_stream: u32,
    answers: HashMap<u32, Vec<u8>>,
}

impl FakeRuntime {
    /// Takes one end of a connection.
    ///
    /// # Errors
    ///
    /// The socket cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let (trunk, plugin, runtime) = Trunk::new(stream)?;
        Ok(Self {
            name: "containerd".to_owned(),
            version: "v2.3.4".to_owned(),
            nri_version: Some("v0.12.0".to_owned()),
            registration_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            config: String::new(),
            trunk,
            plugin,
            runtime,
            next_stream: 1,
            answers: HashMap::new(),
        })
    }

    /// A runtime, and the socket to launch its plugin with (see [`crate::Session::inherit`]).
    ///
    /// # Errors
    ///
    /// What socketpair(2) says.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub fn pair() -> io::Result<(Self, StdUnixStream)> {
        let (ours, plugins) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self::new(UnixStream::from_std(ours)?)?, plugins))
    }

    /// The wire itself: to send whatever comes to mind, and to look at what the plugin sent.
    pub fn trunk(&mut self) -> &mut Trunk {
        &mut self.trunk
    }

    /// Waits until the plugin has closed the connection.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn closed(&mut self) -> Result<(), Failure> {
        patiently(self.trunk.closed()).await
    }
}

async fn patiently<T>(wait: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(PATIENCE, wait).await.map_err(|_elapsed| Failure::TimedOut)
}
