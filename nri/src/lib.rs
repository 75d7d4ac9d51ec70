//! Plugins for the Node Resource Interface (NRI) of containerd and CRI-O.
//!
//! A plugin is told about every container of a node *before* it is created, and can change it: add
//! OCI hooks, mounts, devices, environment variables. This crate is the plugin's side of the
//! protocol. Implement [`Plugin`], connect a [`Session`], run it:
//!
//! ```
//! use std::sync::Arc;
//!
//! use nri::api::{Container, ContainerAdjustment, KeyValue, PodSandbox};
//! use nri::{HandlerError, Identity, Plugin, Session};
//!
//! struct Greeter;
//!
//! impl Plugin for Greeter {
//!     async fn create_container(
//!         &self,
//!         pod: PodSandbox,
//!         _container: Container,
//!     ) -> Result<Option<ContainerAdjustment>, HandlerError> {
//!         let value = format!("hello {}", pod.name);
//!         let greeting = KeyValue { key: "GREETING".into(), value, ..Default::default() };
//!         Ok(Some(ContainerAdjustment { env: vec![greeting], ..Default::default() }))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "fake")]
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("nri.sock");
//! # let socket = nri::fake::FakeSocket::bind(&path)?;
//! // In earnest: "/var/run/nri/nri.sock", and a future that completes on SIGTERM.
//! let session = Session::connect(&path).await?;
//! let identity = Identity::new("10", "greeter")?;
//! let run = session.run(identity, Arc::new(Greeter), std::future::pending());
//!
//! // The other end, for tests: the feature `fake`.
//! let mut runtime = socket.accept().await?;
//! let test = async {
//!     runtime.handshake(&[], &[], 1).await?;
//!     let pod = PodSandbox { name: "world".into(), ..Default::default() };
//!     let answer = runtime.create_container(pod, Container::default()).await?;
//!     assert_eq!(answer.adjust.env[0].value, "hello world");
//!     Ok::<_, nri::fake::Failure>(())
//! };
//! tokio::select! {
//!     closed = run => panic!("{closed:?}"),
//!     tested = test => tested?,
//! }
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok(())
//! # }
//! ```
//!
//! # The protocol on one page
//!
//! **Frames.** One Unix stream socket carries two logical connections. A frame is the connection's
//! id and the length of the payload, both `u32` and big-endian, and the payload. Where frames are
//! cut is part of the protocol, although it looks as if it were not: the Go implementation closes
//! the connection if the first frame of a message has more than 4096 bytes, if a large frame goes
//! on with the next message, or if more than 256 frames wait to be read.
//!
//! **Services.** On each connection one side calls the other with [ttrpc], which is gRPC without
//! HTTP. On connection 1 the runtime calls the plugin (`Plugin` in `proto/nri.proto`: `Configure`,
//! `Synchronize`, `CreateContainer`, …). On connection 2 the plugin calls the runtime (`Runtime`:
//! `RegisterPlugin`).
//!
//! **Handshake.**
//!
//! ```text
//! plugin                                    runtime
//! connects, answers connection 1 from now on
//! 2: RegisterPlugin{name, index}   ───────▶ one plugin at a time: this may take minutes
//!                                  ◀─────── 2: ok          ┐ in any order
//!                                  ◀─────── 1: Configure   ┘
//! 1: the events it wants           ───────▶ waits for locks: this may take minutes, too
//!                                  ◀─────── 1: Synchronize{pods, containers, more}, once or more
//! 1: more, as asked                ───────▶ the plugin is in service
//!                                  ◀─────── 1: CreateContainer, …
//! ```
//!
//! A registration that is refused leaves the connection open; the plugin has to close it.
//! Afterwards, there is no goodbye: whoever closes the socket ends the session, and a request that
//! is open at that moment is answered by nobody. So a session that is shut down answers first.
//!
//! **Deadlines.** The runtime waits for each answer, two seconds by default. What it does then is
//! the most important fact about NRI:
//!
//! | the plugin answers `CreateContainer` | the container | the plugin |
//! |---|---|---|
//! | with an adjustment, or with none | is created with it, or as it was | stays |
//! | with an error | is not created; the kubelet tries again | stays |
//! | not in time, or not at all | is created *without* the plugin | is disconnected |
//!
//! So a handler here gets half of that time, and its session answers in its place if it takes
//! longer or panics ([`Plugin`] has the details).
//!
//! # Compatibility
//!
//! All versions of NRI from 0.2.0 on, that is containerd 1.7, 2.x and CRI-O 1.26 and newer: fields
//! have never been renumbered, what an older runtime does not tell has a default ([`Runtime`]), and
//! its way of telling lifecycle events (`StateChange`) and of telling everything in one huge
//! message (`Synchronize`) are understood.
//!
//! [ttrpc]: https://github.com/containerd/ttrpc

pub mod api;

mod identity;

mod events;

mod plugin;

mod launch;

mod session;

mod in_flight;

// What a session is made of: the calls, and the connections below them.
mod mux;
mod service;

mod error;

#[cfg(feature = "fake")]
pub mod fake;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use error::Error;
pub use events::{Event, Events};
pub use identity::Identity;
pub use in_flight::InFlight;
pub use launch::Launch;
pub use plugin::{HandlerError, Plugin, Runtime};
pub use session::{Closed, Session};
