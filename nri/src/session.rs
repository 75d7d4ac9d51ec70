//! One connection to a runtime, from connect to close.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io, os};

use futures_util::stream::{self, StreamExt as _};
use tokio::io::DuplexStream;
use tokio::net::UnixStream;
use tokio::select;
use tokio::time::{Instant, interval_at, timeout};
use ttrpc::r#async::transport::{Listener, Socket};
use ttrpc::r#async::{Client, Server};

use crate::api::{RegisterPluginRequest, RuntimeClient, create_plugin};
use crate::mux::{End, Ends, Mux};
use crate::service::Service;
use crate::{Error, Identity, InFlight, Plugin};

/// The version of NRI that this crate's messages are from, as Go modules write it. Runtimes only
/// log it.
const NRI_VERSION: &str = "v0.12.0";

/// How long a registration may take. The runtime accepts one plugin at a time and, while it does,
/// waits for locks that every container operation holds; giving up early only puts us back at the
/// end of the queue (<https://github.com/containerd/nri/pull/292>).
const REGISTRATION: Duration = Duration::from_secs(5 * 60);

/// How often a log line tells that the registration is not answered yet.
const STILL_WAITING: Duration = Duration::from_secs(30);

/// A connection to a runtime.
#[derive(Debug)]
pub struct Session {
    trunk: UnixStream,
    registration: Duration,
    in_flight: InFlight,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// The runtime closed the connection: it stops, restarts, or does not want the plugin anymore.
    ByRuntime,
    /// The `shutdown` future of [`Session::run`] completed.
    ByShutdown,
    /// The runtime sent something that is not NRI, or stopped in the middle of something.
    ByViolation(String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByRuntime => f.write_str("closed by the runtime"),
            Self::ByShutdown => f.write_str("shut down"),
            Self::ByViolation(how) => write!(f, "protocol violated: {how}"),
        }
    }
}

impl Session {
    /// Connects to the socket of a runtime, usually `/var/run/nri/nri.sock`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`]. `ENOENT` and `ECONNREFUSED` mean that no runtime listens there *yet*.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let trunk = UnixStream::connect(path)
            .await
            .map_err(|source| Error::Connect { path: path.to_owned(), source })?;
        Ok(Self::new(trunk))
    }

    /// Takes over a socket that is connected already, as a launched plugin inherits one.
    ///
    /// The descriptor is made non-blocking, and closed in whatever this process executes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if this is not a connected Unix stream socket.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with I/O.
    pub fn inherit(socket: impl Into<OwnedFd>) -> Result<Self, Error> {
        // A duplicate is close-on-exec (F_DUPFD_CLOEXEC), which an inherited descriptor is not.
        let socket = socket.into().try_clone()?;
        let trunk = os::unix::net::UnixStream::from(socket);
        trunk.peer_addr()?;
        trunk.set_nonblocking(true)?;
        Ok(Self::new(UnixStream::from_std(trunk)?))
    }

    fn new(trunk: UnixStream) -> Self {
        Self { trunk, registration: REGISTRATION, in_flight: InFlight::default() }
    }

    /// How long the runtime may take to answer the registration; 5 minutes if not set.
    #[must_use]
    pub fn registration_timeout(mut self, limit: Duration) -> Self {
        self.registration = limit;
        self
    }

    /// The requests that this session has not answered, now and whenever it is asked.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// Registers the plugin and answers the runtime until one of both has enough.
    ///
    /// When `shutdown` completes, requests that have come in are still answered, for at most the
    /// runtime's request timeout: closing in the middle of one would create its container without
    /// the plugin. Dropping the returned future closes the connection at once.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::Unanswered`] if there was no registration, [`Error::Io`] if
    /// the socket failed in another way than being closed.
    pub async fn run<P: Plugin>(
        self,
        identity: Identity,
        plugin: Arc<P>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Closed, Error> {
        let service = Arc::new(Service::new(plugin));
        let _close = CloseOnDrop(&service);
        let in_flight = self.in_flight;
        let (mux, Ends { plugin, runtime }) = Mux::new(in_flight.clone());
        let (trunk_in, trunk_out) = self.trunk.into_split();
        let mut carry = pin!(mux.carry(trunk_in, trunk_out, |existing| service.existing(existing)));

        // Configure may come before the registration is answered.
        let _server = serve(plugin, Arc::clone(&service)).await?;
        let mut register = pin!(register(runtime, &identity, self.registration));
        let mut shutdown = pin!(shutdown);
        select! {
            registered = &mut register => registered?,
            end = &mut carry => {
                // The answer may have come just before the end.
                register.await.or_else(|error| match error {
                    Error::Io(_) => Ok(()),
                    refused => Err(refused),
                })?;
                return end.into();
            }
            () = &mut shutdown => {
                return drain(carry, &in_flight, service.request_timeout()).await;
            }
        }
        select! {
            end = &mut carry => end.into(),
            () = shutdown => drain(carry, &in_flight, service.request_timeout()).await,
        }
    }
}

impl From<End> for Result<Closed, Error> {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Ok(Closed::ByRuntime),
            End::Violated(how) => Ok(Closed::ByViolation(how.to_string())),
            End::Failed(error) => Err(Error::Io(error)),
        }
    }
}

/// However a session ends, be it that its future is dropped, its handlers end with it.
struct CloseOnDrop<'a, P: Plugin>(&'a Service<P>);

impl<P: Plugin> Drop for CloseOnDrop<'_, P> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts to answer what the runtime asks, until the returned server is dropped.
async fn serve<P: Plugin>(
    connection: DuplexStream,
    service: Arc<Service<P>>,
) -> Result<Server, Error> {
    // ttrpc wants a stream of connections. It stays open after the only one: `Server::shutdown` of
    // ttrpc 0.10 would panic without its accept task.
    let connections = stream::iter([io::Result::Ok(connection)]).chain(stream::pending());
    let mut server = Server::new()
        .add_listener(Listener::new(connections))
        .register_service(create_plugin(service));
    server.start().await.map_err(|error| Error::Io(io::Error::other(error)))?;
    Ok(server)
}

/// Tells the runtime who we are. The connection is of no use afterwards.
async fn register(
    connection: DuplexStream,
    identity: &Identity,
    limit: Duration,
) -> Result<(), Error> {
    let runtime = RuntimeClient::new(Client::new(Socket::new(connection)));
    let request = RegisterPluginRequest {
        plugin_name: identity.name().to_owned(),
        plugin_idx: identity.index().to_owned(),
        NRI_version: NRI_VERSION.to_owned(),
        ..Default::default()
    };
    // Our own limit comes first, because only it can be told from other errors.
    let call = ttrpc::context::with_duration(limit.saturating_add(Duration::from_secs(1)));
    let mut answer = pin!(timeout(limit, runtime.register_plugin(call, &request)));
    let mut waiting = interval_at(Instant::now() + STILL_WAITING, STILL_WAITING);
    loop {
        select! {
            answer = &mut answer => return match answer {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(ttrpc::Error::RpcStatus(status))) => {
                    Err(Error::Refused { code: status.code.value(), message: status.message })
                }
                Ok(Err(error)) => Err(Error::Io(io::Error::other(error))),
                Err(_elapsed) => Err(Error::Unanswered(limit)),
            },
            _ = waiting.tick() => {
                tracing::info!(plugin = %identity, "still waiting for the runtime to register us");
            }
        }
    }
}

/// Answers what has come in, then closes.
async fn drain(
    carry: impl Future<Output = End>,
    in_flight: &InFlight,
    limit: Duration,
) -> Result<Closed, Error> {
    select! {
        _ = carry => {}
        _ = timeout(limit, in_flight.drained()) => {}
    }
    Ok(Closed::ByShutdown)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    use super::*;

    #[tokio::test]
    async fn an_inherited_socket_is_not_passed_on_and_does_not_block() {
        let (socket, _peer) = os::unix::net::UnixStream::pair().unwrap();
        // As the runtime leaves it, so that it survives execve(2).
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let number = socket.as_raw_fd();
        let session = Session::inherit(socket).unwrap();
        let flags = fcntl(&session.trunk, FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
        let flags = fcntl(&session.trunk, FcntlArg::F_GETFL).unwrap();
        assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        assert_ne!(session.trunk.as_raw_fd(), number);
    }
}
