//! Frames as the Go implementation reads them.
//!
//! Two of its properties are easily violated, and then it closes the connection:
//!
//! * its mux queues up to 256 frames per logical connection and closes when one more comes
//!   (containerd/nri `pkg/net/multiplex/mux.go`);
//! * a read of a logical connection returns exactly one frame, and fails with ENOMEM if the buffer
//!   is too small for it. ttrpc reads through a `bufio.Reader` of 4096 bytes, which reads into its
//!   own buffer when that is empty, and directly into the caller's if 4096 bytes or more are wanted
//!   (containerd/ttrpc `channel.go`, Go `bufio`).

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use super::{PLUGIN, RUNTIME};

/// How many unread frames a logical connection may have.
const QUEUE: usize = 256;

/// The size of ttrpc's buffer in front of a logical connection.
const BUFFER: usize = 4096;

const MESSAGE_HEADER: usize = 10;

/// A frame that the plugin sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The logical connection.
    pub id: u32,
    /// The length of the payload in bytes.
    pub len: usize,
}

/// The connection below the protocol.
#[derive(Debug)]
pub struct Trunk {
    out: OwnedWriteHalf,
    control: Arc<Control>,
}

/// What the reading task and the rest share.
#[derive(Debug)]
struct Control {
    /// The same socket once more, to close it under everybody's feet.
    socket: StdUnixStream,
    /// Why the connection is closed.
    closed: watch::Sender<Option<String>>,
    frames: Mutex<Vec<Frame>>,
}

impl Control {
    /// The first reason counts.
    fn close(&self, why: &str) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                *closed = Some(why.to_owned());
            }
            first
        });
        // Fails if the other end was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn reason(&self) -> io::Error {
        let why = self.closed.borrow().clone();
        io::Error::other(why.unwrap_or_else(|| "not read anymore".to_owned()))
    }
}

impl Trunk {
    /// A trunk, and the readers of the plugin's and of the runtime's connection.
    pub(crate) fn new(stream: UnixStream) -> io::Result<(Self, StrictReader, StrictReader)> {
        let std = stream.into_std()?;
        let control = Arc::new(Control {
            socket: std.try_clone()?,
            closed: watch::Sender::new(None),
            frames: Mutex::default(),
        });
        let (trunk, out) = UnixStream::from_std(std)?.into_split();
        let (plugin_frames, plugin) = mpsc::channel(QUEUE);
        let (runtime_frames, runtime) = mpsc::channel(QUEUE);
        tokio::spawn(read(trunk, Arc::clone(&control), plugin_frames, runtime_frames));
        let plugin = StrictReader::new(plugin, Arc::clone(&control));
        let runtime = StrictReader::new(runtime, Arc::clone(&control));
        Ok((Self { out, control }, plugin, runtime))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn send_frame(&mut self, id: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&frame_header(id, payload.len())).await?;
        self.send(payload).await
    }

    /// Sends a ttrpc message as Go does: up to 4096 bytes in a frame, and the rest in another,
    /// however large (up to NRI 0.6.1, that is; later versions send no more than 4 MiB).
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn send_message(
        &mut self,
        id: u32,
        stream: u32,
        kind: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        let message = message(stream, kind, payload);
        let (first, rest) = message.split_at(message.len().min(BUFFER));
        self.send_frame(id, first).await?;
        if rest.is_empty() { Ok(()) } else { self.send_frame(id, rest).await }
    }

    /// The frames that the plugin has sent so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.control.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the connection.
    pub fn close(&self, why: &str) {
        self.control.close(why);
    }

    /// Waits until the connection is closed, by whomever.
    pub async fn closed(&self) {
        // Cannot fail: `control` holds the sender.
        let _ = self.control.closed.subscribe().wait_for(Option::is_some).await;
    }
}

/// A runtime that is dropped is a process that ended: its sockets are closed.
impl Drop for Trunk {
    fn drop(&mut self) {
        self.close("runtime is gone");
    }
}

/// The header of a frame.
fn frame_header(id: u32, len: usize) -> [u8; 8] {
    let [i0, i1, i2, i3] = id.to_be_bytes();
    let [l0, l1, l2, l3] = (len as u32).to_be_bytes();
    [i0, i1, i2, i3, l0, l1, l2, l3]
}

/// A ttrpc message with its header.
fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE_HEADER + payload.len());
    message.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    message.extend_from_slice(&stream.to_be_bytes());
    message.extend_from_slice(&[kind, 0]);
    message.extend_from_slice(payload);
    message
}

/// Queues the frames that come in, until one does not fit.
async fn read(
    mut trunk: OwnedReadHalf,
    control: Arc<Control>,
    plugin: mpsc::Sender<Vec<u8>>,
    runtime: mpsc::Sender<Vec<u8>>,
) {
    loop {
        let (id, payload) = match read_frame(&mut trunk).await {
            Ok(frame) => frame,
            Err(_) => return control.close("plugin is gone"),
        };
        let frame = Frame { id, len: payload.len() };
        control.frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        let queue = match id {
            PLUGIN => &plugin,
            RUNTIME => &runtime,
            _ => continue,
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(payload) {
            return control.close("frame queue overflow");
        }
    }
}

async fn read_frame(trunk: &mut OwnedReadHalf) -> io::Result<(u32, Vec<u8>)> {
    let id = trunk.read_u32().await?;
    let mut payload = vec![0; trunk.read_u32().await? as usize];
    trunk.read_exact(&mut payload).await?;
    Ok((id, payload))
}

/// Reads one logical connection as Go's ttrpc does.
#[derive(Debug)]
pub(crate) struct StrictReader {
    frames: mpsc::Receiver<Vec<u8>>,
    control: Arc<Control>,
    buffer: Vec<u8>,
}

impl StrictReader {
    fn new(frames: mpsc::Receiver<Vec<u8>>, control: Arc<Control>) -> Self {
        Self { frames, control, buffer: Vec::new() }
    }

    /// Reads a message: stream id, type, payload.
    ///
    /// # Errors
    ///
    /// The connection is closed, maybe because a frame did not fit just now.
    pub(crate) async fn message(&mut self) -> io::Result<(u32, u8, Vec<u8>)> {
        let header = self.exactly(MESSAGE_HEADER).await?;
        let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let payload = self.exactly(len as usize).await?;
        Ok((stream, header[8], payload))
    }

    /// `io.ReadFull` on a `bufio.Reader`.
    async fn exactly(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        while read.len() < wanted {
            let missing = wanted - read.len();
            if !self.buffer.is_empty() {
                read.extend(self.buffer.drain(..missing.min(self.buffer.len())));
            } else if missing >= BUFFER {
                read.extend(self.frame(missing).await?);
            } else {
                self.buffer = self.frame(BUFFER).await?;
            }
        }
        Ok(read)
    }

    /// `Read` of a logical connection: one frame, which must fit.
    async fn frame(&mut self, capacity: usize) -> io::Result<Vec<u8>> {
        let frame = self.frames.recv().await.ok_or_else(|| self.control.reason())?;
        if frame.len() > capacity {
            let why = format!("ENOMEM: frame of {} bytes, buffer of {capacity}", frame.len());
            self.control.close(&why);
            return Err(self.control.reason());
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The strict reader, and a peer that writes what the test likes.
    fn pair() -> (Trunk, StrictReader, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (trunk, plugin, _) = Trunk::new(ours).unwrap();
        (trunk, plugin, theirs)
    }

    async fn write_frames(peer: &mut UnixStream, frames: &[&[u8]]) {
        for frame in frames {
            // Fails when the reader has closed, which is what some tests are about.
            let _ = peer.write_all(&frame_header(PLUGIN, frame.len())).await;
            let _ = peer.write_all(frame).await;
        }
    }

    async fn reads(patterns: &[&[u8]], payload: &[u8]) {
        let (_trunk, mut reader, mut peer) = pair();
        write_frames(&mut peer, patterns).await;
        assert_eq!(reader.message().await.unwrap(), (1, 2, payload.to_vec()));
    }

    async fn refuses(frames: &[&[u8]], why: &str) {
        let (trunk, mut reader, mut peer) = pair();
        write_frames(&mut peer, frames).await;
        let error = reader.message().await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        trunk.closed().await;
        // The peer sees that, too.
        assert_eq!(peer.read(&mut [0]).await.unwrap_or(0), 0);
    }

    // The table of what the real Go implementation accepts (tested with NRI 0.3.0 to 0.12.2).

    #[tokio::test]
    async fn one_frame_of_up_to_4096_bytes_is_read() {
        for len in [0, 1, 4000, 4085, 4086] {
            let payload = vec![7; len];
            reads(&[&message(1, 2, &payload)], &payload).await;
        }
    }

    #[tokio::test]
    async fn one_frame_of_5000_bytes_is_refused() {
        refuses(&[&message(1, 2, &[7; 5000])], "ENOMEM").await;
        refuses(&[&message(1, 2, &[7; 4087])], "ENOMEM").await;
    }

    #[tokio::test]
    async fn header_and_payload_may_be_two_frames() {
        let payload = vec![7; 100_000];
        let whole = message(1, 2, &payload);
        reads(&[&whole[..10], &whole[10..]], &payload).await;
        reads(&[&whole[..4096], &whole[4096..]], &payload).await;
        reads(&[&[], &whole[..4096], &[], &whole[4096..]], &payload).await;
    }

    #[tokio::test]
    async fn a_large_frame_must_not_go_on_with_the_next_message() {
        let (first, second) = (message(1, 2, &[7; 9000]), message(3, 2, &[8; 100]));
        let rest = [&first[4096..], &second].concat();
        refuses(&[&first[..4096], &rest], "ENOMEM").await;
    }

    #[tokio::test]
    async fn a_small_frame_may_go_on_with_the_next_message() {
        let both = [message(1, 2, &[7; 10]), message(3, 2, &[8; 20])].concat();
        let (_trunk, mut reader, mut peer) = pair();
        write_frames(&mut peer, &[&both]).await;
        assert_eq!(reader.message().await.unwrap(), (1, 2, vec![7; 10]));
        assert_eq!(reader.message().await.unwrap(), (3, 2, vec![8; 20]));
    }

    #[tokio::test]
    async fn the_256th_unread_frame_is_queued_and_the_257th_closes() {
        for (count, overflows) in [(256, false), (257, true)] {
            let (trunk, reader, mut peer) = pair();
            write_frames(&mut peer, &vec![&b"x"[..]; count]).await;
            // A frame that is read after all the others tells that they are queued.
            let _ = peer.write_all(&frame_header(99, 0)).await;
            while trunk.frames().len() < count + usize::from(!overflows) {
                tokio::task::yield_now().await;
            }
            let closed = trunk.control.closed.borrow().clone();
            assert_eq!(closed.is_some(), overflows, "{closed:?}");
            drop(reader);
        }
    }
}
