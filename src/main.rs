//! The program `nri-ldcache`; see the library for what it does.

use std::env;
use std::process::ExitCode;

use nri_ldcache::cli::{self, Command, Usage};
use nri_ldcache::update::OnFailure;
use nri_ldcache::{explain, hook, log, plugin};

/// A command line that can't be understood (`EX_USAGE`, sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let command = match cli::parse(env::args_os(), env::var_os("NRI_PLUGIN_SOCKET").is_some()) {
        Ok(command) => command,
        Err(Usage::Asked(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Usage::Mistake(line)) => {
            eprintln!("nri-ldcache: {line}");
            return ExitCode::from(USAGE);
        }
    };
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nri-ldcache: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            let settings = args.settings()?;
            log::start(&settings);
            plugin::run(settings)?;
        }
        Command::UpdateLdcache(args) => match hook::run(&args.update, &args.container_spec) {
            Err(error) if args.update.on_failure() == OnFailure::Warn => {
                eprintln!("nri-ldcache: {error:#}")
            }
            done => done?,
        },
        Command::Explain(args) => {
            print!("{}", explain::run(&args.run.settings()?, &args.container, args.pod.as_deref())?)
        }
        // What a newer spec calls must not stop its containers; NVIDIA's own program does the same.
        Command::Unsupported(name) => {
            eprintln!("nri-ldcache: hook {name:?} is not supported, nothing done")
        }
    }
    Ok(ExitCode::SUCCESS)
}
