//! [`Ldconfig`]: the host's ldconfig as a sealed copy in memory, and its execution inside the jail.
//!
//! What runs in a stranger's filesystem must not be a file of the host that somebody in there could reach and write
//! (CVE-2024-0135, and runc's CVE-2019-5736), so it is a memfd with every seal. It must not load code of the image
//! either: a program with an interpreter would take the image's own dynamic loader, so only a static one is accepted.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::wait::WaitStatus;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, fexecve};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::jail::{Changes, Child, Confined, readable, restrict_to_ldconfig};

/// Most bytes of an ldconfig; Debian's has 1 MiB.
const SIZE_LIMIT: u64 = 64 << 20;

/// Bytes kept of what it says, and characters of its last line.
const STDERR_LIMIT: usize = 16 << 10;
const REASON_LIMIT: usize = 400;

/// A sealed copy of ldconfig.
#[derive(Debug)]
pub struct Ldconfig {
    program: File,
    /// The host's `/dev/null`: there are no devices where the program will run.
    null: File,
}

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
        let null = File::options().read(true).write(true).open("/dev/null");
        Ok(Self { program: copy, null: null.context("open /dev/null")? })
    }

    /// Runs ldconfig, which writes `/etc/ld.so.cache` of the jail, until `end` at most. Its environment is empty.
    ///
    /// `dirs` are searched before those of `/etc/ld.so.conf` (ldconfig(8)).
    pub fn run(
        &self,
        confined: &Confined,
        changes: &mut Changes<'_>,
        dirs: &[String],
        end: Instant,
    ) -> Result<()> {
        // ldconfig's own words for what is in its way are few.
        changes.expect_file(Path::new("/etc/ld.so.cache~"))?;
        changes.expect_no_directory(Path::new("/etc/ld.so.cache"))?;
        changes.expect(Path::new("/etc"), is_temporary)?;
        let (mut stderr, writer) = pipe().context("make pipe")?;
        let child = Child::spawn(|| {
            let Err(error) = self.become_it(confined, &writer, dirs);
            let _ = writeln!(&writer, "{error:#}");
            1
        });
        let child = child.context("fork")?;
        drop(writer);
        let said = listen(&mut stderr, end);
        let status = child.wait(end).context("wait for ldconfig")?;
        if status.is_none() {
            child.kill().context("kill ldconfig")?;
        }
        let said = said?;
        match status {
            Some(WaitStatus::Exited(_, 0)) => Ok(()),
            Some(WaitStatus::Exited(_, code)) => {
                bail!("ldconfig: {}", reason(&said, &format!("exit code {code}")))
            }
            Some(WaitStatus::Signaled(_, signal, _)) => bail!("ldconfig: killed by {signal}"),
            _ => bail!("ldconfig: killed, for its time was up"),
        }
    }

    fn become_it(&self, _: &Confined, stderr: &PipeWriter, dirs: &[String]) -> Result<Infallible> {
        let null = &self.null;
        dup2_stdin(null)
            .and_then(|()| dup2_stdout(null))
            .and_then(|()| dup2_stderr(stderr))
            .context("redirect")?;
        let fixed = ["ldconfig", "-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache"];
        let args = fixed.into_iter().chain(dirs.iter().map(String::as_str)).map(CString::new);
        let args = args.collect::<Result<Vec<_>, _>>().context("make arguments of ldconfig")?;
        // The list that holds already is the wider one: if this one can't be had, that one could not either, and was told.
        let _ = restrict_to_ldconfig();
        let env: [&CStr; 0] = [];
        fexecve(&self.program, &args, &env).context("execute ldconfig")
    }
}

/// Is this how ldconfig calls a cache that it has not finished? With a `~`, or since glibc 2.41 with a random suffix.
fn is_temporary(name: &[u8]) -> bool {
    let suffix = name.strip_prefix(b"ld.so.cache");
    suffix.is_some_and(|suffix| suffix == b"~" || (suffix.len() == 7 && suffix.starts_with(b".")))
}

/// Collects what ldconfig complains of: it has a warning for each odd file of an image, and the last lines have the reason.
fn listen(stderr: &mut PipeReader, end: Instant) -> Result<Vec<u8>> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while readable(stderr, end).context("poll ldconfig")? {
        let count = stderr.read(&mut buffer).context("read from ldconfig")?;
        if count == 0 {
            break;
        }
        said.extend_from_slice(&buffer[..count]);
        let excess = said.len().saturating_sub(STDERR_LIMIT);
        said.drain(..excess);
    }
    Ok(said)
}

/// The last line that was said, without what could hurt a terminal or a log, else `otherwise`.
fn reason(said: &[u8], otherwise: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let Some(line) = said.lines().rfind(|line| !line.trim().is_empty()) else {
        return otherwise.to_owned();
    };
    let mut reason = String::new();
    for character in line.chars().take(REASON_LIMIT) {
        match character.is_control() {
            true => reason.extend(character.escape_default()),
            false => reason.push(character),
        }
    }
    reason
}

/// The program behind an `--ldconfig-path`: Debian-like hosts have a shell script in front of `ldconfig.real`, and
/// NVIDIA's toolkit takes either name for both.
fn normalize(path: &Path) -> PathBuf {
    let Some(text) = path.to_str() else { return path.to_owned() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_and_harmless() {
        assert_eq!(reason(b"warning\nno space left\n\n", "x"), "no space left");
        assert_eq!(reason(b"\x1b[31mred\n", "x"), "\\u{1b}[31mred");
        assert_eq!(reason(b" \n", "exit code 1"), "exit code 1");
        assert_eq!(reason(&[b'a'; 5000], "x").len(), REASON_LIMIT);
    }
}
