//! [`Update`]: what one refresh of a linker cache shall do.
//!
//! The policy makes it in the daemon, it travels as arguments through somebody else's `config.json`, and arrives as the
//! same value in the hook. There is one codec: [`Update::to_args`] and [`Update::from_args`]. What people write, in all the ways in
//! which flags can be written, is read by clap's derived parser, with the same parsers of values.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::report::Report;

/// Longest path that Linux takes in a system call, with its final NUL (`PATH_MAX`, limits.h).
const PATH_MAX: usize = 4096;

/// Most directories that one update takes; a container's `ld.so.conf` has a handful.
const MAX_DIRS: usize = 256;

/// A directory of the *container* that the linker shall search: absolute and fit for one line of `ld.so.conf`(5).
///
/// The syntax of that file has no quoting, so what would end or change its line is refused: control characters (a
/// newline starts another line), `#` (a comment), `=` (the library type of older glibc, of which 2.36 is one) and blanks at the end,
/// which ldconfig strips. A comma separates the values of `--folder`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LibDir(String);

impl LibDir {
    /// The directory's path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LibDir {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "folder is empty");
        ensure!(!text.starts_with('-'), "folder {text:?} starts with -");
        ensure!(text.starts_with('/'), "folder {text:?} is not absolute");
        ensure!(text.len() < PATH_MAX, "folder is longer than {} bytes", PATH_MAX - 1);
        if let Some(odd) = text.chars().find(|c| c.is_control() || "#=,".contains(*c)) {
            bail!("folder {text:?} contains {odd:?}");
        }
        let mut path = String::with_capacity(text.len());
        for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            ensure!(part != "..", "folder {text:?} contains ..");
            path.push('/');
            path.push_str(part);
        }
        // Of the result, for "/a /" would become one that is refused when it arrives.
        ensure!(!path.ends_with(' '), "folder {text:?} ends with a blank");
        Ok(Self(if path.is_empty() { "/".into() } else { path }))
    }
}

impl fmt::Display for LibDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a path of the host. A leading `@` says just that in the configuration of NVIDIA's toolkit, and is dropped. It must be
/// absolute: the working directory of a hook is the container's root.
pub fn host_path(text: &str) -> Result<PathBuf> {
    let path = text.strip_prefix('@').unwrap_or(text);
    ensure!(path.starts_with('/'), "{text:?} is not absolute");
    ensure!(!path.contains('\0'), "{text:?} contains NUL");
    Ok(path.into())
}

/// Reads a wall-clock limit in seconds.
pub fn seconds(text: &str) -> Result<u32> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.with_context(|| format!("{text:?} is not a number of seconds from 1 to 3600"))
}

/// What a hook that could not do its work tells the runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Exit code 1: the container is not created. What `nvidia-cdi-hook` does.
    #[default]
    Fail,
    /// Exit code 0 with the reason on stderr: the container starts with the cache that its image has.
    Warn,
}

/// Who makes the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The best that does: incremental, else native. Nothing is executed.
    #[default]
    Auto,
    /// This program, from the cache of the image, where that is valid; else native.
    Incremental,
    /// This program, by looking through every directory that the linker searches.
    Native,
    /// The host's ldconfig.
    Ldconfig,
}

impl Engine {
    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Incremental => "incremental",
            Self::Native => "native",
            Self::Ldconfig => "ldconfig",
        }
    }
}

/// What a hook does whose sandbox is not complete, because the kernel or whoever started it refuses a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// Goes on without the part, and tells.
    #[default]
    BestEffort,
    /// Fails.
    Strict,
}

/// One refresh of a container's linker cache.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Update {
    /// Directory of the container to add to its linker configuration; may be repeated or comma-separated
    #[arg(long = "folder", value_name = "DIR", value_delimiter = ',', action = clap::ArgAction::Append)]
    dirs: Vec<LibDir>,
    /// Add the directories of driver libraries that are mounted into the container, too
    #[arg(long)]
    discover: bool,
    /// Who makes the cache
    #[arg(long, value_enum, default_value_t, overrides_with = "engine")]
    engine: Engine,
    /// Host path of ldconfig; a leading @ is dropped, and PATH.real is preferred where there is one
    #[arg(long, value_name = "PATH", default_value = Update::LDCONFIG, value_parser = host_path)]
    ldconfig_path: PathBuf,
    /// What the exit code says when the refresh fails
    #[arg(long, value_enum, default_value_t)]
    on_failure: OnFailure,
    /// What happens where a layer of the sandbox can't be had
    #[arg(long, value_enum, default_value_t)]
    sandbox: Sandbox,
    /// Directory of the host for the report of what was done
    #[arg(long, value_name = "DIR", default_value = Report::DIR, value_parser = host_path)]
    report_dir: PathBuf,
    /// Seconds of wall-clock time after which the refresh is killed
    #[arg(long, value_name = "SECONDS", default_value_t = Update::TIMEOUT, value_parser = seconds)]
    timeout: u32,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            discover: false,
            engine: Engine::default(),
            ldconfig_path: Self::LDCONFIG.into(),
            on_failure: OnFailure::default(),
            sandbox: Sandbox::default(),
            report_dir: Report::DIR.into(),
            timeout: Self::TIMEOUT,
        }
    }
}

impl Update {
    /// Where a host has ldconfig (FHS 3.0, section 3.16.2).
    pub const LDCONFIG: &str = "/sbin/ldconfig";
    /// Wall-clock limit of one refresh in seconds.
    pub const TIMEOUT: u32 = 10;
    /// The name of the sub-command that takes [`Self::to_args`].
    pub const COMMAND: &str = "update-ldcache";

    /// Adds a directory behind the others; one that is there already keeps its place, for the order is the search order.
    pub fn add(&mut self, dir: LibDir) -> Result<()> {
        if !self.dirs.contains(&dir) {
            ensure!(
                self.dirs.len() < MAX_DIRS,
                "folder {:?} is one too many, after {MAX_DIRS}",
                dir.0
            );
            self.dirs.push(dir);
        }
        Ok(())
    }

    /// The same update with the directories that the hook finds itself.
    pub fn with_discovery(mut self) -> Self {
        self.discover = true;
        self
    }

    /// The same update by another engine.
    pub fn with_engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// The same update with the host path of ldconfig replaced.
    pub fn with_ldconfig_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.ldconfig_path = path.into();
        self
    }

    /// The same update with another answer to failure.
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// The same update with another demand on the sandbox.
    pub fn with_sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// The same update with its report elsewhere.
    pub fn with_report_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.report_dir = dir.into();
        self
    }

    /// The same update with another wall-clock limit, in seconds.
    pub fn with_timeout(mut self, seconds: u32) -> Self {
        self.timeout = seconds;
        self
    }

    /// The directories to add, in search order, each once.
    pub fn dirs(&self) -> &[LibDir] {
        &self.dirs
    }

    /// Are directories of mounted driver libraries added?
    pub fn discovers(&self) -> bool {
        self.discover
    }

    /// Who makes the cache.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Host path of ldconfig as it was given.
    pub fn ldconfig_path(&self) -> &Path {
        &self.ldconfig_path
    }

    /// What the exit code says when the refresh fails.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// What happens where a layer of the sandbox can't be had.
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox
    }

    /// Directory of the host for reports.
    pub fn report_dir(&self) -> &Path {
        &self.report_dir
    }

    /// Wall-clock limit of the refresh.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// Removes repeated directories, which a command line may carry and [`Self::add`] does not let in.
    pub fn normalized(self) -> Result<Self> {
        let mut update = Self { dirs: Vec::new(), ..self.clone() };
        self.dirs.into_iter().try_for_each(|dir| update.add(dir))?;
        Ok(update)
    }

    /// The arguments behind the sub-command's name that make this value again; what is the default is left out.
    pub fn to_args(&self) -> Vec<String> {
        let default = Self::default();
        let mut args = Vec::new();
        if self.discover {
            args.push("--discover".to_owned());
        }
        if self.engine != default.engine {
            args.push(format!("--engine={}", self.engine.name()));
        }
        if self.on_failure != default.on_failure {
            args.push("--on-failure=warn".to_owned());
        }
        if self.sandbox != default.sandbox {
            args.push("--sandbox=strict".to_owned());
        }
        if self.timeout != default.timeout {
            args.push(format!("--timeout={}", self.timeout));
        }
        if self.ldconfig_path != default.ldconfig_path {
            args.push(format!("--ldconfig-path={}", self.ldconfig_path.display()));
        }
        if self.report_dir != default.report_dir {
            args.push(format!("--report-dir={}", self.report_dir.display()));
        }
        args.extend(self.dirs.iter().map(|dir| format!("--folder={dir}")));
        args
    }

    /// Reads what [`Self::to_args`] makes; nothing if there is an argument of another form, which clap understands, or a mistake,
    /// which clap names.
    ///
    /// Every GPU container waits for it, and clap makes all flags with their help first: 0.06 ms of 2.5.
    pub fn from_args<'a>(args: impl IntoIterator<Item = &'a OsStr>) -> Option<Self> {
        let (mut update, mut seen) = (Self::default(), Vec::new());
        for arg in args {
            let arg = arg.to_str()?;
            let (flag, value) = arg.split_once('=').unwrap_or((arg, ""));
            match flag {
                "--folder" => {
                    value.split(',').try_for_each(|dir| update.add(dir.parse()?)).ok()?;
                    continue;
                }
                "--discover" if arg == flag => update.discover = true,
                "--engine" => update.engine = Engine::from_str(value, false).ok()?,
                "--on-failure" => update.on_failure = OnFailure::from_str(value, false).ok()?,
                "--sandbox" => update.sandbox = Sandbox::from_str(value, false).ok()?,
                "--timeout" => update.timeout = seconds(value).ok()?,
                "--ldconfig-path" => update.ldconfig_path = host_path(value).ok()?,
                "--report-dir" => update.report_dir = host_path(value).ok()?,
                _ => return None,
            }
            if seen.contains(&flag) {
                return None;
            }
            seen.push(flag);
        }
        Some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn parse(args: &[&str]) -> Result<Update> {
        Line::try_parse_from([&["x"], args].concat())?.update.normalized()
    }

    #[test]
    fn arguments_make_the_same_value_again() {
        let mut update = Update::default()
            .with_on_failure(OnFailure::Warn)
            .with_ldconfig_path("/usr/sbin/ldconfig")
            .with_sandbox(Sandbox::Strict)
            .with_discovery()
            .with_engine(Engine::Ldconfig)
            .with_report_dir("/run/elsewhere")
            .with_timeout(3);
        for dir in ["/b", "/a with blank/lib", "/usr/local/nvidia/lib64"] {
            update.add(dir.parse().unwrap()).unwrap();
        }
        let args = update.to_args();
        assert_eq!(Update::from_args(args.iter().map(OsStr::new)).as_ref(), Some(&update));
        let again = parse(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!(again, update);
        assert_eq!(parse(&[]).unwrap(), Update::default());
        assert!(Update::default().to_args().is_empty());
    }

    #[test]
    fn what_is_read_without_clap_is_what_clap_reads() {
        let parts = [
            "--folder=/a",
            "--folder=/b,/a/",
            "--folder=",
            "--folder=/a,,/b",
            "--folder=..",
            "--folder=/a=b",
            "--folder",
            "--discover",
            "--discover=true",
            "--discover=",
            "--engine=native",
            "--engine=ldconfig",
            "--engine=Native",
            "--engine=",
            "--on-failure=warn",
            "--on-failure=fail",
            "--sandbox=strict",
            "--sandbox=best-effort",
            "--timeout=3",
            "--timeout=0",
            "--timeout=+3",
            "--ldconfig-path=@/sbin/ldconfig",
            "--ldconfig-path=sbin",
            "--report-dir=/run/a=b",
            "--report-dir=",
            "--",
            "/a",
            "-h",
            "",
        ];
        let mut read = 0;
        for lines in [1, 2, 3].map(|count| parts.len().pow(count)).into_iter().zip(1..) {
            let (all, count) = lines;
            for number in 0..all {
                let args: Vec<_> = (0..count)
                    .map(|at| parts[number / parts.len().pow(at) % parts.len()])
                    .collect();
                if let Some(update) = Update::from_args(args.iter().map(OsStr::new)) {
                    assert_eq!(parse(&args).unwrap(), update, "{args:?}");
                    read += 1;
                }
            }
        }
        assert!(read > 1000, "{read}");
    }

    #[test]
    fn folders_repeat_and_split_at_commas_in_order_and_once() {
        let update = parse(&["--folder", "/b,/a", "--folder=/b/", "--folder=//c/./d"]).unwrap();
        let dirs: Vec<_> = update.dirs().iter().map(LibDir::as_str).collect();
        assert_eq!(dirs, ["/b", "/a", "/c/d"]);
    }

    #[test]
    fn hostile_folders_are_refused_by_name() {
        for (folder, reason) in [
            ("", "empty"),
            ("lib", "not absolute"),
            ("-f/lib", "starts with -"),
            ("/a/../b", "contains .."),
            ("/..", "contains .."),
            ("/a\n/b", "contains '\\n'"),
            ("/a\0b", "contains '\\0'"),
            ("/a#b", "contains '#'"),
            ("/a=libc6", "contains '='"),
            ("/a,b", "contains ','"),
            ("/a ", "ends with a blank"),
            ("/a /", "ends with a blank"),
            ("/a /./", "ends with a blank"),
        ] {
            let error = folder.parse::<LibDir>().unwrap_err().to_string();
            assert!(error.contains(reason), "{folder:?}: {error}");
        }
        assert!(format!("/{}", "a".repeat(PATH_MAX)).parse::<LibDir>().is_err());
    }

    #[test]
    fn paths_of_the_host_are_absolute() {
        assert_eq!(host_path("@/sbin/ldconfig").unwrap(), Path::new("/sbin/ldconfig"));
        for path in ["", "@", "@@/sbin/ldconfig", "ldconfig", "./ldconfig", "@ldconfig"] {
            assert!(host_path(path).is_err(), "{path:?}");
            assert!(parse(&["--ldconfig-path", path]).is_err(), "{path:?}");
        }
        assert!(parse(&["--timeout=0"]).is_err() && parse(&["--timeout=3601"]).is_err());
    }

    #[test]
    fn more_folders_than_a_container_can_mean_are_refused() {
        let folders: Vec<_> = (0..=MAX_DIRS).map(|i| format!("--folder=/d{i}")).collect();
        let args: Vec<_> = folders.iter().map(String::as_str).collect();
        assert!(parse(&args).is_err());
        assert_eq!(parse(&args[1..]).unwrap().dirs().len(), MAX_DIRS);
    }
}
