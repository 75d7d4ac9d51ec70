//! A library while it is read: [`Opened`], [`Headed`], [`Linked`].
//!
//! Each step tells what the next one will read, or the start of that where it is unusually long. Who takes them with many
//! libraries in turn does not wait for the disk with each.

use super::dynamic::Dynamic;
use super::fields::{Class, Fields, Head};
use super::segments::Segments;
use super::{AHEAD, Arch, EM_X86_64, LIBC6, Library, ReadAt, Refused, Result};

/// Libraries that are glibc 2's.
const GLIBC: [[u8; 10]; 2] = [*b"libc.so.6\0", *b"libm.so.6\0"];

/// A library into which nobody has looked.
#[derive(Debug)]
pub struct Opened<B>(B);

impl<B: ReadAt> Opened<B> {
    /// Asks for its start.
    pub fn new(bytes: B) -> Self {
        bytes.will_read(0, AHEAD);
        Self(bytes)
    }

    /// Reads the headers, as ldconfig of `arch` does.
    pub fn head(self, arch: Arch) -> Result<Headed<B>> {
        let head = Head::read(self.0)?;
        let class = head.class(arch)?;
        let flags = flags(arch, class, &head);
        let fields = Fields::new(&head, class);
        let segments = Segments::read(&fields)?;
        fields.will_read_dynamic(segments.dynamic);
        Ok(Headed { head, arch, class, flags, segments })
    }
}

/// A library whose headers are known.
#[derive(Debug)]
pub struct Headed<B> {
    head: Head<B>,
    arch: Arch,
    class: Class,
    flags: i32,
    segments: Segments,
}

impl<B: ReadAt> Headed<B> {
    /// Reads the dynamic section.
    pub fn dynamic(self) -> Result<Linked<B>> {
        let fields = Fields::new(&self.head, self.class);
        // Those whose machine leaves it open are asked for what they need.
        let dynamic = Dynamic::read(&fields, &self.segments, self.flags == LIBC6)?;
        let strings = self.segments.file_offset(dynamic.strings.ok_or(Refused::NotDynamic)?);
        dynamic.soname.into_iter().for_each(|at| fields.will_read_string(strings, at));
        Ok(Linked { headed: self, dynamic, strings })
    }
}

/// A library whose dynamic section is known.
#[derive(Debug)]
pub struct Linked<B> {
    headed: Headed<B>,
    dynamic: Dynamic,
    /// Where its strings are in the file.
    strings: u64,
}

impl<B: ReadAt> Linked<B> {
    /// Reads the name and what else is left.
    pub fn library(self) -> Result<Library> {
        let Self { headed: Headed { head, arch, class, flags, segments }, dynamic, strings } = self;
        let fields = Fields::new(&head, class);
        let soname = dynamic.soname.map(|at| fields.string(strings, at)).transpose()?;
        let names_libc6 = flags == LIBC6
            && (segments.interpreter_of_glibc(&fields)
                || dynamic.needed.iter().any(|at| fields.is_string(strings, *at, &GLIBC)));
        let isa_level = match arch {
            Arch::X86_64 => segments.isa_level(&fields),
            _ => 0,
        };
        Ok(Library { soname, flags, isa_level, names_libc6 })
    }
}

/// What the machine says about the ABI: `process_elf_file` in sysdeps/x86/readelflib.c and
/// sysdeps/unix/sysv/linux/arm/readelflib.c.
fn flags(arch: Arch, class: Class, head: &Head<impl ReadAt>) -> i32 {
    const ARM_EABI: u32 = 0xff00_0000;
    const ARM_EABI5: u32 = 0x0500_0000;
    match (arch, class) {
        (Arch::X86_64, Class::Elf64) => 0x303,
        (Arch::X86_64, Class::Elf32) if head.machine() == EM_X86_64 => 0x803,
        (Arch::Aarch64, Class::Elf64) => 0xa03,
        (Arch::Aarch64, Class::Elf32) if head.flags(class) & ARM_EABI == ARM_EABI5 => {
            match head.flags(class) {
                flags if flags & 0x400 != 0 => 0x903,
                flags if flags & 0x200 != 0 => 0xb03,
                _ => LIBC6,
            }
        }
        (Arch::Other(flag), Class::Elf64) => flag,
        _ => LIBC6,
    }
}
