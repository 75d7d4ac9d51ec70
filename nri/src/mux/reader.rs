//! From the trunk to the connections.

use std::convert::Infallible;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::io::{AsyncWriteExt, BufReader};

use super::synchronize::{Existing, Filter};
use super::{End, FRAME_HEADER, PLUGIN, RUNTIME, Violation};

/// No runtime sends more in one frame: NRI up to 0.6.1 refuses to write more than this at once,
/// later versions split at 4 MiB.
const MAX_FRAME: u32 = 16 << 20;

/// How much is read from the trunk, and passed on, at once.
const CHUNK: usize = 8192;

/// Passes frames on until the trunk ends.
pub(super) async fn read<D: FnMut(Existing)>(
    trunk: impl AsyncRead + Unpin,
    plugin: impl AsyncWrite + Unpin,
    runtime: impl AsyncWrite + Unpin,
    filter: Filter<D>,
) -> Result<Infallible, End> {
    let mut trunk = BufReader::with_capacity(CHUNK, trunk);
    let mut receivers = Receivers { plugin, runtime, filter, filtered: Vec::new() };
    loop {
        let (id, mut left) = header(&mut trunk).await?;
        while left > 0 {
            let chunk = trunk.fill_buf().await?;
            if chunk.is_empty() {
                return Err(Violation("the connection ends inside a frame").into());
            }
            let taken = chunk.len().min(left);
            receivers.pass(id, &chunk[..taken]).await?;
            trunk.consume(taken);
            left -= taken;
        }
    }
}

/// Reads the header of the next frame: for which connection it is, and its length.
async fn header(trunk: &mut (impl AsyncBufRead + Unpin)) -> Result<(u32, usize), End> {
    if trunk.fill_buf().await?.is_empty() {
        return Err(End::Closed);
    }
    let mut header = [0; FRAME_HEADER];
    trunk.read_exact(&mut header).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Violation("the connection ends inside a frame").into(),
        _ => End::from(error),
    })?;
    let [i0, i1, i2, i3, l0, l1, l2, l3] = header;
    let len = u32::from_be_bytes([l0, l1, l2, l3]);
    if len > MAX_FRAME {
        return Err(Violation("a frame is longer than 16 MiB").into());
    }
    Ok((u32::from_be_bytes([i0, i1, i2, i3]), len as usize))
}

/// Who reads the connections.
struct Receivers<P, R, D> {
    plugin: P,
    runtime: R,
    filter: Filter<D>,
    /// What the filter made of the last chunk; kept for its capacity.
    filtered: Vec<u8>,
}

impl<P, R, D> Receivers<P, R, D>
where
    P: AsyncWrite + Unpin,
    R: AsyncWrite + Unpin,
    D: FnMut(Existing),
{
    /// Waits until the chunk is accepted: that is the back-pressure towards the runtime.
    async fn pass(&mut self, id: u32, chunk: &[u8]) -> Result<(), End> {
        match id {
            PLUGIN => {
                self.filtered.clear();
                self.filter.feed(chunk, &mut self.filtered)?;
                self.plugin.write_all(&self.filtered).await?;
            }
            RUNTIME => {
                // Fails when the ttrpc client is gone; then nobody waits for this anymore.
                let _ = self.runtime.write_all(chunk).await;
            }
            // Go drops frames for connections it does not know, too.
            _ => {}
        }
        Ok(())
    }
}
