//! [`Settings`]: what an operator may set, from four places with one schema.
//!
//! A flag or its `NRI_LDCACHE_*` twin wins over what the runtime passes at `Configure` (launched plugins get the content of
//! their file in `/etc/nri/conf.d`), which wins over the file of `--config`, which wins over the default.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use glob::Pattern;
use nri::Identity;
use serde::Deserialize;

use crate::host::Place;
use crate::injection::Injection;
use crate::plugin::http::Address;
use crate::policy::{Mode, Policy};
use crate::report::Report;
use crate::update::{Engine, LibDir, OnFailure, Sandbox, Update, host_path, seconds};

/// Most bytes of a configuration file.
const LIMIT: u64 = 1 << 20;

/// How the daemon logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What broke.
    Error,
    /// What an operator should look at.
    Warn,
    /// A line for each GPU container.
    #[default]
    Info,
    /// A line for every container, with the reason.
    Debug,
}

/// What may be set; what is not set here is set elsewhere or has its default.
#[derive(Clone, Debug, Default, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Index of the plugin: two digits, the order in which the runtime asks its plugins [default: 90]
    #[arg(long, value_name = "NN", env = "NRI_LDCACHE_IDX")]
    pub idx: Option<String>,
    /// Name of the plugin [default: nri-ldcache]
    #[arg(long, env = "NRI_LDCACHE_NAME")]
    pub name: Option<String>,
    /// The runtime's NRI socket [default: /var/run/nri/nri.sock]
    #[arg(long, value_name = "PATH", aliases = ["socket", "nri-socket"], env = "NRI_LDCACHE_SOCKET_PATH")]
    pub socket_path: Option<PathBuf>,
    /// Where this program is on the host, for the runtime to run as a hook [default: this program]
    #[arg(long, value_name = "PATH", env = "NRI_LDCACHE_HOOK_PATH")]
    pub hook_path: Option<PathBuf>,
    /// Directory of the host in which to install this program at start, for the runtime to run from there
    #[arg(long, value_name = "DIR", env = "NRI_LDCACHE_INSTALL_DIR")]
    pub install_dir: Option<PathBuf>,
    /// Where the host's root is seen from here: hook-path, install-dir and report-dir are below it [default: /]
    #[arg(long, value_name = "PATH", env = "NRI_LDCACHE_HOST_ROOT")]
    pub host_root: Option<PathBuf>,
    /// Who makes the cache [default: auto]
    #[arg(long, value_enum, env = "NRI_LDCACHE_ENGINE")]
    pub engine: Option<Engine>,
    /// Host path of ldconfig [default: /sbin/ldconfig]
    #[arg(long, value_name = "PATH", env = "NRI_LDCACHE_LDCONFIG_PATH")]
    pub ldconfig_path: Option<PathBuf>,
    /// Seconds after which a hook ends its refresh [default: 10]
    #[arg(long, value_name = "SECONDS", env = "NRI_LDCACHE_TIMEOUT", value_parser = seconds)]
    pub timeout: Option<u32>,
    /// What happens to a container whose refresh fails [default: warn]
    #[arg(long, value_enum, env = "NRI_LDCACHE_ON_FAILURE")]
    pub on_failure: Option<OnFailure>,
    /// What a hook does where a layer of its sandbox can't be had [default: best-effort]
    #[arg(long, value_enum, env = "NRI_LDCACHE_SANDBOX")]
    pub sandbox: Option<Sandbox>,
    /// Directory of the host where hooks report [default: /run/nri-ldcache]
    #[arg(long, value_name = "DIR", env = "NRI_LDCACHE_REPORT_DIR")]
    pub report_dir: Option<PathBuf>,
    /// Where metrics and health are served, if anywhere: /metrics, /healthz, /readyz; without a host, on all addresses
    #[arg(long, value_name = "[HOST]:PORT", env = "NRI_LDCACHE_HTTP_ADDRESS")]
    pub http_address: Option<Address>,
    /// Which containers are refreshed when no annotation says so [default: auto]
    #[arg(long, value_enum, env = "NRI_LDCACHE_MODE")]
    pub mode: Option<Mode>,
    /// The annotation that toggles refreshes [default: ldcache.noderesource.dev]
    #[arg(long, value_name = "KEY", env = "NRI_LDCACHE_ANNOTATION")]
    pub annotation: Option<String>,
    /// Namespaces that are left alone, comma-separated; * and ? match as in a shell
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        env = "NRI_LDCACHE_EXCLUDED_NAMESPACES"
    )]
    pub excluded_namespaces: Option<Vec<String>>,
    /// Directories to add for every refreshed container, comma-separated
    #[arg(long, value_name = "DIR", value_delimiter = ',', env = "NRI_LDCACHE_FOLDERS")]
    pub folders: Option<Vec<String>>,
    /// What is logged [default: info]
    #[arg(long, value_enum, env = "NRI_LDCACHE_LOG_LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How it is logged [default: text]
    #[arg(long, value_enum, env = "NRI_LDCACHE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Settings by where they come from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Flags and environment.
    pub typed: Settings,
    /// The file of `--config`.
    pub file: Settings,
}

impl Layers {
    /// The settings in force while the runtime has passed nothing.
    pub fn settings(&self) -> Settings {
        self.typed.clone().over(self.file.clone())
    }

    /// The settings in force when the runtime has passed `text`.
    pub fn configured(&self, text: &str) -> Result<Settings> {
        Ok(self.typed.clone().over(Settings::from_runtime(text)?.over(self.file.clone())))
    }
}

macro_rules! first {
    ($high:ident, $low:ident, $($field:ident),*) => { Settings { $($field: $high.$field.or($low.$field)),* } };
}

impl Settings {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("open configuration {name}"))?;
        let mut text = String::new();
        let read = file.take(LIMIT + 1).read_to_string(&mut text);
        read.with_context(|| format!("read configuration {name}"))?;
        let is_small = text.len() as u64 <= LIMIT;
        ensure!(is_small, "configuration {name} is larger than {} MiB", LIMIT >> 20);
        Self::parse(&text).with_context(|| format!("configuration {name}"))
    }

    /// Reads what the runtime passed at `Configure`: the same schema without what comes too late.
    pub fn from_runtime(text: &str) -> Result<Self> {
        let settings = Self::parse(text).context("configuration from the runtime")?;
        let late = [
            ("idx", settings.idx.is_some()),
            ("name", settings.name.is_some()),
            ("socket_path", settings.socket_path.is_some()),
            ("install_dir", settings.install_dir.is_some()),
            ("http_address", settings.http_address.is_some()),
            ("log_level", settings.log_level.is_some()),
            ("log_format", settings.log_format.is_some()),
        ];
        match late.iter().find(|(_, set)| *set) {
            Some((key, _)) => bail!(
                "configuration from the runtime: {key} comes too late, set it by flag or environment"
            ),
            None => Ok(settings),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            // It repeats what the file says, which may have lines of its own.
            let message = error.message().trim().replace(char::is_control, " ");
            anyhow::anyhow!("line {line}: {message}")
        })
    }

    /// These settings, and where they say nothing, `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        first!(
            self,
            lower,
            idx,
            name,
            socket_path,
            hook_path,
            install_dir,
            host_root,
            engine,
            ldconfig_path,
            timeout,
            on_failure,
            sandbox,
            report_dir,
            http_address,
            mode,
            annotation,
            excluded_namespaces,
            folders,
            log_level,
            log_format
        )
    }

    /// Who the plugin says it is.
    pub fn identity(&self) -> Result<Identity> {
        let (idx, name) =
            (self.idx.as_deref().unwrap_or("90"), self.name.as_deref().unwrap_or("nri-ldcache"));
        Ok(Identity::new(idx, name)?)
    }

    /// The runtime's socket.
    pub fn socket_path(&self) -> &Path {
        self.socket_path.as_deref().unwrap_or(Path::new("/var/run/nri/nri.sock"))
    }

    /// The policy that these settings make.
    pub fn policy(&self) -> Result<Policy> {
        let annotation = self.annotation.clone().unwrap_or_else(|| Policy::ANNOTATION.to_owned());
        ensure!(
            !annotation.is_empty() && !annotation.contains(|c: char| c == '/' || c.is_whitespace()),
            "annotation {annotation:?} is not a key without a prefix"
        );
        // An environment variable that is set to nothing has one empty item.
        let patterns = self.excluded_namespaces.iter().flatten().filter(|text| !text.is_empty());
        let patterns = patterns
            .map(|text| Pattern::new(text).with_context(|| format!("excluded namespace {text:?}")));
        let folders = self.folders.iter().flatten().filter(|dir| !dir.is_empty());
        let folders = folders.map(|dir| dir.parse::<LibDir>());
        Ok(Policy {
            mode: self.mode.unwrap_or_default(),
            annotation,
            excluded_namespaces: patterns.collect::<Result<_>>()?,
            folders: folders.collect::<Result<_>>()?,
            template: self.template()?,
        })
    }

    /// What a file says has not been through the checks of the command line that it will be written to.
    fn template(&self) -> Result<Update> {
        let ldconfig = self.ldconfig_path.as_deref().unwrap_or(Path::new(Update::LDCONFIG));
        let reports = self.report_dir.as_deref().unwrap_or(Path::new(Report::DIR));
        let checked = |path: &Path| host_path(path.to_str().context("not UTF-8")?);
        let timeout = self.timeout.unwrap_or(Update::TIMEOUT);
        Ok(Update::default()
            .with_discovery()
            .with_engine(self.engine.unwrap_or_default())
            .with_ldconfig_path(checked(ldconfig).context("ldconfig path")?)
            .with_report_dir(checked(reports).context("report directory")?)
            .with_on_failure(self.on_failure.unwrap_or(OnFailure::Warn))
            .with_sandbox(self.sandbox.unwrap_or_default())
            .with_timeout(seconds(&timeout.to_string()).context("timeout")?))
    }

    /// Where this process sees the reports of hooks.
    pub fn reports(&self) -> PathBuf {
        let dir = self.report_dir.as_deref().unwrap_or(Path::new(Report::DIR));
        self.host_root().join(dir.strip_prefix("/").unwrap_or(dir))
    }

    /// Where the host's root is seen.
    pub fn host_root(&self) -> &Path {
        self.host_root.as_deref().unwrap_or(Path::new("/"))
    }

    /// Where this program installs itself, if it shall.
    pub fn place(&self) -> Result<Option<Place>> {
        let both = self.install_dir.is_some() && self.hook_path.is_some();
        ensure!(
            !both,
            "install-dir and hook-path exclude each other: what is at hook-path is there already"
        );
        self.install_dir.as_deref().map(|dir| Place::new(dir, self.host_root())).transpose()
    }

    /// How hooks are injected.
    pub fn injection(&self) -> Result<Injection> {
        let path = match (self.place()?, &self.hook_path) {
            (Some(place), _) => place.path()?,
            (None, Some(path)) => path.clone(),
            (None, None) => std::env::current_exe().context("find this program; set hook-path")?,
        };
        let timeout = Duration::from_secs(self.timeout.unwrap_or(Update::TIMEOUT).into());
        Injection::new(&path, self.host_root(), timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_everything_and_typos_are_named() {
        let settings = Settings::parse(
            "idx = '10'\nmode = 'disabled'\non_failure = 'fail'\nfolders = ['/a']\nexcluded_namespaces = ['kube-*']\nlog_format = 'json'",
        )
        .unwrap();
        let policy = settings.policy().unwrap();
        assert_eq!((policy.mode, policy.template.on_failure()), (Mode::Disabled, OnFailure::Fail));
        assert!(policy.excluded_namespaces[0].matches("kube-system"));
        assert_eq!(settings.identity().unwrap().to_string(), "10-nri-ldcache");
        for (text, expected) in [
            ("mode = 'auto'\nfoldesr = []", "line 2: unknown field `foldesr`"),
            ("mode = 'maybe'", "line 1: unknown variant `maybe`"),
            ("timeout = 'soon'", "line 1: invalid type"),
            ("http_address = '9177'", "line 1: \"9177\" is not [HOST]:PORT"),
            ("= 1", "line 1: "),
            ("mode = \"may\\nbe\"", "line 1: unknown variant `may be`"),
        ] {
            let error = format!("{:#}", Settings::parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn higher_settings_win_and_the_runtime_has_its_limits() {
        let low = Settings::parse("idx = '10'\nmode = 'disabled'").unwrap();
        let high = Settings::parse("idx = '20'").unwrap();
        let both = high.over(low);
        assert_eq!((both.idx.as_deref(), both.mode), (Some("20"), Some(Mode::Disabled)));
        let layers = Layers {
            typed: Settings::parse("timeout = 1").unwrap(),
            file: Settings::parse("timeout = 3\nmode = 'disabled'\nname = 'n'").unwrap(),
        };
        let all = layers.configured("timeout = 2\nmode = 'enabled'").unwrap();
        assert_eq!(
            (all.timeout, all.mode, all.name.as_deref()),
            (Some(1), Some(Mode::Enabled), Some("n"))
        );
        assert_eq!(layers.settings().mode, Some(Mode::Disabled));
        assert!(Settings::from_runtime("").is_ok());
        for (text, named) in
            [("socket_path = '/x'", "socket_path"), ("http_address = ':1'", "http_address")]
        {
            let error = Settings::from_runtime(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{named} comes too late")), "{error}");
        }
    }

    #[test]
    fn a_hook_is_installed_or_was_there() {
        let installed = Settings::parse("install_dir = '/opt/x'").unwrap();
        assert!(installed.place().unwrap().is_some() && installed.injection().is_ok());
        let neither = Settings::default();
        assert!(neither.place().unwrap().is_none() && neither.injection().is_ok());
        let there = Settings::parse("hook_path = '/opt/x'").unwrap();
        let error = there.over(installed).injection().unwrap_err().to_string();
        assert!(error.contains("exclude each other"), "{error}");
        assert!(Settings::from_runtime("install_dir = '/x'").is_err());
    }

    #[test]
    fn values_that_make_no_policy_are_named() {
        for (text, expected) in [
            ("folders = ['lib']", "\"lib\" is not absolute"),
            ("annotation = 'a/b'", "\"a/b\" is not a key"),
            ("excluded_namespaces = ['[']", "excluded namespace \"[\""),
            ("ldconfig_path = 'ldconfig'", "ldconfig path: \"ldconfig\" is not absolute"),
            ("ldconfig_path = '@@/sbin/ldconfig'", "ldconfig path: "),
            ("report_dir = 'run'", "report directory: \"run\" is not absolute"),
            ("timeout = 0", "timeout: \"0\" is not a number of seconds"),
            ("timeout = 3601", "timeout: \"3601\" is not"),
        ] {
            let error = format!("{:#}", Settings::parse(text).unwrap().policy().unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Settings::parse("folders = ['']").unwrap().policy().unwrap().folders.is_empty());
        assert!(Settings::parse("idx = '7'").unwrap().identity().is_err());
    }
}
