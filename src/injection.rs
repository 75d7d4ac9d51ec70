//! [`Injection`]: the hook as it is put into a container, and the file on the host that it will run.

use std::fmt;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use nri::api::{ContainerAdjustment, Hook, OptionalInt};
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::update::Update;

/// What a hook has on top of the refresh's own limit: to read its input, and to say that the limit was reached.
const GRACE: Duration = Duration::from_secs(5);

/// How hooks are injected.
#[derive(Debug)]
pub struct Injection {
    /// The program's path on the host.
    path: String,
    /// The same file as this process sees it.
    seen: PathBuf,
    /// In whole seconds: the runtime kills a hook that takes longer.
    timeout: i64,
    /// The file that was found to be this program, open and locked.
    verified: Mutex<Option<(Identity, File)>>,
}

/// What tells a file from another that took its place (stat(2)): device, inode, size, time of modification and of change.
type Identity = (u64, u64, u64, i64, i64, i64, i64);

/// Why nothing can be injected.
#[derive(Debug)]
pub struct Fault {
    word: &'static str,
    error: Error,
}

impl Fault {
    /// Every word.
    pub const WORDS: [&str; 5] =
        ["not-installed", "missing", "not-executable", "other-program", "being-removed"];

    /// It could not be put there, or could not be executed.
    pub fn not_installed(why: &str) -> Self {
        Self { word: "not-installed", error: Error::msg(why.to_owned()) }
    }

    /// The fault as one word, for metrics.
    pub fn word(&self) -> &'static str {
        self.word
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Fault {}

impl Injection {
    /// The name under which a hook is executed, by which it is known again.
    pub const NAME: &str = "nri-ldcache";

    /// Hooks that run the program at `path` of the host, whose root is seen at `host_root`.
    pub fn new(path: &Path, host_root: &Path, timeout: Duration) -> Result<Self> {
        let name = path.display();
        let below =
            path.strip_prefix("/").with_context(|| format!("hook path {name} is not absolute"))?;
        let text = path.to_str().with_context(|| format!("hook path {name} is not UTF-8"))?;
        Ok(Self {
            path: text.to_owned(),
            seen: host_root.join(below),
            timeout: (timeout + GRACE).as_secs() as i64,
            verified: Mutex::new(None),
        })
    }

    /// The program's path on the host.
    pub fn path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// The file as this process sees it.
    pub fn seen(&self) -> &Path {
        &self.seen
    }

    /// Is the file on the host there, executable, and this very program? A hook that can't be run stops every container
    /// that has it, so nothing may be injected then.
    ///
    /// It costs one stat(2) and one statvfs(3) while the file is the one that was found good before. That one is held open
    /// with a shared flock(2), so that who removes old versions sees that this one is in use; it works on a read-only mount,
    /// too.
    pub fn verify(&self) -> Result<(), Fault> {
        self.is_this_program()?;
        self.is_mounted_executable()
    }

    fn is_this_program(&self) -> Result<(), Fault> {
        let name = self.seen.display();
        let mut verified = self.verified.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = fs::metadata(&self.seen).with_context(|| format!("find hook {name}"));
        if let (Ok(meta), Some((good, _))) = (&found, &*verified)
            && identity(meta) == *good
        {
            return Ok(());
        }
        *verified = None;
        let meta = found.map_err(|error| Fault { word: "missing", error })?;
        *verified = Some((identity(&meta), self.ours(&meta)?));
        Ok(())
    }

    /// By the path, and each time: a mount that is made noexec, or another one over it, leaves the file as it was.
    fn is_mounted_executable(&self) -> Result<(), Fault> {
        match statvfs(&self.seen) {
            Ok(mount) if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) => {
                let error = anyhow!("hook {} is mounted noexec", self.seen.display());
                Err(Fault { word: "not-executable", error })
            }
            _ => Ok(()),
        }
    }

    /// The file, open and locked, if it is this program.
    fn ours(&self, meta: &Metadata) -> Result<File, Fault> {
        let name = self.seen.display();
        let fault = |word| move |error| Fault { word, error };
        let other = fault("other-program");
        if !meta.is_file() {
            return Err(other(anyhow!("hook {name} is not a regular file")));
        }
        if meta.permissions().mode() & 0o111 != 0o111 {
            return Err(fault("not-executable")(anyhow!("hook {name} is not executable for all")));
        }
        let mut file = File::open(&self.seen)
            .with_context(|| format!("open hook {name}"))
            .map_err(fault("missing"))?;
        // A file system without locks is no reason not to inject: what they are for is to be polite to `install`.
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(fault("being-removed")(anyhow!("hook {name} is being removed")));
        }
        let opened = file.metadata().is_ok_and(|opened| identity(&opened) == identity(meta));
        let ours = opened.then(|| same(&mut file, Path::new("/proc/self/exe"))).transpose();
        match ours.with_context(|| format!("compare hook {name}")).map_err(other)? {
            Some(true) => Ok(file),
            Some(false) => Err(other(anyhow!(
                "hook {name} is another program, or another version of this one"
            ))),
            None => Err(fault("being-removed")(anyhow!("hook {name} is being replaced"))),
        }
    }

    /// The hook that does `update`. Its environment is set, for without one runc would give it the container's, and with
    /// it whatever `LD_PRELOAD` the image has (CVE-2025-23266).
    pub fn hook(&self, update: &Update) -> Hook {
        let args =
            ["nri-ldcache", Update::COMMAND].map(str::to_owned).into_iter().chain(update.to_args());
        Hook {
            path: self.path.clone(),
            args: args.collect(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            timeout: Some(OptionalInt { value: self.timeout, ..OptionalInt::default() }).into(),
            ..Hook::default()
        }
    }

    /// The adjustment that adds the hook, and nothing else that could conflict with another plugin.
    pub fn adjustment(&self, update: &Update) -> ContainerAdjustment {
        let mut adjustment = ContainerAdjustment::default();
        adjustment.hooks.mut_or_insert_default().create_container.push(self.hook(update));
        adjustment
    }
}

fn identity(meta: &Metadata) -> Identity {
    (
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// Have both files the same content?
fn same(one: &mut File, other: &Path) -> Result<bool> {
    let mut other = File::open(other)?;
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = ([0; 16 << 10], [0; 16 << 10]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn only_this_program_is_injected() {
        let host = tempfile::tempdir().unwrap();
        let file = host.path().join("hook");
        let injection =
            Injection::new(Path::new("/hook"), host.path(), Duration::from_secs(10)).unwrap();
        let error = |injection: &Injection| format!("{:#}", injection.verify().unwrap_err());
        assert!(error(&injection).starts_with("find hook"), "{}", error(&injection));
        fs::copy("/proc/self/exe", &file).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert!(error(&injection).contains("not executable"));
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        injection.verify().unwrap();
        injection.verify().unwrap();
        fs::write(&file, "").unwrap();
        assert!(error(&injection).contains("another program"), "{}", error(&injection));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(error(&injection).contains("not a regular file"));
    }

    #[test]
    fn the_file_is_locked_while_it_is_the_one_that_is_injected() {
        let host = tempfile::tempdir().unwrap();
        let (file, old) = (host.path().join("hook"), host.path().join("old"));
        fs::copy("/proc/self/exe", &file).unwrap();
        let injection =
            || Injection::new(Path::new("/hook"), host.path(), Duration::from_secs(10)).unwrap();
        let (one, another) = (injection(), injection());
        one.verify().unwrap();
        another.verify().unwrap();
        let locked = |path: &Path| File::open(path).unwrap().try_lock().is_err();
        assert!(locked(&file), "nobody holds it");
        // An upgrade in place: the lock goes where the name goes.
        fs::rename(&file, &old).unwrap();
        fs::copy("/proc/self/exe", &file).unwrap();
        one.verify().unwrap();
        another.verify().unwrap();
        assert!(locked(&file) && !locked(&old));
        fs::remove_file(&old).unwrap();
        drop((one, another));
        let remover = File::open(&file).unwrap();
        remover.try_lock().unwrap();
        let fault = injection().verify().unwrap_err();
        assert_eq!((fault.word(), Fault::WORDS.contains(&fault.word())), ("being-removed", true));
        drop(remover);
        injection().verify().unwrap();
    }

    #[test]
    fn the_hook_has_arguments_an_environment_and_a_limit_above_its_own() {
        let injection =
            Injection::new(Path::new("/opt/x"), Path::new("/host"), Duration::from_secs(10))
                .unwrap();
        let mut update = Update::default();
        update.add("/a".parse().unwrap()).unwrap();
        let adjustment = injection.adjustment(&update);
        let [hook] = &adjustment.hooks.create_container[..] else { panic!("{adjustment:?}") };
        assert_eq!((hook.path.as_str(), hook.timeout.value), ("/opt/x", 15));
        assert_eq!(hook.args, ["nri-ldcache", "update-ldcache", "--folder=/a"]);
        assert!(!hook.env.is_empty());
        assert!(Injection::new(Path::new("x"), Path::new("/"), GRACE).is_err());
    }
}
