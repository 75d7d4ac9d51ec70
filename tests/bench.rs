//! What the hook and the daemon cost: `cargo bench`, as root.
//!
//! Every figure is a median of runs that alternate with those it is compared with, on one machine, in one go.
#![allow(dead_code, reason = "shares modules with the tests, which use all of them")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

#[path = "cache.rs"]
mod cache;
#[path = "bench/cost.rs"]
mod cost;
#[path = "bench/daemon.rs"]
mod daemon;
#[path = "debian.rs"]
mod debian;
#[path = "image.rs"]
mod image;
#[path = "bench/overlay.rs"]
mod overlay;
#[path = "shell.rs"]
mod shell;
#[path = "bench/sized.rs"]
mod sized;

use cost::Cost;
use overlay::Overlay;
use sized::Sized;

/// What is measured, as `program` has it.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
const RUNS: usize = 41;
const COLD_RUNS: usize = 9;

fn main() -> Result<()> {
    // Mounts are made in a namespace that ends with this program.
    let args: Vec<_> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--inside") => return measure(args.get(2).context("no program")?),
        Some("--without") => return without_layers(&args[2..]),
        Some("--with") => bail!("{}", Command::new(&args[2]).args(&args[3..]).exec()),
        _ => {}
    }
    // A copy, as what is installed on a node: of what a linker wrote the kernel maps smaller parts at once, and a run takes
    // 0.4 ms more.
    let scratch = tempfile::tempdir()?;
    let program = scratch.path().join("nri-ldcache");
    fs::copy(env!("CARGO_BIN_EXE_nri-ldcache"), &program)?;
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .arg("--inside")
        .arg(&program);
    ensure!(unshare.status().context("start unshare")?.success(), "the benchmark failed");
    Ok(())
}

/// The program that is measured.
fn program() -> &'static Path {
    PROGRAM.get().expect("it is set before anything is measured")
}

fn measure(program: &str) -> Result<()> {
    let program = PROGRAM.get_or_init(|| program.into());
    // Reports are written there, and on a node it is a tmpfs: a disk would be measured with each.
    shell::output(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    println!("binary: {:.2} MiB", fs::metadata(program)?.len() as f64 / f64::from(1 << 20));
    daemon::memory()?;
    println!();
    println!(
        "a refresh: `ldconfig -r ROOT {DRIVER}` alone (-f FILE -C FILE, as the hook runs it), and the hook with each engine, all of\nwhich make the same cache;"
    );
    println!(
        "medians of {RUNS} alternating runs with a warm page cache, of {COLD_RUNS} after it was dropped, each in a new container"
    );
    println!(
        "files that are opened, in the root and in all, bytes that are read (of libraries that ldconfig maps: none), and bytes that\ncome from the disk; of the files in the root three are the added ones"
    );
    println!(
        "{:>9} {:<4} {:>19} {:>19} {:>19} {:>19}",
        "libraries", "", "ldconfig -r", "hook, ldconfig", "hook, native", "hook, incremental"
    );
    let sizes = [0, 930, 2930, 9930].map(Sized::new).into_iter().collect::<Result<Vec<_>>>()?;
    // Or a disk is written to while the first of them is measured.
    shell::output(&mut Command::new("sync"))?;
    sizes.iter().try_for_each(engines)?;
    incremental(&sizes)?;
    layers()?;
    alone()
}

/// All ways to refresh a root.
fn engines(size: &Sized) -> Result<()> {
    let (count, root) = (size.count, size.container.root());
    let ways: [&dyn Fn() -> Command; 4] =
        [&|| bare_with_driver(&root), &|| size.hook("ldconfig"), &|| size.hook("native"), &|| {
            size.hook("incremental")
        }];
    let caches = ways.map(|way| {
        size.warm()?;
        time(&mut way())?;
        Ok(fs::read(root.join("etc/ld.so.cache"))?)
    });
    let caches = caches.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(caches.iter().all(|cache| *cache == caches[0]), "caches of {count} libraries differ");
    row(count, "warm", &rounds(&ways, RUNS, |_| size.warm())?);
    row(count, "cold", &rounds(&ways, COLD_RUNS, |_| size.cold())?);
    let mut costs = Vec::new();
    for way in ways {
        size.cold()?;
        let fetched = cost::fetched(&mut way())?;
        size.warm()?;
        costs.push(Cost { fetched, ..Cost::traced(&way())? });
    }
    cells(count, &costs, |cost| {
        format!("{:>12} opened", format!("{} of {}", cost.in_root, cost.opened))
    });
    cells(count, &costs, |cost| format!("{:>10} KiB read", cost.read >> 10));
    cells(count, &costs, |cost| format!("{:>10} KiB disk", cost.fetched >> 10));
    size.warm()?;
    let memory = ENGINES.map(|engine| peak(size.hook(engine), engine));
    let cells = memory.into_iter().collect::<Result<Vec<_>>>()?;
    let cells = cells.iter().map(|peak| format!("{peak:>11.2} MiB max"));
    println!("{count:>9} {:<4} {:>19} {}", "", "", cells.collect::<Vec<_>>().join(" "));
    Ok(())
}

/// How the cost of the incremental engine grows with the image: the roots take turns, so that each run comes behind the same.
/// Beside it, what one read and one write of the cache cost, by a program that does nothing else.
fn incremental(sizes: &[Sized]) -> Result<()> {
    println!(
        "\nthe roots taking turns: the hook, incremental, and one read and one write of the cache (dd);"
    );
    println!(
        "libraries, medians of {RUNS} runs, the hook's ratio to the first, dd's difference to the first, and the hook's ratio without that"
    );
    let hooks = sizes.iter().map(|size| -> Way<'_> { Box::new(|| size.hook("incremental")) });
    let copies = sizes.iter().map(|size| -> Way<'_> { Box::new(|| size.copy()) });
    let ways: Vec<_> = hooks.chain(copies).collect();
    let ways: Vec<_> = ways.iter().map(AsRef::as_ref).collect();
    let at = |turn: usize| sizes.get(turn % sizes.len()).context("no such root");
    for (name, times) in [
        ("warm", rounds(&ways, RUNS, |turn| at(turn)?.warm())?),
        ("cold", rounds(&ways, RUNS, |turn| at(turn)?.cold())?),
    ] {
        let (hooks, copies) = times.split_at(sizes.len());
        for ((size, hook), copy) in sizes.iter().zip(hooks).zip(copies) {
            let more = copy.as_secs_f64() - copies[0].as_secs_f64();
            let ratio = |seconds: f64| seconds / hooks[0].as_secs_f64();
            println!(
                "{:>9} {name:<4} {:>12} {:>5.2}× {:>12} {:>+5.2} ms {:>5.2}×",
                size.count,
                milliseconds(*hook),
                ratio(hook.as_secs_f64()),
                milliseconds(*copy),
                more * 1000.0,
                ratio(hook.as_secs_f64() - more)
            );
        }
    }
    Ok(())
}

type Way<'a> = Box<dyn Fn() -> Command + 'a>;

/// Where the driver is.
const DRIVER: &str = "/opt/driver";

const ENGINES: [&str; 3] = ["ldconfig", "native", "incremental"];

fn bare(root: &Path) -> Command {
    let mut ldconfig = Command::new("ldconfig");
    ldconfig.args(["-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache", "-r"]).arg(root);
    ldconfig
}

/// What a hook is asked for, too.
fn bare_with_driver(root: &Path) -> Command {
    let mut ldconfig = bare(root);
    ldconfig.arg(DRIVER);
    ldconfig
}

fn row(count: usize, name: &str, times: &[Duration]) {
    let first = times[0].as_secs_f64();
    let ratio = |time: &Duration| time.as_secs_f64() / first;
    let cells =
        times.iter().map(|time| format!("{:>12} {:>5.2}×", milliseconds(*time), ratio(time)));
    println!("{count:>9} {name:<4} {}", cells.collect::<Vec<_>>().join(" "));
}

/// Medians of each way's times, the ways taking turns; what `prepare` does for each is not counted.
fn rounds(
    ways: &[&dyn Fn() -> Command],
    runs: usize,
    prepare: impl Fn(usize) -> Result<()>,
) -> Result<Vec<Duration>> {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..runs {
        for (turn, (way, times)) in ways.iter().zip(&mut times).enumerate() {
            prepare(turn)?;
            times.push(time(&mut way())?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn cells(count: usize, costs: &[Cost], cell: impl Fn(&Cost) -> String) {
    let cells = costs.iter().map(cell).collect::<Vec<_>>().join(" ");
    println!("{count:>9} {:<4} {cells}", "");
}

/// The most memory of a run in MiB, by its report.
fn peak(mut hook: Command, engine: &str) -> Result<f64> {
    time(&mut hook)?;
    let report = fs::read_to_string("/run/nri-ldcache/bench.json")?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    ensure!(report["engine"] == engine, "{report}");
    Ok(report["memory"].as_f64().context("no memory in the report")? / 1024.0)
}

/// The hook with all layers of its sandbox, and where the kernel seems to have none of them.
fn layers() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let container = Overlay::new(&scratch.path().join("container"), &[&image::root()?])?;
    let root = container.root();
    let (with, without) = alternate(
        || hook_on(&root, scratch.path(), Some("--with"), "auto"),
        || hook_on(&root, scratch.path(), Some("--without"), "auto"),
    )?;
    println!(
        "\nthe hook with all layers of its sandbox: {}; without seccomp, Landlock and capabilities, so that namespaces stand in: {}",
        milliseconds(with),
        milliseconds(without)
    );
    Ok(())
}

/// What is the same for every root: the hook's two processes, the jail and the configuration, around an engine that has nothing
/// to do.
fn alone() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let empty = scratch.path().join("empty");
    fs::create_dir_all(empty.join("etc"))?;
    let container = Overlay::new(&scratch.path().join("container"), &[&empty])?;
    let hook = || hook_on(&container.root(), scratch.path(), None, "native");
    let times = rounds(&[&hook], RUNS, |_| container.restore())?;
    println!("the hook, native, for a root without libraries: {}", milliseconds(times[0]));
    Ok(())
}

/// Becomes a program for which the system calls of the layers do not exist.
fn without_layers(command: &[String]) -> Result<()> {
    let calls = [libc::SYS_seccomp, libc::SYS_landlock_create_ruleset, libc::SYS_capset];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    bail!("{}", Command::new(&command[0]).args(&command[1..]).exec())
}

/// The hook for a root, started by this program in the role `by`, or directly.
fn hook_on(root: &Path, scratch: &Path, by: Option<&str>, engine: &str) -> Command {
    let state = scratch.join("state.json");
    let text = format!(r#"{{"id":"bench","bundle":"/","root":"{}"}}"#, root.display());
    fs::write(&state, text).expect("the scratch directory can be written");
    let mut hook = match by {
        Some(role) => {
            let mut this = Command::new(std::env::current_exe().expect("this program is a file"));
            this.arg(role).arg(program());
            this
        }
        None => Command::new(program()),
    };
    // Under strace(1) ldconfig takes longer than a hook usually may.
    hook.args(["update-ldcache", "--timeout=60"]).arg(format!("--folder={DRIVER}"));
    hook.arg(format!("--engine={engine}")).arg(format!("--container-spec={}", state.display()));
    hook
}

fn alternate(
    one: impl Fn() -> Command,
    other: impl Fn() -> Command,
) -> Result<(Duration, Duration)> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        left.push(time(&mut one())?);
        right.push(time(&mut other())?);
    }
    Ok((median(left), median(right)))
}

fn time(command: &mut Command) -> Result<Duration> {
    command.env_clear().env("PATH", "/usr/sbin:/sbin").stdin(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let taken = start.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(taken)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
