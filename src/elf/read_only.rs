//! [`ReadOnly`]: those bytes of a program that it may only read.

use std::io::{self, Read};
use std::ops::Range;

use super::fields::{Fields, Head};
use super::{Arch, PF_R, PT_LOAD, ReadAt, Refused, Result};

/// The segments of a program that it may only read, each with a NUL behind it. Its strings are there, unless they are loaded together
/// with its code, as linkers did before binutils 2.31 (ld(1), `-z separate-code`).
#[derive(Debug)]
pub struct ReadOnly<B> {
    head: Head<B>,
    /// What is left of them in the file, the last first.
    segments: Vec<Range<u64>>,
}

impl<B: ReadAt> ReadOnly<B> {
    /// Finds them. At most `limit` bytes will be asked for, whether they are there or not.
    pub fn of(bytes: B, limit: u64) -> Result<Self> {
        let head = Head::read(bytes)?;
        let fields = Fields::new(&head, head.class(Arch::own())?);
        let (mut segments, mut left) = (Vec::new(), limit);
        for segment in fields.segments()? {
            let segment = segment?;
            let size = segment.size.min(left);
            if segment.kind == PT_LOAD && segment.flags == PF_R && size > 0 {
                segments.push(segment.offset..segment.offset.saturating_add(size));
                left -= size;
            }
        }
        segments.reverse();
        Ok(Self { head, segments })
    }
}

impl<B: ReadAt> Read for ReadOnly<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some(rest), false) = (self.segments.last_mut(), buffer.is_empty()) else {
            return Ok(0);
        };
        let size = usize::try_from(rest.end - rest.start).unwrap_or(usize::MAX).min(buffer.len());
        let filled = self.head.read_at(&mut buffer[..size], rest.start).map_err(io_error)?;
        rest.start += filled as u64;
        if filled < size {
            // The file ends here.
            rest.start = rest.end;
        }
        if filled == 0 {
            self.segments.pop();
            buffer[0] = 0;
            return Ok(1);
        }
        Ok(filled)
    }
}

fn io_error(refused: Refused) -> io::Error {
    match refused {
        Refused::Unreadable(error) => error,
        other => io::Error::other(other),
    }
}
