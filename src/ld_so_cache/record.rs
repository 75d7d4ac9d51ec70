//! [`Record`]: an entry as the file has it, with offsets of its strings.

use super::word;

/// Bytes of an entry, and of one in the old format.
pub(super) const SIZE: usize = 24;
pub(super) const OLD_SIZE: usize = 12;

#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) flags: i32,
    pub(super) name: u32,
    pub(super) path: u32,
    /// Those of the old format say nothing of it.
    pub(super) hwcap: u64,
}

impl Record {
    /// Reads an entry of either format.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let hwcap = bytes.get(16..).and_then(<[u8]>::first_chunk).copied();
        Some(Self {
            flags: word(bytes, 0)?.cast_signed(),
            name: word(bytes, 4)?,
            path: word(bytes, 8)?,
            hwcap: hwcap.map_or(0, u64::from_ne_bytes),
        })
    }

    /// Writes it in the new format. Before the hwcap stands the least version of the kernel, or 0 for any: older ldconfig took it
    /// from the library, newer ones write 0.
    pub(super) fn write(self, bytes: &mut [u8; SIZE]) {
        bytes.fill(0);
        set(bytes, 0, self.flags.cast_unsigned());
        self.place(bytes);
        bytes
            .get_mut(16..)
            .into_iter()
            .for_each(|it| it.copy_from_slice(&self.hwcap.to_ne_bytes()));
    }

    /// Changes the offsets alone.
    #[inline]
    pub(super) fn place(self, bytes: &mut [u8; SIZE]) {
        set(bytes, 4, self.name);
        set(bytes, 8, self.path);
    }
}

fn set(bytes: &mut [u8; SIZE], at: usize, number: u32) {
    let field = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    field.into_iter().for_each(|field| *field = number.to_ne_bytes());
}
