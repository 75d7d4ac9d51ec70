//! What a runtime gives to a plugin that it launches itself.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use crate::{Error, Identity, Session};

/// A plugin that was launched by the runtime, from `/opt/nri/plugins`.
///
/// The runtime gives it three environment variables and nothing else: no arguments, no `PATH`, and
/// `/dev/null` for stdin, stdout and stderr. It kills the plugin when the session ends, and never
/// launches it again.
#[derive(Debug)]
pub struct Launch {
    identity: Identity,
    socket: RawFd,
}

impl Launch {
    /// Reads `NRI_PLUGIN_SOCKET`, `NRI_PLUGIN_IDX` and `NRI_PLUGIN_NAME` with `lookup`; `None` if
    /// the first is not set, because then the plugin was not launched.
    ///
    /// ```
    /// let launch = nri::Launch::from_env(|name| std::env::var(name).ok())?;
    /// assert!(launch.is_none());
    /// # Ok::<(), nri::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] if the socket is not the number of a descriptor, [`Error::Identity`]
    /// if index or name are missing or not acceptable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let Some(socket) = lookup("NRI_PLUGIN_SOCKET") else {
            return Ok(None);
        };
        let socket = socket
            .parse()
            .ok()
            .filter(|fd: &RawFd| *fd > 2)
            .ok_or_else(|| Error::Environment(format!("NRI_PLUGIN_SOCKET is {socket:?}")))?;
        let index = lookup("NRI_PLUGIN_IDX").unwrap_or_default();
        let name = lookup("NRI_PLUGIN_NAME").unwrap_or_default();
        // Before NRI 0.4 the name was the whole file name, with the index.
        let bare = name.strip_prefix(&format!("{index}-")).unwrap_or(&name);
        Ok(Some(Self { identity: Identity::new(&index, bare)?, socket }))
    }

    /// Who the runtime says we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes over the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] or [`Error::Io`] if the descriptor is not open, or not a connected
    /// Unix stream socket.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub fn connect(self) -> Result<Session, Error> {
        // What this number stands for is looked up before it is taken for what it should be.
        let what = fs::read_link(format!("/proc/self/fd/{}", self.socket))?;
        if !what.as_os_str().as_bytes().starts_with(b"socket:") {
            return Err(Error::Environment(format!("NRI_PLUGIN_SOCKET is {}", what.display())));
        }
        // SAFETY: the descriptor is open, as just seen. It is ours alone: the runtime opened it for
        // this process before it existed and says so in the environment, nothing else in the
        // process learns its number, and `self`, which stands for it, is used up here.
        #[expect(unsafe_code, reason = "a descriptor that is inherited arrives as a number")]
        let socket = unsafe { OwnedFd::from_raw_fd(self.socket) };
        Session::inherit(socket)
    }
}
