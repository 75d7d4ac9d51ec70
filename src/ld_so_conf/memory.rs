//! [`Memory`]: a configuration that is read once, however often it is looked at.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::Result;

use super::lines::Source;

type Remembered<T> = RefCell<HashMap<Vec<u8>, T>>;

/// The files of a source, as they were when they were first asked for.
#[derive(Debug)]
pub(super) struct Memory<'a, S> {
    source: &'a S,
    files: Remembered<Option<Vec<u8>>>,
    lists: Remembered<Vec<Vec<u8>>>,
}

impl<'a, S: Source> Memory<'a, S> {
    pub(super) fn of(source: &'a S) -> Self {
        Self { source, files: RefCell::default(), lists: RefCell::default() }
    }
}

impl<S: Source> Source for Memory<'_, S> {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        remember(&self.files, path, || self.source.read(path))
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        remember(&self.lists, dir, || self.source.list(dir))
    }
}

fn remember<T: Clone>(
    known: &Remembered<T>,
    path: &[u8],
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if let Some(found) = known.borrow().get(path) {
        return Ok(found.clone());
    }
    let found = look()?;
    known.borrow_mut().insert(path.to_owned(), found.clone());
    Ok(found)
}
