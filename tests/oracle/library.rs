//! Shared objects of a few hundred bytes, right and wrong in all ways that a linker cache may see.

/// What a library is to say.
#[derive(Clone, Debug)]
pub(crate) struct Library<'a> {
    pub(crate) soname: Option<&'a [u8]>,
    pub(crate) machine: u16,
    pub(crate) is_64: bool,
    pub(crate) needed: Option<&'a [u8]>,
    pub(crate) interpreter: Option<&'a [u8]>,
    pub(crate) isa: Option<u32>,
}

impl Library<'_> {
    /// The file: header, program headers, dynamic section, strings, note, all in one segment at address 0x1000.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (header, segment, entry) = if self.is_64 { (64, 56, 16) } else { (52, 32, 8) };
        let mut strings = vec![0];
        let mut keep = |text: Option<&[u8]>| {
            let at = strings.len();
            strings.extend_from_slice(text.unwrap_or_default());
            strings.push(0);
            at as u64
        };
        let (soname, needed, interpreter) =
            (keep(self.soname), keep(self.needed), keep(self.interpreter));
        let dynamic = header + 4 * segment;
        let text = dynamic + 4 * entry;
        let note = (text + strings.len()).next_multiple_of(8);
        let (dynamic_at, text_at, note_at) = (dynamic as u64, text as u64, note as u64);
        let align = if self.is_64 { 8 } else { 4 };
        let property: u32 = if self.isa.is_some() { 0x6474_e553 } else { 0 };
        let interp = if self.interpreter.is_some() { 3 } else { 0 };
        let mut file = self.header();
        for (kind, offset, size, align) in [
            (1, 0, 1 << 16, 4096),
            (2, dynamic_at, 4 * entry as u64, align),
            (interp, text_at + interpreter, 32, 1),
            (property, note_at, 32, align),
        ] {
            self.segment(&mut file, kind, offset, size, align);
        }
        let tag = |tag: u64, is: bool| if is { tag } else { 0x6fff_fef5 };
        for (tag, value) in [
            (tag(1, self.needed.is_some()), needed),
            (tag(14, self.soname.is_some()), soname),
            (5, 0x1000 + text_at),
            (0, 0),
        ] {
            self.word(&mut file, tag);
            self.word(&mut file, value);
        }
        file.extend(strings);
        file.resize(note, 0);
        let size = if self.is_64 { 16 } else { 12 };
        for word in
            [4, size, 5, u32::from_ne_bytes(*b"GNU\0"), 0xc000_8002, 4, self.isa.unwrap_or(0), 0]
        {
            file.extend(word.to_ne_bytes());
        }
        file
    }

    fn header(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file[4] = if self.is_64 { 2 } else { 1 };
        file.resize(16, 0);
        file.extend(3u16.to_ne_bytes());
        file.extend(self.machine.to_ne_bytes());
        file.extend(1u32.to_ne_bytes());
        let (header, segment) = if self.is_64 { (64u16, 56u16) } else { (52, 32) };
        for word in [0, header.into(), 0] {
            self.word(&mut file, word);
        }
        file.extend([0; 4]);
        for half in [header, segment, 4, 0, 0, 0] {
            file.extend(half.to_ne_bytes());
        }
        file
    }

    fn segment(&self, file: &mut Vec<u8>, kind: u32, offset: u64, size: u64, align: u64) {
        file.extend(kind.to_ne_bytes());
        if self.is_64 {
            file.extend(4u32.to_ne_bytes());
        }
        for word in [offset, 0x1000 + offset, 0, size, size] {
            self.word(file, word);
        }
        if !self.is_64 {
            file.extend(4u32.to_ne_bytes());
        }
        self.word(file, align);
    }

    fn word(&self, file: &mut Vec<u8>, word: u64) {
        match self.is_64 {
            true => file.extend(word.to_ne_bytes()),
            false => file.extend((word as u32).to_ne_bytes()),
        }
    }
}
