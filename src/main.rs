//! The program `nri-ldcache`; see the library for what it does.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nri_ldcache::cli::{self, Command, DoctorArgs, InstallArgs, UninstallArgs, Usage};
use nri_ldcache::doctor::Diagnosis;
use nri_ldcache::host::{Awaited, Readiness, end_on_signals, wait_for};
use nri_ldcache::update::OnFailure;
use nri_ldcache::{explain, hook, inspect, log, plugin};

/// A command line that can't be understood (`EX_USAGE`, sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    match cli::parse(args.iter().cloned(), env::var_os("NRI_PLUGIN_SOCKET").is_some()) {
        Ok(command) => run(command).unwrap_or_else(|error| {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }),
        Err(Usage::Asked(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Usage::Mistake(line)) => {
            say(&line);
            // A hook that was injected by another version must not stop its container either.
            if cli::warns(&args) { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            let settings = args.settings()?;
            let format = log::start(&settings.settings());
            return log::end(format, plugin::run(settings));
        }
        Command::UpdateLdcache(args) => match hook::run(&args.update, &args.container_spec) {
            Err(error) if args.update.on_failure() == OnFailure::Warn => say(&format!("{error:#}")),
            done => done?,
        },
        Command::Explain(args) => {
            let settings = args.run.settings()?.settings();
            let text = explain::run(&settings, &args.container, args.pod.as_deref())?;
            print(&text)?;
        }
        Command::Inspect(args) => print(&inspect::run(&args.path, args.json)?)?,
        Command::Doctor(args) => return doctor(args),
        Command::EnableNri(args) => {
            let drop_in = args.drop_in()?;
            let done = if args.undo { drop_in.undo()? } else { drop_in.enable()? };
            done.iter().try_for_each(|line| writeln!(io::stdout(), "{line}"))?;
        }
        Command::Install(args) => install(&args)?,
        Command::Uninstall(args) => uninstall(&args)?,
        // What a newer spec calls must not stop its containers; NVIDIA's own program does the same.
        Command::Unsupported(name) => say(&format!("hook {name:?} is not supported, nothing done")),
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let diagnosis = Diagnosis::make(&args.run.settings()?.settings());
    let text = if args.json { diagnosis.json()? } else { diagnosis.to_string() };
    print(&text)?;
    Ok(if diagnosis.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn install(args: &InstallArgs) -> anyhow::Result<()> {
    let installed = args.place()?.install()?;
    installed.notes.iter().for_each(|note| say(note));
    Ok(writeln!(io::stdout(), "{}", installed.path.display())?)
}

fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    end_on_signals()?;
    if let Some(host) = &args.awaited {
        return wait(host, args);
    }
    let readiness = match args.http_address {
        Some(address) => Some(Readiness::serve(address)?.0),
        None => None,
    };
    let tell = |line: &str| {
        say(line);
        readiness.iter().for_each(|readiness| readiness.waits_for(line));
    };
    let (place, grace) = (args.install.place()?, Duration::from_secs(args.grace));
    let removal = place.uninstall(&args.report_dir, grace, tell)?;
    for path in &removal.removed {
        writeln!(io::stdout(), "removed {}", path.display())?;
    }
    removal.left.iter().for_each(|left| say(&format!("left: {left}")));
    if let Some(readiness) = readiness {
        readiness.is_done();
        // Until a signal: whoever asks is to find somebody.
        loop {
            thread::park();
        }
    }
    Ok(())
}

fn wait(host: &str, args: &UninstallArgs) -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    match wait_for(host, seconds(args.timeout), args.nobody_after.map(seconds))? {
        Awaited::Ready(count) => say(&format!("all {count} addresses of {host} are ready")),
        Awaited::Nobody => say(&format!("{host} has no address, so there is nobody to wait for")),
    }
    Ok(())
}

/// Writes to standard output. Who reads it may have seen enough (`head`).
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes a line to standard error. That it can't be written, to a full disk say, must not become another failure.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "nri-ldcache: {line}");
}
