//! The link from a SONAME to its library, made as `create_links` does (elf/ldconfig.c), and no other.

use std::io::ErrorKind;

use anyhow::Result;

use super::links::{is_loader, is_name};
use super::search::{Place, Search};
use crate::root::Kind;

/// What a name in a directory leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// To the file, or to where ldconfig would let it lead.
    There,
    /// To something else that is not ours to replace.
    Elsewhere,
    /// Nowhere, and no link could be made, because the directory is on a mount that is read-only or not ours to change: then the
    /// cache can name the file, and needs no link.
    Nowhere,
}

/// Sees that `soname` leads to the file at `at`.
pub(super) fn make(
    search: &mut Search<'_>,
    place: &Place<'_>,
    at: usize,
    soname: &[u8],
) -> Result<Leads> {
    let file = place.listing.name(at);
    // An entry for a name that no file has, such as ../libx.so, is of no use and no harm: ldconfig makes it too.
    if file == soname || !is_name(soname) {
        return Ok(Leads::There);
    }
    let replaced = match found(search, place, at, soname)? {
        Found::Right => return Ok(Leads::There),
        Found::Kept => return Ok(Leads::Elsewhere),
        Found::Nothing => false,
        Found::Link => true,
    };
    let removed = if replaced { search.links.remove(place.dir, soname) } else { Ok(()) };
    Ok(match removed.and_then(|()| search.links.make(place.dir, soname, file)) {
        Ok(()) => {
            search.changed += 1;
            Leads::There
        }
        Err(error) => match error.kind() {
            ErrorKind::ReadOnlyFilesystem
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied => Leads::Nowhere,
            _ => Leads::There,
        },
    })
}

/// What has the name already.
enum Found {
    Nothing,
    /// A link to another file, or to none.
    Link,
    /// The file, or a link to it.
    Right,
    /// Something that is not ours to replace.
    Kept,
}

fn found(search: &Search<'_>, place: &Place<'_>, at: usize, soname: &[u8]) -> Result<Found> {
    let is_link = match place.index.get(soname) {
        Some(other) if place.lead(*other).is_some() && place.lead(*other) == place.lead(at) => {
            return Ok(Found::Right);
        }
        Some(other) => place.listing.is_link(*other),
        None => match place.dir.kind(soname) {
            None => return Ok(Found::Nothing),
            Some(kind) => kind == Kind::Link,
        },
    };
    let (file, there) = (place.listing.name(at), search.root.id(&place.path(soname))?);
    Ok(match there {
        Some(there) if search.root.id(&place.path(file))? == Some(there) => Found::Right,
        Some(_) if !is_link || is_loader(soname) => Found::Kept,
        Some(_) => Found::Link,
        // It leads nowhere, and may have been removed for that.
        None if place.dir.kind(soname) == Some(Kind::Link) => Found::Link,
        None => Found::Nothing,
    })
}
