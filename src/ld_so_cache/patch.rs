//! [`Patch`]: a file that is made of parts of another and of new bytes.

use std::ops::Range;

use crate::pages::Pages;

/// What the new file consists of, in order.
#[derive(Debug, Default)]
pub(super) struct Patch {
    old: Vec<Part>,
    new: Vec<Part>,
    /// The new bytes.
    bytes: Vec<u8>,
    len: usize,
}

/// Bytes, and where they are in the new file.
#[derive(Debug)]
struct Part {
    from: Range<usize>,
    to: usize,
}

impl Patch {
    /// How long the new file is so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Goes on with a part of the old file. They come in its order.
    pub(super) fn keep(&mut self, from: Range<usize>) {
        append(&mut self.old, from, &mut self.len);
    }

    /// Goes on with new bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        append(&mut self.new, start..self.bytes.len(), &mut self.len);
    }

    /// Where the kept parts are in the new file.
    pub(super) fn kept(&self) -> Vec<Range<usize>> {
        self.old.iter().map(|part| part.to..part.to + part.from.len()).collect()
    }

    /// The new bytes, one after the other.
    pub(super) fn pushed(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes the new file of the old one, in place: a page that is touched for the first time costs more than its bytes.
    pub(super) fn apply(self, mut file: Pages) -> Option<Pages> {
        if self.old.is_empty() {
            return Some(self.bytes.into());
        }
        if self.old.iter().any(|part| part.from.end > file.len()) {
            return None;
        }
        file.resize(file.len().max(self.len));
        // No part comes to lie where another is that was not moved yet: those that move to the front are in the way of none
        // behind them, and those that move to the back of none before them.
        let (front, back) = (self.old.iter(), self.old.iter().rev());
        let front = front.filter(|part| part.to < part.from.start);
        for part in front.chain(back.filter(|part| part.to > part.from.start)) {
            file.copy_within(part.from.clone(), part.to);
        }
        for part in self.new {
            let bytes = self.bytes.get(part.from)?;
            file.get_mut(part.to..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        }
        file.resize(self.len);
        Some(file)
    }
}

fn append(parts: &mut Vec<Part>, from: Range<usize>, to: &mut usize) {
    let (start, len) = (*to, from.len());
    *to += len;
    match parts.last_mut() {
        // It goes on where the last one ended, in both files.
        Some(last) if last.from.end == from.start && last.to + last.from.len() == start => {
            last.from.end = from.end;
        }
        _ if len == 0 => {}
        _ => parts.push(Part { from, to: start }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_move_past_each_other() {
        let file = b"0123456789";
        // All ways to keep up to three parts, with something new around them.
        let cuts = || 0..=file.len();
        for (a, b, c, d) in
            cuts().flat_map(|a| cuts().flat_map(move |b| cuts().map(move |c| (a, b, c, 10))))
        {
            if !(a <= b && b <= c) {
                continue;
            }
            for new in 0..27 {
                let news = [new % 3, new / 3 % 3, new / 9].map(|count| &b"abcd"[..count * 2]);
                let (mut patch, mut expected) = (Patch::default(), Vec::new());
                for (part, new) in
                    [a..b, b + (c - b) / 2..c, c + (d - c) / 3..d].into_iter().zip(news)
                {
                    patch.push(new);
                    patch.keep(part.clone());
                    expected.extend([new, &file[part]].concat());
                }
                assert_eq!(patch.len(), expected.len());
                assert_eq!(*patch.apply(file.to_vec().into()).unwrap(), expected);
            }
        }
    }

    #[test]
    fn another_file_is_refused() {
        let mut patch = Patch::default();
        patch.keep(1..3);
        assert!(patch.apply(b"ab".to_vec().into()).is_none());
    }
}
