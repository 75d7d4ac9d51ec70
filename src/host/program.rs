//! [`Program`]: this program's own file, its digest and its name, and the proof that a copy of it runs.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::directory::{Directory, MODE, is_intact};
use super::version;

/// How long a copy may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// SELinux's label of programs that every domain may execute, where the policy has no other for the directory.
const LABEL: &[u8] = b"system_u:object_r:bin_t:s0\0";

/// The file that this process executes.
#[derive(Debug)]
pub(super) struct Program {
    file: File,
    size: u64,
    digest: [u8; 32],
}

impl Program {
    /// Opens the file, even if it has been renamed or removed since, and reads it.
    pub(super) fn own() -> Result<Self> {
        let file = File::open("/proc/self/exe").context("open this program")?;
        let size = file.metadata().context("stat this program")?.len();
        // Who executes a file can't change it, and nobody else can (execve(2), ETXTBSY).
        static OWN: OnceLock<[u8; 32]> = OnceLock::new();
        let digest = match OWN.get() {
            Some(digest) => *digest,
            None => {
                let digest = digest(&file).context("read this program")?;
                *OWN.get_or_init(|| digest)
            }
        };
        Ok(Self { file, size, digest })
    }

    /// The name under which it is installed.
    pub(super) fn name(&self) -> String {
        version::name(&self.digest)
    }

    /// Is this file a whole copy, with the right owner and mode?
    pub(super) fn is(&self, file: &File) -> Result<bool> {
        let same = is_intact(file)? && file.metadata()?.len() == self.size;
        Ok(same && digest(file)? == self.digest)
    }

    /// Copies it to a file in `dir`, and to the disk. What SELinux refuses is returned, for the file may do without.
    pub(super) fn copy(&self, dir: &Directory, name: &str) -> Result<Option<String>> {
        let path = dir.join(name);
        let mut copy = dir.create(name)?;
        (&self.file).rewind().context("read this program")?;
        io::copy(&mut &self.file, &mut copy)
            .with_context(|| format!("write {}", path.display()))?;
        // Whatever the umask was.
        rustix::fs::fchmod(&copy, MODE)
            .with_context(|| format!("set mode of {}", path.display()))?;
        let refused = label(&copy);
        copy.sync_all().with_context(|| format!("write {} to the disk", path.display()))?;
        let whole = dir.file(name)?.map(|file| self.is(&file)).transpose()?;
        ensure!(whole == Some(true), "{} is not what was written", path.display());
        Ok(refused)
    }
}

fn digest(mut file: &File) -> io::Result<[u8; 32]> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
    file.rewind()?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Labels a program where the kernel has SELinux, whose policy may forbid runtimes to execute what a container wrote.
fn label(file: &File) -> Option<String> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("selinuxfs") {
        return None;
    }
    let flags = rustix::fs::XattrFlags::empty();
    let refused = rustix::fs::fsetxattr(file, "security.selinux", LABEL, flags).err();
    refused.map(|error| format!("SELinux label bin_t refused: {error}"))
}

/// Runs a copy once: a filesystem without execution, a truncated file, or a label that forbids it, is found before any
/// container depends on it.
pub(super) fn try_out(dir: &Directory, name: &str) -> Result<()> {
    let context = || match dir.is_noexec() {
        true => format!("execute a file in {}, which is mounted noexec", dir.path().display()),
        false => format!("execute {}", dir.join(name).display()),
    };
    let mut child = start(dir, name).with_context(context)?;
    let status = wait(&mut child).with_context(context)?;
    let mut said = String::new();
    let out = child.stdout.take().map(|out| out.take(1 << 10).read_to_string(&mut said));
    out.transpose().with_context(context)?;
    let expected = concat!("nri-ldcache ", env!("CARGO_PKG_VERSION"), "\n");
    ensure!(said == expected, "{}: {status}, it said {said:?}, not {expected:?}", context());
    Ok(())
}

/// Any process that forks while a file is open for writing keeps it so until it executes something else (execve(2), ETXTBSY).
fn start(dir: &Directory, name: &str) -> io::Result<Child> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new(dir.executable(name));
        command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
        match command.stdout(Stdio::piped()).spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < end =>
            {
                sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("it does not end");
        }
        sleep(Duration::from_millis(1));
    }
}
