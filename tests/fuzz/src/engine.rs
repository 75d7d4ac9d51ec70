//! The engine on a small root: whatever is there, it makes a cache that is one, the same again, and the same from its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, mem};

use nri_ldcache::engine::{CACHE, Dirs, Links, Made, full, incremental};
use nri_ldcache::fuzzing::plain;
use nri_ldcache::ld_so_cache::Cache;
use nri_ldcache::ld_so_conf;
use nri_ldcache::root::{Dir, Root};

/// Most nodes of a root.
const MOST: usize = 40;

/// What is searched, before what the configuration says.
const FIRST: &[u8] = b"/first";

/// Something in a root.
enum Node {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// Reads an input as a line for each thing in a root: `lib PATH SONAME`, `link PATH TARGET`, `file PATH TEXT`, `dir PATH`,
/// and `conf TEXT` for a line of `/etc/ld.so.conf`.
pub fn check(data: &[u8]) {
    let Some(nodes) = nodes(data) else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    make(dir.path(), nodes).expect("a root");
    let root = Root::at(dir.path()).expect("a directory");
    // Links are made in the first run, and may lead to others in the second, or be files of the configuration.
    let Some(mut last) = whole(&root) else { return };
    for _ in 0..3 {
        let again = whole(&root).expect("what was done before");
        if mem::replace(&mut last, again).cache == last.cache {
            return settled(&root, &dir.path().join(&CACHE[1..]), &last);
        }
    }
}

/// Nothing changes any more: an incremental update has nothing to do either.
fn settled(root: &Root, path: &Path, made: &Made) {
    let cache = Cache::parse(&made.cache).expect("a cache");
    assert_eq!(cache.len(), made.entries);
    assert!(cache.entries().all(|entry| entry.is_ok()));
    // A link in its place, or on the way, leads into the root of the machine that runs this: nothing is written through one.
    let etc = path.parent().expect("a file below a directory");
    let fresh = !etc.is_symlink() && (fs::remove_file(path).is_ok() || !path.is_dir());
    let file = fresh.then(|| fs::File::create_new(path));
    let Some(Ok(mut file)) = file else { return };
    file.write_all(&made.cache).expect("a file to write");
    // The cache itself may be a file that the configuration includes.
    let Some(made) = whole(root) else { return };
    let lines = lines(root).expect("what was read before");
    let dirs = Dirs { lines: &lines, added: &[] };
    let again = incremental(root, dirs, &mut RealLinks, later()).expect("a cache is there");
    assert!(again.cache == made.cache, "incremental: {:?}", again.fallback);
    assert!(again.fallback.is_some() || again.opened <= made.opened);
    let dirs = Dirs { added: &["/first", "/lib"], ..dirs };
    let all = incremental(root, dirs, &mut RealLinks, later());
    assert!(all.is_ok_and(|all| all.cache == made.cache), "with directories to look at");
}

/// What the full engine makes of a root, if it can.
fn whole(root: &Root) -> Option<Made> {
    let lines = lines(root)?;
    full(root, Dirs { lines: &lines, added: &[] }, &mut RealLinks, later()).ok()
}

fn lines(root: &Root) -> Option<Vec<Vec<u8>>> {
    let configured = ld_so_conf::dir_lines(root).ok()?;
    Some([vec![FIRST.to_owned()], configured].concat())
}

/// What an input says, without what could not be made.
fn nodes(data: &[u8]) -> Option<BTreeMap<Vec<u8>, Node>> {
    let mut nodes: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    let mut conf = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default().to_vec();
        let (kind, path, rest) = (word(), plain(&word()), word());
        let node = match &kind[..] {
            b"lib" => Node::File(library(&rest)),
            b"file" => Node::File(rest),
            b"link" if !rest.is_empty() => Node::Link(rest),
            b"dir" => Node::Directory,
            b"conf" => {
                conf.extend(line.get(5..).unwrap_or_default().iter().chain(b"\n"));
                continue;
            }
            _ => continue,
        };
        let short = path.split(|byte| *byte == b'/').all(|part| part.len() < 100);
        if short && path.len() < 1000 && !path.contains(&0) && !line.contains(&0) {
            nodes.insert(path, node);
        }
    }
    nodes.insert(b"/etc/ld.so.conf".into(), Node::File(conf));
    nodes.remove(&b""[..]);
    (nodes.len() <= MOST).then_some(nodes)
}

/// Makes what is in it, parents first. No parent is a link, so that nothing is made elsewhere.
fn make(root: &Path, nodes: BTreeMap<Vec<u8>, Node>) -> io::Result<()> {
    for (path, node) in &nodes {
        let mut parents = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        let blocked = parents.any(|(end, _)| {
            nodes.get(&path[..end]).is_some_and(|parent| !matches!(parent, Node::Directory))
        });
        if blocked {
            continue;
        }
        let path = root.join(OsStr::from_bytes(&path[1..]));
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        match node {
            Node::Directory => fs::create_dir_all(&path)?,
            Node::File(bytes) => fs::write(&path, bytes)?,
            Node::Link(target) => symlink(OsStr::from_bytes(target), &path)?,
        }
    }
    Ok(())
}

/// A library of this machine with a SONAME.
fn library(soname: &[u8]) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    file.extend(machine.to_ne_bytes());
    file.resize(32, 0);
    file.extend(64u64.to_ne_bytes());
    file.resize(54, 0);
    file.extend([56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    for (kind, offset, size) in [(1u32, 0u64, 4096u64), (2, 176, 48)] {
        file.extend(kind.to_ne_bytes());
        file.extend(4u32.to_ne_bytes());
        [offset, offset, 0, size, size, 8].iter().for_each(|word| file.extend(word.to_ne_bytes()));
    }
    let tag = if soname.is_empty() { 30u64 } else { 14 };
    [tag, 1, 5, 224, 0, 0].iter().for_each(|word: &u64| file.extend(word.to_ne_bytes()));
    [&file[..], b"\0", soname, b"\0"].concat()
}

/// Changes links in a root, as the hook does.
struct RealLinks;

impl RealLinks {
    fn path(dir: &Dir, name: &[u8]) -> io::Result<PathBuf> {
        let dir = fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()))?;
        Ok(dir.join(OsStr::from_bytes(name)))
    }
}

impl Links for RealLinks {
    fn make(&mut self, dir: &Dir, name: &[u8], target: &[u8]) -> io::Result<()> {
        assert!(!name.contains(&b'/') && !target.contains(&b'/'), "a link to elsewhere");
        symlink(OsStr::from_bytes(target), Self::path(dir, name)?)
    }

    fn remove(&mut self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        let path = Self::path(dir, name)?;
        assert!(path.is_symlink(), "only links are removed");
        fs::remove_file(path)
    }
}

/// A time that is not reached.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
