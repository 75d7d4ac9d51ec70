//! Images that are too much: too many, too large, too deep, too full, too odd.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use super::cache;
use super::elf::shared_object;
use super::expected::Expected::{self, InTime, Unchanged, Updated};
use super::object::{bind, change};
use super::victim::Victim;
use crate::gpu;

/// An image that costs.
pub(crate) struct Extreme {
    pub(crate) name: &'static str,
    /// Options of the tmpfs that it lies on.
    pub(crate) size: &'static str,
    pub(crate) prepare: fn(&Victim) -> Result<()>,
    pub(crate) expected: Expected,
}

impl fmt::Debug for Extreme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn extreme(
    name: &'static str,
    prepare: fn(&Victim) -> Result<()>,
    expected: Expected,
) -> Extreme {
    Extreme { name, size: "size=1g,nr_inodes=0", prepare, expected }
}

const CACHE: &str = "/etc/ld.so.cache";
const CONF: &str = "/etc/ld.so.conf";

impl Extreme {
    pub(crate) const ALL: &[Self] = &[
        extreme("includes in a loop", include_loop, Updated),
        extreme("includes in loops within loops", include_loops, Unchanged("1000 files")),
        extreme("2,000 files in ld.so.conf.d", many_includes, Unchanged("1000 files")),
        extreme("20,000 names in ld.so.conf.d", many_names, Unchanged("/etc/ld.so.conf.d")),
        extreme("a glob bomb over 900 directories", glob_bomb, Unchanged("include /*/*/*")),
        extreme("a glob bomb without a wildcard's end", dots, Unchanged("include /*/../*")),
        extreme("lines of 64 KiB and more", long_lines, Updated),
        extreme("a configuration of 2 MiB", large_conf, Unchanged("read /etc/ld.so.conf: larger")),
        extreme("10,000 directories that are not there", many_dirs, Updated),
        extreme("tabs, hwcap and comments", odd_lines, Updated),
        extreme("CRLF", |victim| conf(victim, "include /etc/ld.so.conf.d/*.conf\r\n"), Updated),
        extreme("INCLUDE", |victim| conf(victim, "INCLUDE /etc/ld.so.conf.d/*.conf\n"), Updated),
        extreme("include [^0]*", |victim| conf(victim, "include ld.so.conf.d/[^0]*\n"), Updated),
        extreme(
            "include /**",
            |victim| conf(victim, "include /**/00-nvcr-ldcache.conf\ninclude /**/zz*.conf\n"),
            Updated,
        ),
        extreme("DIR=TYPE", |victim| base(victim, "/opt/driver=libc6\n"), Updated),
        extreme("DIR and a Unicode blank", |victim| base(victim, "/opt/driver\u{a0}\n"), Updated),
        extreme("DIR and a NUL", |victim| base(victim, "/opt/driver\0x\n"), Updated),
        extreme("names that are not UTF-8", not_utf8, Updated),
        extreme("a library of 1 TiB", sparse_library, Updated),
        extreme("libraries that are none", broken_libraries, Updated),
        extreme("objects that are no files as libraries", odd_libraries, Updated),
        extreme("a library that is a link to a FIFO", fifo_library, Updated),
        extreme("5,000 libraries", |victim| many_libraries(victim, 5000), Updated),
        extreme("99,000 libraries", |victim| many_libraries(victim, 99_000), InTime),
        extreme("a SONAME into a volume", |victim| soname(victim, b"../../../vol/x.so.1"), Updated),
        extreme("an absolute SONAME", |victim| soname(victim, b"/vol/x.so.1"), Updated),
        extreme("a SONAME into /etc", |victim| soname(victim, b"../../../etc/passwd"), Updated),
        extreme("a SONAME that is ..", |victim| soname(victim, b".."), Updated),
        extreme("an empty SONAME", |victim| soname(victim, b""), Updated),
        extreme("a SONAME with a newline", |victim| soname(victim, b"libx\n.so.1"), Updated),
        extreme("a SONAME of 4 KiB", |victim| soname(victim, &[b'a'; 4096]), Updated),
        extreme("a SONAME that is not UTF-8", |victim| soname(victim, b"lib\xff.so.1"), Updated),
        extreme("a cache of 1 TiB", |victim| cache::sparse(&victim.path(CACHE)), Updated),
        extreme("a cache that ends early", |victim| cache::cut(&victim.path(CACHE)), Updated),
        extreme("a cache of 2^32 entries", |victim| cache::countless(&victim.path(CACHE)), Updated),
        extreme("a cache that points outside", |victim| cache::wild(&victim.path(CACHE)), Updated),
        extreme("a cache of other paths", |victim| cache::lying(&victim.path(CACHE)), Updated),
        extreme("an ld.so.preload", preload, Updated),
        extreme("a root on a read-only filesystem", read_only, Unchanged("ead-only file system")),
        extreme("a root that its runtime made read-only", made_read_only, Updated),
        Extreme { size: "size=8m", ..extreme("a full disk", full, Unchanged("space left")) },
        Extreme {
            size: "size=64m,nr_inodes=200",
            ..extreme("a disk without inodes", no_inodes, Unchanged("space left"))
        },
    ];

    /// glibc's own program opens what a link leads to, and waits for a FIFO's writer until its time is up.
    pub(crate) fn expected_of_ldconfig(&self) -> Expected {
        match self.name {
            "a library that is a link to a FIFO" => Unchanged("its time was up"),
            _ => self.expected,
        }
    }
}

fn include_loop(victim: &Victim) -> Result<()> {
    let a = "include /etc/ld.so.conf\n";
    Ok(fs::write(victim.path("/etc/ld.so.conf.d/a.conf"), a)?)
}

/// Each file includes itself twice: 2^n readings in a depth of n.
fn include_loops(victim: &Victim) -> Result<()> {
    fs::write(victim.path(CONF), "include ld.so.conf.d/*.conf\ninclude /etc/ld.so.conf\n")?;
    let a = "include /etc/ld.so.conf\ninclude b.conf\n";
    fs::write(victim.path("/etc/ld.so.conf.d/a.conf"), a)?;
    Ok(fs::write(victim.path("/etc/ld.so.conf.d/b.conf"), "include a.conf\n")?)
}

fn many_includes(victim: &Victim) -> Result<()> {
    names(victim, 2000, "conf")
}

fn many_names(victim: &Victim) -> Result<()> {
    names(victim, 20_000, "txt")
}

fn names(victim: &Victim, count: u32, suffix: &str) -> Result<()> {
    let dir = victim.path("/etc/ld.so.conf.d");
    (0..count).try_for_each(|i| Ok(fs::write(dir.join(format!("n{i}.{suffix}")), "")?))
}

fn glob_bomb(victim: &Victim) -> Result<()> {
    for i in 0..900 {
        fs::create_dir_all(victim.path(&format!("/bomb{}/b{i}/c", i % 30)))?;
    }
    Ok(fs::write(victim.path(CONF), "include /*/*/*/../../*/*/../../*/*/*.conf\n")?)
}

fn dots(victim: &Victim) -> Result<()> {
    Ok(fs::write(victim.path(CONF), format!("include {}x.conf\n", "/*/..".repeat(30) + "/"))?)
}

fn long_lines(victim: &Victim) -> Result<()> {
    let conf = format!(
        "#{}\n/{}\n{}\ninclude /etc/ld.so.conf.d/*.conf\n",
        "c".repeat(70_000),
        "d/".repeat(40_000),
        " ".repeat(100_000)
    );
    Ok(fs::write(victim.path(CONF), conf)?)
}

fn large_conf(victim: &Victim) -> Result<()> {
    Ok(fs::write(victim.path(CONF), "/lib\n".repeat(400_000))?)
}

fn many_dirs(victim: &Victim) -> Result<()> {
    let dirs: String = (0..10_000).map(|i| format!("/nowhere/{i}\n")).collect();
    Ok(fs::write(victim.path("/etc/ld.so.conf.d/dirs.conf"), dirs)?)
}

fn odd_lines(victim: &Victim) -> Result<()> {
    let lines =
        "\n\t/a\t# why\r\nhwcap 0 nosegneg\r\n/b=libc6\r\n\x0b/c\nrelative\n=\n#\ninclude\n";
    conf(victim, &format!("{lines} include\t/etc/ld.so.conf.d/*.conf\t/nowhere/[*\n"))
}

fn conf(victim: &Victim, text: &str) -> Result<()> {
    Ok(fs::write(victim.path(CONF), text)?)
}

/// A file of the image's configuration that is included.
fn base(victim: &Victim, text: &str) -> Result<()> {
    Ok(fs::write(victim.path("/etc/ld.so.conf.d/base.conf"), text)?)
}

fn not_utf8(victim: &Victim) -> Result<()> {
    let name = OsStr::from_bytes(b"/\xff\xfe").to_owned();
    let dir = victim.root().join(OsStr::from_bytes(&name.as_bytes()[1..]));
    fs::create_dir(&dir)?;
    fs::write(dir.join(OsStr::from_bytes(b"lib\xff.so.1")), shared_object(b"lib\xff.so.1"))?;
    fs::write(victim.path("/etc/ld.so.conf.d").join(OsStr::from_bytes(b"\xff.conf")), "/lib\n")?;
    let mut conf = File::create(victim.path("/etc/ld.so.conf.d/bytes.conf"))?;
    Ok(conf.write_all(&[name.as_bytes(), b"\ninclude /\xff*\n"].concat())?)
}

fn library(victim: &Victim, name: &str) -> std::path::PathBuf {
    victim.path(&gpu::directory()).join(name)
}

fn sparse_library(victim: &Victim) -> Result<()> {
    let path = library(victim, "libsparse.so.1");
    fs::write(&path, shared_object(b"libsparse.so.1"))?;
    File::options().write(true).open(&path)?.set_len(1 << 40)?;
    Ok(File::create(library(victim, "libzero.so.1"))?.set_len(1 << 40)?)
}

fn broken_libraries(victim: &Victim) -> Result<()> {
    let whole = shared_object(b"libbroken.so.1");
    for length in 0..whole.len() {
        fs::write(library(victim, &format!("libcut{length}.so.1")), &whole[..length])?;
    }
    // Each byte at its most: offsets and sizes that point far outside.
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] = 0xff;
        fs::write(library(victim, &format!("libff{at}.so.1")), bytes)?;
    }
    Ok(fs::write(library(victim, "libtext.so"), "/* GNU ld script */ INPUT(/vol/x)")?)
}

fn odd_libraries(victim: &Victim) -> Result<()> {
    let all = Mode::from_bits_truncate(0o666);
    mkfifo(&library(victim, "libfifo.so.1"), all)?;
    mknod(&library(victim, "libzero.so.1"), SFlag::S_IFCHR, all, makedev(1, 5))?;
    fs::create_dir(library(victim, "libdir.so.1"))?;
    for (name, target) in [
        ("libloop.so.1", "libloop.so.1"),
        ("libvol.so.1", "/vol/etc/ld.so.cache"),
        ("libproc.so.1", "/proc/1/root/etc/passwd"),
        ("libfd.so.1", "/proc/self/fd/0"),
    ] {
        symlink(target, library(victim, name))?;
    }
    Ok(())
}

fn fifo_library(victim: &Victim) -> Result<()> {
    mkfifo(&library(victim, "fifo"), Mode::from_bits_truncate(0o666))?;
    Ok(symlink("fifo", library(victim, "libfifo.so.1"))?)
}

fn many_libraries(victim: &Victim, count: u32) -> Result<()> {
    for i in 0..count {
        let soname = format!("libmany{i}.so.1");
        fs::write(library(victim, &soname), shared_object(soname.as_bytes()))?;
    }
    Ok(())
}

fn soname(victim: &Victim, soname: &[u8]) -> Result<()> {
    Ok(fs::write(library(victim, "libevil.so.1.0"), shared_object(soname))?)
}

fn preload(victim: &Victim) -> Result<()> {
    fs::write(victim.path("/usr/lib/preload.so"), shared_object(b"preload.so"))?;
    Ok(fs::write(victim.path("/etc/ld.so.preload"), "/usr/lib/preload.so\n")?)
}

fn read_only(victim: &Victim) -> Result<()> {
    let root = victim.root();
    let filesystem = root.parent().context("a root lies in its bundle")?;
    change(filesystem, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
}

fn made_read_only(victim: &Victim) -> Result<()> {
    let root = victim.root();
    bind(&root.to_string_lossy(), &root)?;
    change(&root, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY)
}

fn full(victim: &Victim) -> Result<()> {
    let mut file = File::create(victim.path("/filler"))?;
    while file.write_all(&[b'x'; 4096]).is_ok() {}
    Ok(())
}

fn no_inodes(victim: &Victim) -> Result<()> {
    let mut count = 0;
    while File::create(victim.path(&format!("/filler{count}"))).is_ok() {
        count += 1;
    }
    Ok(())
}
