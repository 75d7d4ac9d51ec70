//! The x86 ISA level that a library asks for, from its `NT_GNU_PROPERTY_TYPE_0` note.

use super::fields::{Fields, u32_at};
use super::{ReadAt, Result};

/// Bytes of a property segment; real ones have 32 to 96.
const MAX_SIZE: u64 = 4096;
const HEADER: usize = 12;
const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
const GNU_PROPERTY_X86_ISA_1_NEEDED: u32 = 0xc000_8002;

/// The highest bit of the ISA levels needed, if the segment says so.
pub(super) fn isa_level(fields: &Fields<'_, impl ReadAt>, offset: u64, size: u64) -> Option<u32> {
    let bytes = read(fields, offset, size.min(MAX_SIZE)).ok()?;
    let align = fields.class.word() as usize;
    let mut at = 0usize;
    // A note's header alone is none: ldconfig asks for one byte more.
    while let Some(note) = bytes.get(at..).filter(|note| note.len() > HEADER) {
        let (name, data, kind) = (u32_at(note, 0), u32_at(note, 4), u32_at(note, 8));
        if name == 4 && kind == NT_GNU_PROPERTY_TYPE_0 && note.get(12..16)? == b"GNU\0" {
            return needed(note.get(16..16usize.checked_add(data as usize)?)?, align);
        }
        let name_end = HEADER.checked_add(name as usize)?.checked_next_multiple_of(align)?;
        let end = name_end.checked_add(data as usize)?.checked_next_multiple_of(align)?;
        at = at.checked_add(end)?;
    }
    None
}

fn read(fields: &Fields<'_, impl ReadAt>, offset: u64, size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    fields.exact(&mut bytes, offset)?;
    Ok(bytes)
}

/// Goes through properties, whose types ascend, up to that of the ISA.
fn needed(mut properties: &[u8], align: usize) -> Option<u32> {
    if properties.len() < 8 || !properties.len().is_multiple_of(align) {
        return None;
    }
    let mut last = 0;
    while properties.len() >= 8 {
        let (kind, size) = (u32_at(properties, 0), u32_at(properties, 4) as usize);
        let value = properties.get(8..8usize.checked_add(size)?)?;
        if kind < last || kind > GNU_PROPERTY_X86_ISA_1_NEEDED {
            return None;
        }
        if kind == GNU_PROPERTY_X86_ISA_1_NEEDED {
            return (size == 4).then(|| u32_at(value, 0).checked_ilog2())?;
        }
        last = kind;
        properties = properties.get(8 + size.checked_next_multiple_of(align)?..)?;
    }
    None
}
