//! [`Ldconfig`]: the host's ldconfig as a sealed copy in memory, and its execution inside the jail.
//!
//! What runs in a stranger's filesystem must not be a file of the host that somebody in there could reach and write
//! (CVE-2024-0135, and runc's CVE-2019-5736), so it is a memfd with every seal. It must not load code of the image
//! either: a program with an interpreter would take the image's own dynamic loader, so only a static one is accepted.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::unistd::fexecve;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::jail::Jail;

/// Most bytes of an ldconfig; Debian's has 1 MiB.
const SIZE_LIMIT: u64 = 64 << 20;

/// A sealed copy of ldconfig.
#[derive(Debug)]
pub struct Ldconfig(File);

impl Ldconfig {
    /// Copies the host's ldconfig at `path` into a sealed memfd.
    pub fn seal(path: &Path) -> Result<Self> {
        let path = normalize(path);
        let name = path.display();
        let mut host = File::open(&path).with_context(|| format!("open ldconfig {name}"))?;
        let meta = host.metadata().with_context(|| format!("stat ldconfig {name}"))?;
        ensure!(meta.is_file(), "ldconfig {name} is not a regular file");
        ensure!(
            meta.len() <= SIZE_LIMIT,
            "ldconfig {name} is larger than {} MiB",
            SIZE_LIMIT >> 20
        );
        let mut copy = File::from(anonymous_file().context("create memfd")?);
        io::copy(&mut (&mut host).take(SIZE_LIMIT), &mut copy)
            .with_context(|| format!("copy ldconfig {name}"))?;
        let seals = SealFlag::F_SEAL_SEAL
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).context("seal memfd")?;
        // Looked at after the seal: what was checked is what will be executed.
        refuse_interpreter(&mut copy).with_context(|| format!("check ldconfig {name}"))?;
        Ok(Self(copy))
    }

    /// Becomes ldconfig, which writes `/etc/ld.so.cache` of the jail. Its environment is empty.
    ///
    /// `dirs` are searched before those of `/etc/ld.so.conf` (ldconfig(8)).
    pub fn exec(self, _jail: &Jail, dirs: &[&str]) -> Result<Infallible> {
        let fixed = ["ldconfig", "-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache"];
        let args = fixed.iter().chain(dirs).map(|arg| CString::new(*arg));
        let args = args.collect::<Result<Vec<_>, _>>().context("make arguments of ldconfig")?;
        let env: [&CStr; 0] = [];
        fexecve(&self.0, &args, &env).context("execute ldconfig")
    }
}

/// The host path behind an `--ldconfig-path`: as NVIDIA's toolkit reads it, a leading `@` says "of the host", which here
/// is always so, and Debian-like hosts have a shell script in front of `ldconfig.real`.
fn normalize(path: &Path) -> PathBuf {
    let Some(text) = path.to_str() else { return path.to_owned() };
    let text = text.strip_prefix('@').unwrap_or(text);
    let plain = text.strip_suffix(".real").unwrap_or(text);
    let real = PathBuf::from(format!("{plain}.real"));
    if real.exists() { real } else { plain.into() }
}

/// An executable memfd. Kernels before 6.3 do not know `MFD_EXEC`, and make it executable anyway (memfd_create(2)).
fn anonymous_file() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("ldconfig", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("ldconfig", flags),
        done => done,
    }
}

/// Refuses what is no static ELF executable of this machine's byte order and class.
fn refuse_interpreter(file: &mut File) -> Result<()> {
    let mut header = [0; 64];
    file.seek(SeekFrom::Start(0))?;
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bail!("not an ELF file"),
        done => done?,
    }
    ensure!(!header.starts_with(b"#!"), "a script, not an ELF executable");
    ensure!(header.starts_with(b"\x7fELF"), "not an ELF file");
    ensure!(header[4] == 2 && header[5] == 1, "not a 64-bit little-endian ELF file");
    let offset = u64::from_le_bytes(header[32..40].try_into()?);
    let size = u16::from_le_bytes([header[54], header[55]]);
    let count = u16::from_le_bytes([header[56], header[57]]);
    ensure!(size == 56 && count > 0, "no program headers");
    let mut segments = vec![0; usize::from(size) * usize::from(count)];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut segments).context("read program headers")?;
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    ensure!(
        !segments.chunks_exact(56).any(|segment| segment.starts_with(&PT_INTERP)),
        "dynamically linked: it would load code of the container"
    );
    Ok(())
}
