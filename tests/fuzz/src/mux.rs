//! The runtime's bytes: however they come in pieces, they mean the same, and little of them is held.

use nri::fuzzing::{Carried, Filtered, carry, filter, write};

const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;
const REQUEST: u8 = 1;

/// The largest pod or container that is decoded, and a header.
const MOST_HELD: usize = (1 << 20) + (16 << 10);

/// Reads an input as a letter that says what it is, a number that says how it is split, and its bytes.
pub fn check(data: &[u8]) {
    let [kind, n0, n1, n2, bytes @ ..] = data else { return };
    let splits = Splits(u32::from_be_bytes([*kind, *n0, *n1, *n2]));
    match kind {
        b'c' => connection(bytes, splits),
        b's' => connection(&synchronize(bytes), splits),
        b'w' => written(bytes, splits),
        _ => trunk(bytes, splits),
    }
}

/// Sizes of pieces, from 1 on.
#[derive(Clone)]
struct Splits(u32);

impl Splits {
    fn next(&mut self) -> usize {
        // xorshift32; it never leaves 0.
        self.0 |= 1;
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        // Mostly small, sometimes larger than every buffer.
        1 + (self.0 >> 16) as usize % [3, 20, 300, 10_000][self.0 as usize % 4]
    }

    fn cut<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.next().min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// Bytes of the trunk, frames and all.
fn trunk(bytes: &[u8], mut splits: Splits) {
    let whole = carry([bytes]);
    same(&whole, &carry(splits.cut(bytes)));
    let (mut plugin, mut runtime, mut rest) = (Vec::new(), Vec::new(), bytes);
    while let Some((id, frame, behind)) = frame(rest) {
        match id {
            PLUGIN => plugin.extend(frame),
            RUNTIME => runtime.extend(frame),
            _ => {}
        }
        rest = behind;
    }
    if whole.end == "closed" {
        assert!(rest.is_empty());
        let filtered = filter([&plugin[..]]);
        assert_eq!((&whole.plugin, &whole.runtime), (&filtered.out, &runtime));
        assert_eq!((&whole.existing, filtered.violation), (&filtered.existing, None));
    }
}

/// The first frame: its id, its bytes, and what follows.
fn frame(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let id = u32::from_be_bytes(header[..4].try_into().ok()?);
    let len = u32::from_be_bytes(header[4..].try_into().ok()?);
    let (frame, rest) = rest.split_at_checked(len as usize)?;
    Some((id, frame, rest))
}

fn same(one: &Carried, other: &Carried) {
    assert_eq!((&one.end, &one.existing), (&other.end, &other.existing));
    if one.end == "closed" {
        assert_eq!((&one.plugin, &one.runtime), (&other.plugin, &other.runtime));
    } else {
        // How much was passed on before the end depends on how it came in.
        let len = one.plugin.len().min(other.plugin.len());
        assert_eq!(one.plugin[..len], other.plugin[..len]);
    }
}

/// Bytes of the plugin's connection, ttrpc messages.
fn connection(bytes: &[u8], mut splits: Splits) {
    let whole = filter([bytes]);
    assert!(whole.out.len() <= bytes.len() + MESSAGE_HEADER, "more than came in");
    assert!(whole.existing.len() <= bytes.len() / 2 && whole.requests <= bytes.len());
    let pieces = splits.cut(bytes);
    for split in [filter(pieces.iter().copied()), filter(bytes.chunks(1))] {
        assert!(split.held <= MOST_HELD, "{} bytes held", split.held);
        let held = whole.held;
        assert_eq!(Filtered { held, ..split }, whole, "pieces make a difference");
    }
    let frames: Vec<_> = pieces.iter().map(|piece| framed(PLUGIN, piece)).collect();
    let carried = carry([&frames.concat()[..]]);
    assert_eq!(carried.existing, whole.existing);
    match whole.violation {
        None => assert_eq!((&*carried.end, carried.plugin), ("closed", whole.out)),
        Some(why) => {
            assert_eq!(carried.end, why);
            assert!(whole.out.starts_with(&carried.plugin));
        }
    }
}

fn framed(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

fn message(stream: u32, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u32;
    [&len.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], bytes].concat()
}

/// A request to synchronize with this payload, and the beginning of another one.
fn synchronize(payload: &[u8]) -> Vec<u8> {
    let fields = [&b"nri.pkg.api.v1alpha1.Plugin"[..], b"Synchronize", payload];
    let mut request = Vec::new();
    for (number, bytes) in (1..).zip(fields) {
        request.push(number << 3 | 2);
        let mut len = bytes.len();
        while len > 0x7f {
            request.push(len as u8 | 0x80);
            len >>= 7;
        }
        request.push(len as u8);
        request.extend(bytes);
    }
    [message(1, REQUEST, &request), message(3, REQUEST, &request)[..20].to_vec()].concat()
}

/// Messages that ttrpc writes, on both connections: the frames are as a Go reader wants them.
fn written(bytes: &[u8], mut splits: Splits) {
    let (mut server, mut client) = (Vec::new(), Vec::new());
    for (index, piece) in splits.cut(bytes).into_iter().enumerate() {
        let to = if piece[0] & 1 == 0 { &mut server } else { &mut client };
        to.push(message(index as u32, piece[0], piece));
    }
    let (server_bytes, client_bytes) = (server.concat(), client.concat());
    // All of the client first, as in a session, whose registration comes first.
    let pieces = splits.cut(&client_bytes).into_iter().map(|piece| (false, piece));
    let more = splits.cut(&server_bytes).into_iter().map(|piece| (true, piece));
    let (trunk, end) = write(pieces.chain(more));
    assert_eq!(end, "the ttrpc server stopped");
    let (mut rest, mut sent) = (&trunk[..], [Vec::new(), Vec::new()]);
    let mut waiting = [server.iter(), client.iter()];
    while let Some((id, first, behind)) = frame(rest) {
        rest = behind;
        let index = usize::from(id == RUNTIME);
        let message = waiting[index].next().expect("no message was written");
        assert_eq!(first.len(), message.len().min(4096));
        sent[index].extend(first);
        if first.len() < message.len() {
            let (next, second, behind) = frame(rest).expect("the rest of a message is missing");
            assert_eq!((next, second.len()), (id, message.len() - first.len()));
            sent[index].extend(second);
            rest = behind;
        }
    }
    assert!(rest.is_empty() && sent[0] == server_bytes && client_bytes.starts_with(&sent[1]));
}
