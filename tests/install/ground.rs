//! A host root to install on, and versions of the program to install.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest, Sha256};

use crate::shell;

/// A version of the program.
#[derive(Clone, Debug)]
pub(super) struct Program(PathBuf);

impl Program {
    /// The program that is tested, without what is there for debuggers: most of its bytes.
    pub(super) fn first() -> Result<&'static Self> {
        static FIRST: OnceLock<Result<Program, String>> = OnceLock::new();
        let strip = || {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nri-ldcache");
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_nri-ldcache"));
            shell::output(&mut strip)?;
            anyhow::Ok(Self(path))
        };
        let first = FIRST.get_or_init(|| strip().map_err(|error| format!("{error:#}")));
        first.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Another, that differs in bytes behind its end.
    pub(super) fn other(suffix: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nri-ldcache-{suffix}"));
        let mut bytes = fs::read(&Self::first()?.0)?;
        bytes.extend(suffix.as_bytes());
        let [written, new] = ["written", "new"].map(|extension| path.with_extension(extension));
        fs::write(&written, bytes)?;
        fs::set_permissions(&written, fs::metadata(&Self::first()?.0)?.permissions())?;
        shell::copy(&written, &new)?;
        fs::remove_file(&written)?;
        // It may be running.
        fs::rename(&new, &path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The name that it must have.
    pub(super) fn name(&self) -> Result<String> {
        let digest = Sha256::digest(fs::read(&self.0)?);
        let digits: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("nri-ldcache-{}-{digits}", env!("CARGO_PKG_VERSION")))
    }

    /// Is the file at `path` this one, and does it run?
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let meta = fs::symlink_metadata(path).with_context(|| format!("{}", path.display()))?;
        ensure!(meta.is_file() && meta.len() == fs::metadata(&self.0)?.len(), "{meta:?}");
        ensure!(meta.permissions().mode() & 0o7777 == 0o755, "{meta:?}");
        shell::output(Command::new(path).arg("--version"))?;
        Ok(())
    }
}

/// The root of a host, with an empty `/opt`.
#[derive(Debug)]
pub(super) struct Ground(tempfile::TempDir);

impl Ground {
    pub(super) fn new() -> Result<Self> {
        let ground = Self(tempfile::tempdir()?);
        fs::create_dir(ground.root().join("opt"))?;
        Ok(ground)
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where the program is installed.
    pub(super) fn dir(&self) -> PathBuf {
        self.root().join("opt/nri-ldcache")
    }

    /// `nri-ldcache install`, as this version.
    pub(super) fn command(&self, program: &Program) -> Command {
        let mut command = Command::new(program.path());
        command.arg("install").arg("--host-root").arg(self.root()).env_clear();
        command
    }

    /// Installs, and returns the path as this process sees it.
    pub(super) fn install(&self, program: &Program) -> Result<PathBuf> {
        let path = shell::output(&mut self.command(program))?;
        Ok(self.root().join(path.trim_end().trim_start_matches('/')))
    }

    /// Installs, which must fail, and returns what was said.
    pub(super) fn refused(&self, program: &Program) -> Result<String> {
        let said = failed(self.command(program).output()?)?;
        Ok(said.replace(&self.root().display().to_string(), ""))
    }

    pub(super) fn uninstall(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(Program::first()?.path());
        command.arg("uninstall").arg("--host-root").arg(self.root()).args(args).env_clear();
        Ok(command)
    }

    /// The names in the directory.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(self.dir()) else { return Ok(Vec::new()) };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    pub(super) fn empty(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.dir())?)
    }

    /// Everything there is, with times of change, but for those of directories.
    pub(super) fn tree(&self) -> Result<String> {
        let mut find = Command::new("find");
        find.arg(self.root());
        find.args([
            "-type",
            "d",
            "-printf",
            r"%p %m %U:%G\n",
            "-o",
            "-printf",
            r"%p %y %m %U:%G %s %T@ %C@ %l\n",
        ]);
        let mut lines: Vec<_> = shell::output(&mut find)?.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines.join("\n"))
    }
}

/// The one line that a command said that failed.
pub(super) fn failed(output: Output) -> Result<String> {
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    ensure!(said.lines().count() == 1 && output.stdout.is_empty(), "{said}");
    Ok(said.trim_end().to_owned())
}
