//! What is private otherwise, for fuzzing: the runtime's bytes, in pieces of any size, and what
//! becomes of them. No interface that anybody may rely on.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, sink};

use crate::InFlight;
use crate::mux::{End, Ends, Existing, Filter, Mux};

/// What a filter made of the plugin's connection.
#[derive(Debug, Default, PartialEq)]
pub struct Filtered {
    /// What ttrpc is given.
    pub out: Vec<u8>,
    /// The pods and containers that were taken out.
    pub existing: Vec<String>,
    /// How many requests came in.
    pub requests: usize,
    /// The most bytes that were held between two pieces, beside `out`.
    pub held: usize,
    /// Why it stopped.
    pub violation: Option<&'static str>,
}

/// Filters the bytes of the plugin's connection.
pub fn filter<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Filtered {
    let requests = InFlight::default();
    let (mut filtered, mut existing) = (Filtered::default(), Vec::new());
    let mut filter = Filter::new(|item| existing.push(name(item)), requests.clone());
    for piece in pieces {
        if let Err(violation) = filter.feed(piece, &mut filtered.out) {
            filtered.violation = Some(violation.0);
            break;
        }
        filtered.held = filtered.held.max(filter.held());
    }
    drop(filter);
    Filtered { existing, requests: requests.count(), ..filtered }
}

fn name(item: Existing) -> String {
    match item {
        Existing::Pod(pod) => format!("pod {}", pod.id),
        Existing::Container(container) => format!("container {}", container.id),
        Existing::TooLarge(len) => format!("{len} bytes"),
    }
}

/// What a mux made of a trunk.
#[derive(Debug, PartialEq)]
pub struct Carried {
    /// What the ttrpc server is given.
    pub plugin: Vec<u8>,
    /// What the ttrpc client is given.
    pub runtime: Vec<u8>,
    /// The pods and containers that were taken out.
    pub existing: Vec<String>,
    /// How it ended.
    pub end: String,
}

/// Carries the bytes of a trunk to its end.
pub fn carry<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Carried {
    let (mux, Ends { plugin: mut server, runtime: mut client }) = Mux::new(InFlight::default());
    let trunk = Pieces(pieces.into_iter().filter(|piece| !piece.is_empty()).collect(), 0);
    let (mut plugin, mut runtime, mut existing) = (Vec::new(), Vec::new(), Vec::new());
    let end = block_on(async {
        let carry = mux.carry(trunk, sink(), |item| existing.push(name(item)));
        let (end, _, _) =
            tokio::join!(carry, server.read_to_end(&mut plugin), client.read_to_end(&mut runtime));
        end
    });
    Carried { plugin, runtime, existing, end: told(&end) }
}

/// What a mux writes to its trunk when ttrpc writes these pieces, each for the plugin's connection or the runtime's.
pub fn write<'a>(pieces: impl IntoIterator<Item = (bool, &'a [u8])>) -> (Vec<u8>, String) {
    let (mux, Ends { plugin: mut server, runtime: mut client }) = Mux::new(InFlight::default());
    let mut trunk = Vec::new();
    let end = block_on(async {
        let carry = mux.carry(Silent, &mut trunk, |_| ());
        let write = async {
            for (plugin, piece) in pieces {
                let end = if plugin { &mut server } else { &mut client };
                // Fails when the mux has ended.
                let _ = end.write_all(piece).await;
            }
            drop((server, client));
        };
        tokio::join!(carry, write).0
    });
    (trunk, told(&end))
}

fn told(end: &End) -> String {
    match end {
        End::Closed => "closed".to_owned(),
        End::Violated(violation) => violation.to_string(),
        End::Failed(error) => panic!("memory does not fail: {error}"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime without I/O").block_on(future)
}

/// A trunk whose reads end where the pieces do.
struct Pieces<'a>(Vec<&'a [u8]>, usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let at = self.1;
        if let Some(piece) = self.0.get_mut(at) {
            let (taken, rest) = piece.split_at(piece.len().min(buffer.remaining()));
            buffer.put_slice(taken);
            *piece = rest;
            self.1 += usize::from(rest.is_empty());
        }
        Poll::Ready(Ok(()))
    }
}

/// A trunk on which nothing comes in.
struct Silent;

impl AsyncRead for Silent {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}
