//! [`Segments`]: the program headers of a library.

use super::fields::Fields;
use super::{PT_LOAD, ReadAt, Refused, Result, property};

pub(super) const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
pub(super) const PT_GNU_PROPERTY: u32 = 0x6474_e553;

/// The program headers that matter.
#[derive(Debug)]
pub(super) struct Segments {
    /// Address, file offset and size in the file.
    loads: Vec<[u64; 3]>,
    pub(super) dynamic: u64,
    interpreter: Option<u64>,
    /// File offset and size.
    properties: Vec<[u64; 2]>,
}

impl Segments {
    pub(super) fn read<B: ReadAt>(fields: &Fields<'_, B>) -> Result<Self> {
        let mut found =
            Self { loads: Vec::new(), dynamic: 0, interpreter: None, properties: Vec::new() };
        let mut dynamic = None;
        for segment in fields.segments()? {
            let segment = segment?;
            match segment.kind {
                PT_LOAD => found.loads.push([segment.address, segment.offset, segment.size]),
                PT_DYNAMIC => dynamic = Some(segment).filter(|segment| segment.size > 0),
                PT_INTERP => found.interpreter = Some(segment.offset),
                // Notes of another alignment are not looked at.
                PT_GNU_PROPERTY if segment.align == fields.class.word() => {
                    found.properties.push([segment.offset, segment.size]);
                }
                _ => {}
            }
        }
        found.dynamic = dynamic.ok_or(Refused::NotDynamic)?.offset;
        Ok(found)
    }

    /// Where an address of the loaded library is in the file; one in no segment is taken for an offset.
    pub(super) fn file_offset(&self, address: u64) -> u64 {
        let holds = |[start, _, size]: &&[u64; 3]| {
            address.checked_sub(*start).is_some_and(|distance| distance < *size)
        };
        match self.loads.iter().find(holds) {
            Some([start, offset, _]) => address.wrapping_sub(*start).wrapping_add(*offset),
            None => address,
        }
    }

    /// Is there an interpreter that glibc 2 has (`SYSDEP_KNOWN_INTERPRETER_NAMES`)?
    pub(super) fn interpreter_of_glibc<B: ReadAt>(&self, fields: &Fields<'_, B>) -> bool {
        const KNOWN: [&[u8]; 9] = [
            b"/lib/ld-linux.so.2",
            b"/lib/ld-linux.so.3",
            b"/lib/ld-linux-x86-64.so.2",
            b"/lib64/ld-linux-x86-64.so.2",
            b"/libx32/ld-linux-x32.so.2",
            b"/lib/ld-linux-armhf.so.3",
            b"/lib/ld-linux-aarch64.so.1",
            b"/lib/ld-linux-aarch64_be.so.1",
            b"/lib/ld.so.1",
        ];
        let name = self.interpreter.and_then(|offset| fields.string(offset, 0).ok());
        name.is_some_and(|name| KNOWN.contains(&name.as_slice()))
    }

    pub(super) fn isa_level<B: ReadAt>(&self, fields: &Fields<'_, B>) -> u32 {
        let mut levels =
            self.properties.iter().filter_map(|[at, size]| property::isa_level(fields, *at, *size));
        levels.next_back().unwrap_or(0)
    }
}
