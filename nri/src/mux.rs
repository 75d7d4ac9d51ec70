//! One socket, two conversations.
//!
//! NRI carries two logical connections over one stream ("trunk"): on [`PLUGIN`] the runtime calls
//! us, on [`RUNTIME`] we call the runtime. There is no opening or closing of either; both exist
//! for as long as the trunk does. A frame is
//!
//! | connection id | length of the payload | payload |
//! |---|---|---|
//! | u32, big-endian | u32, big-endian | that many bytes |
//!
//! Towards us, frames are only slices of a byte stream, and are passed on in small pieces, so no
//! frame is ever held in memory ([`reader`]). Towards the runtime, where frames are cut matters a
//! lot ([`writer`]). Nothing here runs by itself: [`Mux::carry`] does everything, in the task that
//! polls it, and everything is gone when it is dropped.

mod fields;
mod reader;
mod synchronize;
mod writer;

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex, split};
use tokio::select;

pub(crate) use self::synchronize::Existing;
#[cfg(feature = "fuzzing")]
pub(crate) use self::synchronize::Filter;
use crate::InFlight;

/// The connection on which the runtime is the client.
const PLUGIN: u32 = 1;

/// The connection on which the plugin is the client.
const RUNTIME: u32 = 2;

/// What a frame's header takes: the connection id and the length.
const FRAME_HEADER: usize = 8;

/// What a ttrpc message's header takes: length (u32), stream id (u32), type (u8), flags (u8).
const MESSAGE_HEADER: usize = 10;

/// How many bytes wait between ttrpc and the trunk, per connection and direction, before the
/// sender has to wait.
const PIPE: usize = 4096;

/// Why the mux ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The runtime closed the trunk, or is gone.
    Closed,
    /// Somebody does not speak the protocol.
    Violated(Violation),
    /// The trunk failed.
    Failed(io::Error),
}

/// How the protocol was violated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Failed(error),
        }
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Violated(violation)
    }
}

/// What ttrpc sees of the mux.
#[derive(Debug)]
pub(crate) struct Ends {
    /// For the ttrpc server.
    pub(crate) plugin: DuplexStream,
    /// For the ttrpc client.
    pub(crate) runtime: DuplexStream,
}

/// Carries the two connections over a trunk.
#[derive(Debug)]
pub(crate) struct Mux {
    plugin: DuplexStream,
    runtime: DuplexStream,
    in_flight: InFlight,
}

impl Mux {
    /// A mux without a trunk, which keeps account of requests in `in_flight`, and what it connects.
    pub(crate) fn new(in_flight: InFlight) -> (Self, Ends) {
        let (plugin, plugin_end) = duplex(PIPE);
        let (runtime, runtime_end) = duplex(PIPE);
        let ends = Ends { plugin: plugin_end, runtime: runtime_end };
        (Self { plugin, runtime, in_flight }, ends)
    }

    /// Carries bytes in both directions until the trunk ends; `existing` is given every pod and
    /// container of a synchronization.
    pub(crate) async fn carry(
        self,
        trunk_in: impl AsyncRead + Unpin,
        trunk_out: impl AsyncWrite + Unpin,
        existing: impl FnMut(Existing),
    ) -> End {
        let (plugin_out, plugin_in) = split(self.plugin);
        let (runtime_out, runtime_in) = split(self.runtime);
        let filter = synchronize::Filter::new(existing, self.in_flight.clone());
        let read = reader::read(trunk_in, plugin_in, runtime_in, filter);
        let write = writer::write(trunk_out, plugin_out, runtime_out, self.in_flight);
        // Neither direction waits for the other: a runtime that does not read its answers can
        // still be read from.
        let Err(end) = select! {
            end = read => end,
            end = write => end,
        };
        end
    }
}

#[cfg(test)]
#[cfg(feature = "fake")]
mod tests;
