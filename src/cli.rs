//! [`Command`]: what was typed, or what a runtime or a CDI spec made of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{Layers, Settings};
use crate::host::{DropIn, Place};
use crate::plugin::http::Address;
use crate::report::Report;
use crate::update::Update;

/// Refreshes the linker cache of GPU containers.
#[derive(Debug, Parser)]
#[command(name = "nri-ldcache", version, max_term_width = 100, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// The same for the hook alone: the pod waits for it, and the flags of the others are not needed to understand its own.
#[derive(Debug, Parser)]
#[command(name = Update::COMMAND, bin_name = "nri-ldcache update-ldcache", max_term_width = 100)]
#[command(about = "Refresh the linker cache of a container that is being created (an OCI hook)")]
struct HookLine {
    #[command(flatten)]
    args: UpdateArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a container runtime as its NRI plugin
    Run(RunArgs),
    /// Refresh the linker cache of a container that is being created (an OCI hook)
    #[command(name = Update::COMMAND)]
    UpdateLdcache(UpdateArgs),
    /// Tell what would be done with a container, and why
    Explain(ExplainArgs),
    /// Print a linker cache
    Inspect(InspectArgs),
    /// Install this program where the runtime can run it as a hook, and print its path
    Install(InstallArgs),
    /// Remove what install and the hooks have left on the host, once nobody needs it
    Uninstall(UninstallArgs),
    /// Look at this node for what would keep its containers from being refreshed
    Doctor(DoctorArgs),
    /// Enable NRI in containerd's configuration, with a file of its own; containerd is not restarted
    EnableNri(EnableNriArgs),
    /// A hook of NVIDIA's toolkit that this program does not have
    #[command(skip)]
    Unsupported(String),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A TOML file with the names of these flags as keys, written with underscores
    #[arg(long, value_name = "FILE", env = "NRI_LDCACHE_CONFIG")]
    pub config: Option<PathBuf>,
    /// What is set here and in the environment
    #[command(flatten)]
    pub settings: Settings,
}

impl RunArgs {
    /// Flags and environment, and the file below them.
    pub fn settings(self) -> Result<Layers> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        Ok(Layers { typed: self.settings, file })
    }
}

/// Arguments of `update-ldcache`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The update
    #[command(flatten)]
    pub update: Update,
    /// A file with the container's OCI state; empty or - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub container_spec: OsString,
}

impl UpdateArgs {
    const SPEC: &str = "--container-spec=";

    /// Reads those that [`Update::from_args`] reads, and one file.
    fn from_args(args: &[OsString]) -> Option<Self> {
        let is_spec = |arg: &&OsString| arg.as_encoded_bytes().starts_with(Self::SPEC.as_bytes());
        let mut specs = args.iter().filter(is_spec);
        let container_spec = match (specs.next(), specs.next()) {
            (None, _) => "-".into(),
            (Some(spec), None) => spec.to_str()?.strip_prefix(Self::SPEC)?.into(),
            _ => return None,
        };
        let others = args.iter().filter(|arg| !is_spec(arg)).map(OsString::as_os_str);
        Some(Self { update: Update::from_args(others)?, container_spec })
    }
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// An OCI config.json, the output of crictl inspect, or a CRI container configuration; - is standard input
    #[arg(value_name = "CONTAINER")]
    pub container: PathBuf,
    /// The output of crictl inspectp, or a CRI pod configuration
    #[arg(long, value_name = "FILE")]
    pub pod: Option<PathBuf>,
    /// The daemon's configuration
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A cache file, or a root directory whose cache is meant
    #[arg(value_name = "FILE|ROOT")]
    pub path: PathBuf,
    /// Print JSON instead of what ldconfig -p prints
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The daemon's configuration
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `install`, and what `uninstall` has in common with it.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Directory of the host
    #[arg(long, value_name = "DIR", env = "NRI_LDCACHE_INSTALL_DIR", default_value = Place::DIR)]
    pub install_dir: PathBuf,
    /// Where the host's root is seen from here
    #[arg(long, value_name = "PATH", env = "NRI_LDCACHE_HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
}

impl InstallArgs {
    /// Where to install.
    pub fn place(&self) -> Result<Place> {
        Place::new(&self.install_dir, &self.host_root)
    }
}

/// Arguments of `enable-nri`.
#[derive(Debug, Args)]
pub struct EnableNriArgs {
    /// containerd's configuration file on the host
    #[arg(long, value_name = "FILE", default_value = DropIn::MAIN)]
    pub containerd_config: PathBuf,
    /// Where the host's root is seen from here
    #[arg(long, value_name = "PATH", env = "NRI_LDCACHE_HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
    /// Take it back
    #[arg(long)]
    pub undo: bool,
}

impl EnableNriArgs {
    /// What to write.
    pub fn drop_in(&self) -> Result<DropIn> {
        DropIn::new(&self.containerd_config, &self.host_root)
    }
}

/// Arguments of `uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Where it is installed
    #[command(flatten)]
    pub install: InstallArgs,
    /// Directory of the host where hooks report
    #[arg(long, value_name = "DIR", env = "NRI_LDCACHE_REPORT_DIR", default_value = Report::DIR)]
    pub report_dir: PathBuf,
    /// Seconds for which no daemon may have injected hooks, so that no container is being created with one
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(..=3600))]
    pub grace: u64,
    /// Stay, and answer GET /readyz with 200 once all is removed; without a HOST on every address
    #[arg(long, value_name = "[HOST]:PORT", env = "NRI_LDCACHE_HTTP_ADDRESS")]
    pub http_address: Option<Address>,
    /// Remove nothing: wait until every address of HOST answers GET /readyz with 200
    #[arg(long = "await", value_name = "HOST:PORT")]
    pub awaited: Option<String>,
    /// How many seconds to wait for that
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=3600), requires = "awaited")]
    pub timeout: u64,
    /// Seconds without an address of HOST after which there is nobody to wait for [default: none is an error]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3600), requires = "awaited")]
    pub nobody_after: Option<u64>,
}

/// What was typed and can't be done.
#[derive(Debug)]
pub enum Usage {
    /// Help or the version was asked for.
    Asked(String),
    /// A mistake, in one line.
    Mistake(String),
}

/// Parses a command line; `launched` is whether a runtime started this process as its plugin.
pub fn parse(args: impl IntoIterator<Item = OsString>, launched: bool) -> Result<Command, Usage> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if let Some(name) = toolkit_name(&args)
        && let Some(unsupported) = as_toolkit(name, &mut args)
    {
        return Ok(Command::Unsupported(unsupported));
    }
    as_plugin(&mut args, launched);
    let command = match args.get(1) {
        Some(arg) if arg == Update::COMMAND => match UpdateArgs::from_args(&args[2..]) {
            Some(args) => return Ok(Command::UpdateLdcache(args)),
            None => {
                HookLine::try_parse_from(&args[1..]).map(|line| Command::UpdateLdcache(line.args))
            }
        },
        _ => Line::try_parse_from(args).map(|line| line.command),
    };
    match command {
        Ok(command) => normalized(command).map_err(|error| Usage::Mistake(format!("{error:#}"))),
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            Err(Usage::Asked(error.to_string()))
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Usage::Mistake("a subcommand is missing, see --help".to_owned()))
        }
        Err(error) => Err(Usage::Mistake(one_line(&error))),
    }
}

/// Does this command line, which can't be understood, say that failure is only told?
pub fn warns(args: &[OsString]) -> bool {
    let has = |words: &[&str]| {
        args.windows(words.len()).any(|some| some.iter().eq(words.iter().copied()))
    };
    has(&[Update::COMMAND]) && (has(&["--on-failure=warn"]) || has(&["--on-failure", "warn"]))
}

/// The first paragraph without its `error: `; what clap adds is usage and tips, and a hook's message is one line of a log.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

fn normalized(command: Command) -> Result<Command> {
    Ok(match command {
        Command::UpdateLdcache(args) => {
            Command::UpdateLdcache(UpdateArgs { update: args.update.normalized()?, ..args })
        }
        other => other,
    })
}

/// The name under which this program was called, if it is one of NVIDIA's toolkit: a CDI spec that calls `update-ldcache`
/// works when its path alone is changed to this program's.
fn toolkit_name(args: &[OsString]) -> Option<&'static str> {
    let name = Path::new(args.first()?).file_name()?.to_str()?;
    ["nvidia-cdi-hook", "nvidia-ctk"].into_iter().find(|known| *known == name)
}

/// Turns a command line of the toolkit into one of ours, or tells which of its hooks it calls that is not here.
fn as_toolkit(name: &str, args: &mut Vec<OsString>) -> Option<String> {
    let is = |arg: &OsString, words: &[&str]| arg.to_str().is_some_and(|arg| words.contains(&arg));
    let flag = |arg: &OsString| {
        is(
            arg,
            &[
                "--debug",
                "-d",
                "--quiet",
                "-q",
                "--debug=true",
                "--debug=false",
                "--quiet=true",
                "--quiet=false",
            ],
        )
    };
    while args.get(1).is_some_and(flag)
        || (name == "nvidia-ctk" && args.get(1).is_some_and(|arg| is(arg, &["hook"])))
    {
        args.remove(1);
    }
    match args.get(1) {
        Some(arg) if is(arg, &[Update::COMMAND]) => {
            // Who calls that program means glibc's own, and may say where it is.
            args.insert(2, "--engine=ldconfig".into());
            None
        }
        Some(arg) if is(arg, &["--help", "-h", "--version"]) => None,
        Some(other) => Some(other.to_string_lossy().into_owned()),
        None => Some("nothing".to_owned()),
    }
}

/// A plugin is started without a sub-command: by the runtime with no argument at all, or with the flags that NRI plugins
/// take, which Go's flag package spells with one dash or two.
fn as_plugin(args: &mut Vec<OsString>, launched: bool) {
    let first = args.get(1).and_then(|arg| arg.to_str());
    let ours = ["-h", "--help", "-V", "--version"];
    if first.map_or(launched, |first| first.starts_with('-') && !ours.contains(&first)) {
        args.insert(1, "run".into());
    }
    if args.get(1).is_none_or(|arg| arg != "run") {
        return;
    }
    for arg in &mut args[2..] {
        let flag = arg
            .to_str()
            .and_then(|arg| arg.strip_prefix('-'))
            .filter(|flag| flag.len() > 1 && !flag.starts_with('-'));
        if let Some(flag) = flag {
            *arg = format!("--{flag}").into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::Engine;

    fn parsed(line: &str, launched: bool) -> Result<Command, Usage> {
        parse(line.split(' ').map(OsString::from), launched)
    }

    fn mistake(line: &str) -> String {
        match parsed(line, false) {
            Err(Usage::Mistake(line)) => line,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_hooks_line_is_that_of_all() {
        let mut all = <Line as clap::CommandFactory>::command();
        all.build();
        let of_all = all.find_subcommand_mut(Update::COMMAND).unwrap();
        let mut own = <HookLine as clap::CommandFactory>::command();
        let help = |command: &mut clap::Command| command.render_long_help().to_string();
        assert_eq!(help(&mut own), help(of_all));
        let line = ["--folder=/a", "--container-spec=/s"];
        let of_all = Line::try_parse_from([&["x", Update::COMMAND], &line[..]].concat()).unwrap();
        let of_all = format!("{:?}", of_all.command);
        // The second is not of the form that is read without clap.
        for line in ["--folder=/a --container-spec=/s", "--folder /a --container-spec /s"] {
            let own = parsed(&format!("x update-ldcache {line}"), false);
            assert_eq!(format!("{:?}", own.ok()), format!("Some({of_all})"));
        }
    }

    #[test]
    fn plugins_start_as_runtimes_and_people_start_them() {
        for line in ["x run", "x -idx 10", "x --idx=10 -socket-path /s", "x run -socket /s -name n"]
        {
            assert!(matches!(parsed(line, false), Ok(Command::Run(_))), "{line}");
        }
        assert!(matches!(parsed("/opt/nri/plugins/90-nri-ldcache", true), Ok(Command::Run(_))));
        assert!(matches!(parsed("x", false), Err(Usage::Mistake(_))));
        let Ok(Command::Run(args)) = parsed("x -idx 10 -socket-path=/s", false) else { panic!() };
        assert_eq!(
            (args.settings.idx.as_deref(), args.settings.socket_path()),
            (Some("10"), Path::new("/s"))
        );
    }

    #[test]
    fn the_toolkits_command_lines_work_under_its_names() {
        for line in [
            "/usr/bin/nvidia-cdi-hook update-ldcache --folder /a --ldconfig-path @/sbin/ldconfig",
            "nvidia-ctk hook update-ldcache --folder /a",
            "nvidia-cdi-hook --debug --quiet update-ldcache --container-spec -",
        ] {
            let Ok(Command::UpdateLdcache(args)) = parsed(line, false) else { panic!("{line}") };
            assert_eq!(args.update.engine(), Engine::Ldconfig, "{line}");
        }
        let own = parsed("nvidia-cdi-hook update-ldcache --engine=native", false);
        let Ok(Command::UpdateLdcache(args)) = own else { panic!("{own:?}") };
        assert_eq!(args.update.engine(), Engine::Native);
        for line in [
            "nvidia-cdi-hook create-symlinks --link a::b",
            "nvidia-ctk hook chmod",
            "nvidia-cdi-hook",
        ] {
            assert!(matches!(parsed(line, false), Ok(Command::Unsupported(_))), "{line}");
        }
        assert!(mistake("nri-ldcache create-symlinks").contains("unrecognized subcommand"));
    }

    #[test]
    fn mistakes_are_one_line_that_names_the_object() {
        for (line, named) in [
            ("x update-ldcache --folder ../x", "'../x' for '--folder <DIR>'"),
            ("x update-ldcache --on-failure maybe", "'maybe' for '--on-failure"),
            ("x update-ldcache --foldr /x", "'--foldr'"),
            ("x run --mode sometimes", "'sometimes'"),
            ("x explain", "<CONTAINER>"),
        ] {
            let said = mistake(line);
            assert!(said.contains(named) && said.lines().count() == 1, "{line}: {said}");
        }
    }
}
