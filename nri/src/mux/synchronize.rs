//! Takes the existing pods and containers out of the stream of requests.
//!
//! NRI up to 0.6.1 tells a plugin all pods and containers of a node in one message of up to
//! 16 MiB, but ttrpc takes no more than 4 MiB: a plugin that relies on ttrpc alone stays connected
//! and is never called on a large node (<https://github.com/containerd/nri/issues/102>). And even
//! 4 MiB, decoded into a tree of strings, are far more than the rest of a plugin needs. So a
//! `Synchronize` request is decoded here while it comes in, one pod or container at a time, and
//! ttrpc is given what remains of it: whether `more` parts follow. Every other message passes
//! unchanged.

use ttrpc::proto::{Codec as _, Request};

use super::fields::{Fields, Token};
use super::{MESSAGE_HEADER, Violation};
use crate::InFlight;
use crate::api::{Container, Message as _, PodSandbox, SynchronizeRequest};

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
const METHOD: &str = "Synchronize";

/// Where a ttrpc header has the type of the message, and what it is for a request.
const KIND: usize = 8;
const REQUEST: u8 = 1;

/// Fields of `ttrpc.Request`.
mod request {
    pub(super) const SERVICE: u64 = 1;
    pub(super) const METHOD: u64 = 2;
    pub(super) const PAYLOAD: u64 = 3;
    pub(super) const TIMEOUT: u64 = 4;
}

/// Fields of `SynchronizeRequest`.
mod payload {
    pub(super) const PODS: u64 = 1;
    pub(super) const CONTAINERS: u64 = 2;
    pub(super) const MORE: u64 = 3;
}

/// What the largest frame of the oldest runtimes can carry, after a first one of 4096 bytes.
const MAX_MESSAGE: u64 = (16 << 20) + 4096;

/// A request that does not tell its method within so many bytes is left to ttrpc.
const MAX_HEAD: usize = 4096;

/// A pod or container of more bytes is not decoded. (etcd refuses objects of more than 1.5 MB, and
/// Kubernetes annotations of more than 256 KiB.)
const MAX_ITEM: u64 = 1 << 20;

/// Something that exists when the plugin connects.
#[derive(Debug)]
pub(crate) enum Existing {
    Pod(PodSandbox),
    Container(Container),
    /// Not decoded for its size in bytes.
    TooLarge(u64),
}

/// Sees every byte that the runtime sends to the plugin service.
#[derive(Debug)]
pub(crate) struct Filter<D> {
    state: State,
    deliver: D,
    in_flight: InFlight,
}

#[derive(Debug)]
enum State {
    /// Between two messages, or in the header of one.
    Header(Vec<u8>),
    /// In a message that passes.
    Pass { left: u64 },
    /// In a request whose method is not known yet.
    Head(Head),
    /// In a `Synchronize` request.
    Synchronize(Box<Synchronize>),
}

impl State {
    /// The next `left` bytes pass; after them, a new message begins.
    fn passing(left: u64) -> Self {
        if left == 0 {
            Self::Header(Vec::with_capacity(MESSAGE_HEADER))
        } else {
            Self::Pass { left }
        }
    }
}

impl<D: FnMut(Existing)> Filter<D> {
    pub(crate) fn new(deliver: D, in_flight: InFlight) -> Self {
        Self { state: State::passing(0), deliver, in_flight }
    }

    /// Takes the next bytes, and appends to `out` what ttrpc is to see, which is never much more
    /// than what was given here.
    ///
    /// # Errors
    ///
    /// This is no ttrpc request, or a larger one than any runtime sends.
    pub(crate) fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Violation> {
        while !input.is_empty() {
            let next = match &mut self.state {
                State::Header(header) => {
                    header.extend_from_slice(split(&mut input, MESSAGE_HEADER - header.len()));
                    if header.len() < MESSAGE_HEADER {
                        return Ok(());
                    }
                    let header = std::mem::take(header);
                    Some(self.begin(header, out)?)
                }
                State::Pass { left } => {
                    let passed = split(&mut input, usize::try_from(*left).unwrap_or(usize::MAX));
                    out.extend_from_slice(passed);
                    Some(State::passing(*left - passed.len() as u64))
                }
                State::Head(head) => head.feed(&mut input, out)?,
                State::Synchronize(request) => request.feed(&mut input, &mut self.deliver, out)?,
            };
            if let Some(next) = next {
                self.state = next;
            }
        }
        Ok(())
    }

    /// How many bytes of a message are held back.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        match &self.state {
            State::Header(header) => header.capacity(),
            State::Pass { .. } => 0,
            State::Head(head) => {
                head.raw.capacity() + head.service.capacity() + head.method.capacity()
            }
            State::Synchronize(request) => {
                request.header.capacity() + request.item.as_ref().map_or(0, Vec::capacity)
            }
        }
    }

    /// What to do with the message that has this header.
    fn begin(&self, header: Vec<u8>, out: &mut Vec<u8>) -> Result<State, Violation> {
        let len = u64::from(u32::from_be_bytes([header[0], header[1], header[2], header[3]]));
        if len > MAX_MESSAGE {
            return Err(Violation("a ttrpc message is longer than 16 MiB"));
        }
        if header[KIND] == REQUEST {
            let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            self.in_flight.came(stream)?;
            if len > 0 {
                return Ok(State::Head(Head::new(header, len)));
            }
        }
        out.extend_from_slice(&header);
        Ok(State::passing(len))
    }
}

/// The beginning of a request, kept until it tells its method.
#[derive(Debug)]
struct Head {
    /// The ttrpc header, and whatever of the request was seen.
    raw: Vec<u8>,
    request: Fields,
    service: Vec<u8>,
    method: Vec<u8>,
    timeout: i64,
}

impl Head {
    fn new(header: Vec<u8>, len: u64) -> Self {
        Self {
            raw: header,
            request: Fields::new(len),
            service: Vec::new(),
            method: Vec::new(),
            timeout: 0,
        }
    }

    fn feed(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<State>, Violation> {
        // No more than up to the limit, so that what is decided does not depend on how the bytes
        // come in.
        let (before, _) = input.split_at(input.len().min(MAX_HEAD + 1 - self.raw.len()));
        let mut rest = before;
        let payload = self.find_payload(&mut rest)?;
        self.raw.extend_from_slice(split(input, before.len() - rest.len()));
        match payload {
            // An empty payload holds nothing to take out.
            Some(len) if len > 0 && self.is_synchronize() => {
                Ok(Some(State::Synchronize(Box::new(Synchronize::new(self, len)))))
            }
            None if self.request.left() > 0 && self.raw.len() <= MAX_HEAD => Ok(None),
            // Another method, or a request that names its method last, as protobuf allows. If that
            // turns out to be a Synchronize of up to 4 MiB, the service gets it with all its
            // items and hands them over itself.
            _ => {
                out.append(&mut self.raw);
                Ok(Some(State::passing(self.request.left())))
            }
        }
    }

    /// Reads up to the payload and returns its length.
    fn find_payload(&mut self, input: &mut &[u8]) -> Result<Option<u64>, Violation> {
        while let Some(token) = self.request.next(input)? {
            match token {
                Token::Start { field: request::PAYLOAD, len } => return Ok(Some(len)),
                Token::Start { field: request::SERVICE, .. } => self.service.clear(),
                Token::Start { field: request::METHOD, .. } => self.method.clear(),
                Token::Bytes { field: request::SERVICE, bytes } => self.service.extend(bytes),
                Token::Bytes { field: request::METHOD, bytes } => self.method.extend(bytes),
                Token::Varint { field: request::TIMEOUT, value } => {
                    self.timeout = value.cast_signed();
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn is_synchronize(&self) -> bool {
        self.service == SERVICE.as_bytes() && self.method == METHOD.as_bytes()
    }
}

/// A `Synchronize` request, from its payload on.
#[derive(Debug)]
struct Synchronize {
    header: Vec<u8>,
    request: Fields,
    timeout: i64,
    payload: Fields,
    more: bool,
    /// The bytes of the current pod or container; `None` if it is too large.
    item: Option<Vec<u8>>,
}

impl Synchronize {
    fn new(head: &mut Head, payload: u64) -> Self {
        head.raw.truncate(MESSAGE_HEADER);
        Self {
            header: std::mem::take(&mut head.raw),
            request: std::mem::replace(&mut head.request, Fields::new(0)),
            timeout: head.timeout,
            payload: Fields::new(payload),
            more: false,
            item: None,
        }
    }

    fn feed(
        &mut self,
        input: &mut &[u8],
        deliver: &mut impl FnMut(Existing),
        out: &mut Vec<u8>,
    ) -> Result<Option<State>, Violation> {
        while let Some(token) = self.request.next(input)? {
            match token {
                Token::Bytes { field: request::PAYLOAD, bytes } => self.unpack(bytes, deliver)?,
                Token::Varint { field: request::TIMEOUT, value } => {
                    self.timeout = value.cast_signed();
                }
                // In protobuf the last one of them would count, but what came first has been acted
                // upon.
                Token::Start { field: request::SERVICE..=request::PAYLOAD, .. } => {
                    return Err(Violation("a request has a second method or payload"));
                }
                _ => {}
            }
        }
        if self.request.left() > 0 {
            return Ok(None);
        }
        self.write_rest(out)?;
        Ok(Some(State::passing(0)))
    }

    /// Reads some of the payload.
    fn unpack(
        &mut self,
        mut bytes: &[u8],
        deliver: &mut impl FnMut(Existing),
    ) -> Result<(), Violation> {
        while let Some(token) = self.payload.next(&mut bytes)? {
            match token {
                Token::Start { field: payload::PODS | payload::CONTAINERS, len } => {
                    self.item = (len <= MAX_ITEM).then(|| Vec::with_capacity(len as usize));
                    if self.item.is_none() {
                        deliver(Existing::TooLarge(len));
                    }
                }
                Token::Bytes { field: payload::PODS | payload::CONTAINERS, bytes } => {
                    if let Some(item) = &mut self.item {
                        item.extend_from_slice(bytes);
                    }
                }
                Token::End { field } => {
                    if let Some(item) = self.item.take() {
                        deliver(decode(field, &item)?);
                    }
                }
                Token::Varint { field: payload::MORE, value } => self.more = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// The request without what was taken out of it: same stream, same method, same timeout.
    fn write_rest(&mut self, out: &mut Vec<u8>) -> Result<(), Violation> {
        let rest = SynchronizeRequest { more: self.more, ..Default::default() };
        let request = Request {
            service: SERVICE.to_owned(),
            method: METHOD.to_owned(),
            payload: rest.write_to_bytes().map_err(|_| UNWRITABLE)?,
            timeout_nano: self.timeout,
            ..Default::default()
        };
        let request = request.encode().map_err(|_| UNWRITABLE)?;
        out.extend_from_slice(&(request.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.header[size_of::<u32>()..]);
        out.extend_from_slice(&request);
        Ok(())
    }
}

/// Cannot happen: a message of 100 bytes is written to memory.
const UNWRITABLE: Violation = Violation("a message cannot be written");

fn decode(field: u64, item: &[u8]) -> Result<Existing, Violation> {
    match field {
        payload::PODS => PodSandbox::parse_from_bytes(item).map(Existing::Pod),
        _ => Container::parse_from_bytes(item).map(Existing::Container),
    }
    .map_err(|_| Violation("a pod or container cannot be decoded"))
}

/// Takes up to `most` bytes off the front.
fn split<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests;
