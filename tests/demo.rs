//! The main job in one minute: a GPU pod on a real containerd, without the plugin and with it.
//!
//! `cargo run --example demo -- --node trixie --runtime crun`

// The tests' own parts; the demo uses the half of them.
#![allow(dead_code, reason = "the tests use the rest")]

mod cache;
mod containerd;
mod cri;
mod daemon;
mod debian;
mod endpoint;
mod gpu;
mod image;
mod installation;
mod node;
mod pod;
mod shell;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use installation::Installation;
use node::Release;
use pod::{Container, Pod};

/// Runs a GPU pod on a real containerd, before and after the plugin is started.
#[derive(Debug, Parser)]
struct Options {
    /// forky (containerd 2.1) or trixie (containerd 1.7)
    #[arg(long, default_value = "forky")]
    node: Release,
    /// runc or crun
    #[arg(long, default_value = "runc")]
    runtime: String,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut node = Installation::without_plugin(options.node, &binary()?)?;
    let name = |program| node.containerd.node().run(&[program, "--version"]);
    println!(
        "{}{}",
        name("containerd")?,
        name(&options.runtime)?.lines().next().unwrap_or_default()
    );

    println!("\nWithout the plugin:");
    show(&node, &options.runtime)?;
    node.start_plugin()?;
    println!("\nWith the plugin:");
    let greeting = show(&node, &options.runtime)?;
    ensure!(
        greeting == gpu::GREETING,
        "the library was not found; the last lines of\n{}",
        node.logs()
    );
    Ok(())
}

/// Runs the pod and shows what its container sees; what the program printed.
fn show(node: &Installation, runtime: &str) -> Result<String> {
    let logged = log(node).len();
    let sandbox = node.containerd.cri().sandbox(&Pod::new("demo", runtime))?;
    let container: Container = gpu::with_app("app").cdi(gpu::CDI);
    let id = sandbox.run(&container)?;
    for line in log(node)[logged..].lines() {
        println!("  plugin: {line}");
    }
    for hook in node.containerd.hooks(&id)? {
        println!("  hook: {}", command_line(&hook));
    }
    for line in ["ldconfig -p | grep -E 'cuda|nvidia'", gpu::APP] {
        println!("  $ {line}");
        let ran = sandbox.exec(&id, &["sh", "-c", line])?;
        let printed = ran.stdout + &ran.stderr;
        let printed = if printed.is_empty() { "(nothing)" } else { printed.trim() };
        for line in printed.lines() {
            println!("    {}", line.trim());
        }
    }
    Ok(sandbox.exec(&id, &[gpu::APP])?.stdout)
}

fn log(node: &Installation) -> String {
    node.plugin.as_ref().map(daemon::Daemon::log).unwrap_or_default()
}

/// A hook as a shell would be given it: the path in place of `argv[0]`.
fn command_line(hook: &serde_json::Value) -> String {
    let args = hook["args"].as_array().into_iter().flatten().skip(1);
    let words = [&hook["path"]].into_iter().chain(args).filter_map(|word| word.as_str());
    words.collect::<Vec<_>>().join(" ")
}

/// The binary of this example's own profile, brought up to date first: cargo builds an example without it.
fn binary() -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--bin", "nri-ldcache"]);
    cargo.args((!cfg!(debug_assertions)).then_some("--release"));
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    ensure!(built.success(), "build nri-ldcache: {built}");
    let example = env::current_exe()?;
    let profile = example.ancestors().nth(2).context("the example lies in no target directory")?;
    Ok(profile.join("nri-ldcache"))
}
