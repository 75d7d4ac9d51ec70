use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use super::*;
use crate::fake::trunk::{Frame, StrictReader, Trunk};

/// A mux between ttrpc, played by the test, and a strict runtime.
struct World {
    ends: Ends,
    in_flight: InFlight,
    trunk: Trunk,
    plugin: StrictReader,
    runtime: StrictReader,
    end: JoinHandle<End>,
}

fn world() -> World {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (trunk, plugin, runtime) = Trunk::new(theirs).unwrap();
    let in_flight = InFlight::default();
    let (mux, ends) = Mux::new(in_flight.clone());
    let (trunk_in, trunk_out) = ours.into_split();
    let end = tokio::spawn(mux.carry(trunk_in, trunk_out, |_| ()));
    World { ends, in_flight, trunk, plugin, runtime, end }
}

async fn ended(end: JoinHandle<End>) -> End {
    timeout(Duration::from_secs(20), end).await.expect("the mux goes on").unwrap()
}

fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    [&len.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// The sizes around each of the limits.
const SIZES: [usize; 10] =
    [0, 1, 4085, 4086, 4087, 5000, 65_536, 1 << 20, (4 << 20) - 1024, 4 << 20];

#[tokio::test]
async fn answers_of_every_size_reach_a_strict_reader() {
    let World { mut ends, trunk, mut plugin, .. } = world();
    for size in SIZES {
        let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let before = trunk.frames().len();
        let sent = message(7, 2, &payload);
        let (_, received) =
            tokio::join!(async { ends.plugin.write_all(&sent).await.unwrap() }, plugin.message());
        assert!(received.unwrap() == (7, 2, payload), "{size}");
        let frames: Vec<usize> = trunk.frames()[before..].iter().map(|frame| frame.len).collect();
        match sent.len() {
            len @ ..=4096 => assert_eq!(frames, [len]),
            len => assert_eq!(frames, [4096, len - 4096]),
        }
    }
}

#[tokio::test]
async fn frames_do_not_depend_on_how_ttrpc_writes() {
    let messages = [message(1, 2, &[1; 5000]), message(3, 2, &[2; 10]), message(5, 2, &[])];
    let stream = messages.concat();
    for size in [1, 2, 7, 8, 9, 10, 11, 4096, 5000, 5010, stream.len()] {
        let World { mut ends, trunk, mut plugin, .. } = world();
        for piece in stream.chunks(size) {
            ends.plugin.write_all(piece).await.unwrap();
        }
        assert_eq!(plugin.message().await.unwrap(), (1, 2, vec![1; 5000]));
        assert_eq!(plugin.message().await.unwrap(), (3, 2, vec![2; 10]));
        assert_eq!(plugin.message().await.unwrap(), (5, 2, vec![]));
        let expected = [4096, 914, 20, 10].map(|len| Frame { id: PLUGIN, len });
        assert_eq!(trunk.frames(), expected, "pieces of {size}");
    }
}

#[tokio::test]
async fn both_connections_are_carried_at_once() {
    let World { mut ends, mut plugin, mut runtime, trunk: _trunk, .. } = world();
    let (mut server, client) = (ends.plugin, &mut ends.runtime);
    for stream in 0..50 {
        let (large, small) = (message(stream, 2, &[1; 20_000]), message(stream, 1, &[2; 3]));
        let (_, _, answer, request) = tokio::join!(
            server.write_all(&large),
            client.write_all(&small),
            plugin.message(),
            runtime.message()
        );
        assert_eq!(answer.unwrap(), (stream, 2, vec![1; 20_000]));
        assert_eq!(request.unwrap(), (stream, 1, vec![2; 3]));
    }
}

#[tokio::test]
async fn frames_are_only_slices_of_a_byte_stream() {
    let messages = [message(1, 3, &[1; 30]), message(3, 3, &[]), message(5, 3, &[2; 5])];
    let stream = messages.concat();
    for size in 1..=stream.len() {
        let World { mut ends, mut trunk, .. } = world();
        for piece in stream.chunks(size) {
            trunk.send_frame(7, b"nobody knows this connection").await.unwrap();
            trunk.send_frame(0, &[]).await.unwrap();
            trunk.send_frame(PLUGIN, &[]).await.unwrap();
            trunk.send_frame(PLUGIN, piece).await.unwrap();
        }
        let mut received = vec![0; stream.len()];
        ends.plugin.read_exact(&mut received).await.unwrap();
        assert_eq!(received, stream, "frames of {size}");
    }
}

#[tokio::test]
async fn reads_may_end_anywhere_in_a_frame() {
    let message = message(1, 3, &[1; 30]);
    let bytes = [frame(PLUGIN, &message[..15]), frame(PLUGIN, &message[15..])].concat();
    for size in 1..=bytes.len() {
        let World { mut ends, mut trunk, .. } = world();
        let mut received = vec![0; message.len()];
        let send = async {
            for piece in bytes.chunks(size) {
                trunk.send(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(send, async { ends.plugin.read_exact(&mut received).await.unwrap() });
        assert_eq!(received, message, "pieces of {size}");
    }
}

#[tokio::test]
async fn a_mux_ends_with_its_trunk() {
    let World { trunk, end, ends: _ends, .. } = world();
    trunk.close("test");
    assert!(matches!(ended(end).await, End::Closed));
}

#[tokio::test]
async fn a_mux_ends_with_the_server() {
    let World { ends, end, trunk: _trunk, .. } = world();
    drop(ends.runtime);
    drop(ends.plugin);
    let end = ended(end).await;
    assert!(matches!(end, End::Violated(Violation(why)) if why.contains("server")), "{end:?}");
}

#[tokio::test]
async fn a_mux_goes_on_without_the_client() {
    let World { mut ends, mut trunk, mut plugin, .. } = world();
    drop(ends.runtime);
    trunk.send_frame(RUNTIME, &[0; 10_000]).await.unwrap();
    ends.plugin.write_all(&message(1, 2, b"still there")).await.unwrap();
    assert_eq!(plugin.message().await.unwrap().2, b"still there");
}

#[tokio::test]
async fn a_frame_that_is_cut_off_is_a_violation() {
    let whole = frame(PLUGIN, &message(1, 3, &[1; 5]));
    for cut in 1..whole.len() {
        let World { mut trunk, end, ends: _ends, .. } = world();
        trunk.send(&whole[..cut]).await.unwrap();
        trunk.close("test");
        let end = ended(end).await;
        assert!(
            matches!(end, End::Violated(Violation(why)) if why.contains("inside a frame")),
            "{cut} bytes: {end:?}"
        );
    }
}

#[tokio::test]
async fn frames_of_up_to_16_mib_are_accepted() {
    for id in [PLUGIN, RUNTIME, 9] {
        let World { mut trunk, end, ends: _ends, .. } = world();
        let header = [id.to_be_bytes(), ((16 << 20) + 1_u32).to_be_bytes()].concat();
        trunk.send(&header).await.unwrap();
        let end = ended(end).await;
        assert!(matches!(end, End::Violated(Violation(why)) if why.contains("16 MiB")));
    }
    let World { mut ends, mut trunk, .. } = world();
    let large = message(1, 3, &vec![7; (16 << 20) - MESSAGE_HEADER]);
    let mut received = vec![0; large.len()];
    tokio::join!(async { trunk.send_frame(PLUGIN, &large).await.unwrap() }, async {
        ends.plugin.read_exact(&mut received).await.unwrap()
    });
    assert!(received == large);
}

#[tokio::test]
async fn a_runtime_that_sends_too_much_has_to_wait() {
    let World { mut ends, mut trunk, .. } = world();
    let mut sent = 0;
    // Nobody reads: at some time the socket's buffers are full.
    let flood = async {
        loop {
            trunk.send_frame(PLUGIN, &message(1, 3, &[7; 1000])).await.unwrap();
            sent += 1;
        }
    };
    let idle = timeout(Duration::from_millis(100), flood).await;
    assert!(idle.is_err());
    assert!(sent < 4000, "{sent} messages were buffered");
    ends.plugin.read_exact(&mut [0; 1010]).await.unwrap();
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_is_written() {
    let World { mut ends, in_flight, mut trunk, mut plugin, .. } = world();
    in_flight.drained().await;
    let request = message(1, 1, b"\x12\x01x");
    for _ in 0..2 {
        trunk.send_frame(PLUGIN, &request).await.unwrap();
        ends.plugin.read_exact(&mut vec![0; request.len()]).await.unwrap();
    }
    assert_eq!(in_flight.count(), 2);
    ends.plugin.write_all(&message(1, 2, &[7; 9000])).await.unwrap();
    plugin.message().await.unwrap();
    assert_eq!(in_flight.count(), 1);
    ends.plugin.write_all(&message(1, 2, &[7; 9000])).await.unwrap();
    in_flight.drained().await;
    plugin.message().await.unwrap();
}
