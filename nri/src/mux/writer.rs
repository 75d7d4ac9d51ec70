//! From the connections to the trunk: where frames are cut.
//!
//! The Go side reads each connection through a `bufio.Reader` of 4096 bytes, and a read of its mux
//! returns exactly one frame, or fails if that is larger than the buffer at hand, which closes
//! everything (`conn.Read` in containerd/nri `pkg/net/multiplex/mux.go`, `newChannel` in
//! containerd/ttrpc `channel.go`). The buffer is those 4096 bytes when a message's header is
//! wanted, and may be the rest of the message once its header was read. So a message of N bytes
//! goes out as a frame of at most 4096 and one with all the rest, and no frame ever has bytes of
//! two messages. Many small frames are no way out: more than 256 that wait to be read close the
//! connection, too.
//!
//! The ttrpc crate happens to write in this pattern. The frames are cut by the ttrpc headers
//! nevertheless, and not by how those writes arrive, so that it need not.

use std::convert::Infallible;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::select;

use super::{End, FRAME_HEADER, MESSAGE_HEADER, PIPE, PLUGIN, RUNTIME, Violation};
use crate::InFlight;

/// What a Go reader accepts while it waits for the header of a message.
const FIRST_FRAME: usize = 4096;

/// The largest write that Go's own mux puts into one frame, from NRI 0.7 on.
const MAX_FRAME: usize = (4 << 20) + MESSAGE_HEADER;

/// The type byte of a ttrpc response.
const RESPONSE: u8 = 2;

/// Passes messages on until the trunk or the plugin's side ends.
pub(super) async fn write(
    trunk: impl AsyncWrite + Unpin,
    plugin: impl AsyncRead + Unpin,
    runtime: impl AsyncRead + Unpin,
    in_flight: InFlight,
) -> Result<Infallible, End> {
    let mut plugin = BufReader::with_capacity(PIPE, plugin);
    let mut runtime = BufReader::with_capacity(PIPE, runtime);
    let mut trunk =
        Trunk { out: trunk, frame: Vec::with_capacity(FRAME_HEADER + MESSAGE_HEADER + PIPE) };
    let mut runtime_open = true;
    loop {
        select! {
            more = plugin.fill_buf() => {
                if more?.is_empty() {
                    return Err(Violation("the ttrpc server stopped").into());
                }
                let (stream, kind) = trunk.send(PLUGIN, &mut plugin).await?;
                if kind == RESPONSE {
                    in_flight.answered(stream);
                }
            }
            more = runtime.fill_buf(), if runtime_open => {
                // The client is dropped once the plugin is registered.
                runtime_open = !more?.is_empty();
                if runtime_open {
                    trunk.send(RUNTIME, &mut runtime).await?;
                }
            }
        }
    }
}

struct Trunk<W> {
    out: W,
    /// The bytes of a frame that are written next.
    frame: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Trunk<W> {
    /// Sends one whole message; returns its stream and type.
    async fn send(
        &mut self,
        id: u32,
        from: &mut (impl AsyncBufRead + Unpin),
    ) -> Result<(u32, u8), End> {
        let mut header = [0; MESSAGE_HEADER];
        from.read_exact(&mut header).await?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = header;
        let mut left = MESSAGE_HEADER + u32::from_be_bytes([l0, l1, l2, l3]) as usize;

        let first = left.min(FIRST_FRAME);
        self.begin(id, first);
        self.frame.extend_from_slice(&header);
        self.copy(first - MESSAGE_HEADER, from).await?;
        left -= first;
        while left > 0 {
            let next = left.min(MAX_FRAME);
            self.begin(id, next);
            self.copy(next, from).await?;
            left -= next;
        }
        Ok((u32::from_be_bytes([s0, s1, s2, s3]), kind))
    }

    /// The header of a frame goes out together with what follows it.
    fn begin(&mut self, id: u32, len: usize) {
        self.frame.clear();
        self.frame.extend_from_slice(&id.to_be_bytes());
        self.frame.extend_from_slice(&(len as u32).to_be_bytes());
    }

    /// Adds `left` bytes to the frame and writes all of it.
    async fn copy(
        &mut self,
        mut left: usize,
        from: &mut (impl AsyncBufRead + Unpin),
    ) -> Result<(), End> {
        while left > 0 {
            let chunk = from.fill_buf().await?;
            if chunk.is_empty() {
                return Err(Violation("ttrpc stopped inside a message").into());
            }
            let taken = chunk.len().min(left);
            self.frame.extend_from_slice(&chunk[..taken]);
            from.consume(taken);
            left -= taken;
            self.out.write_all(&self.frame).await?;
            self.frame.clear();
        }
        self.out.write_all(&self.frame).await?;
        self.frame.clear();
        Ok(())
    }
}
