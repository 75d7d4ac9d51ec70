//! A plugin and a strict runtime, over a real socket.
#![expect(clippy::unwrap_used, reason = "what is not as a test needs it fails the test")]

/// What every call is answered with.
mod calls;
/// What goes wrong in a plugin must not end its session.
mod failures;
/// From connect to the first event.
mod handshake;
/// Plugins that the runtime starts itself.
mod launch;
/// How a session ends.
mod shutdown;
/// What exists already.
mod synchronize;
mod world;
