//! `inspect`: what it prints, and what it says of what is no cache.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::image;

fn inspect(path: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
    command.args(["inspect", path]);
    command
}

#[test]
fn a_root_and_its_file_are_the_same_also_by_a_link_from_elsewhere() -> Result<()> {
    let (root, scratch) = (image::root()?, tempfile::tempdir()?);
    let (file, link) = (root.join("etc/ld.so.cache"), scratch.path().join("link"));
    symlink(&file, &link)?;
    let listed = |path: &str| -> Result<Vec<String>> {
        let output = inspect(path).output()?;
        ensure!(output.status.success(), "{output:?}");
        // The first line has the name of the file.
        Ok(String::from_utf8(output.stdout)?.lines().skip(1).map(str::to_owned).collect())
    };
    let of_root = listed(root.to_str().context("a path is text")?)?;
    ensure!(of_root.iter().any(|line| line.contains("libc.so.6 (libc6,x86-64) => /")));
    for path in [file, link] {
        ensure!(listed(path.to_str().context("a path is text")?)? == of_root);
    }
    Ok(())
}

#[test]
fn what_is_no_cache_is_told_by_its_name() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    fs::create_dir(path("bare"))?;
    fs::write(path("text"), "text")?;
    for (path, said) in [
        (path("bare"), format!("{} has no /etc/ld.so.cache", path("bare"))),
        (path("none"), format!("open {}: No such file or directory (os error 2)", path("none"))),
        (path("text"), format!("read {}: not a linker cache", path("text"))),
        ("/dev/null".into(), "read /dev/null: not a regular file".into()),
    ] {
        let output = inspect(&path).output()?;
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{path}");
        ensure!(stderr == format!("nri-ldcache: {said}\n"), "{stderr}");
    }
    Ok(())
}

/// As of `| head -1`.
#[test]
fn who_has_seen_enough_is_no_failure() -> Result<()> {
    let root = image::root()?;
    let mut command = inspect(root.to_str().context("a path is text")?);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().context("stderr is piped")?.read_to_string(&mut said)?;
    let status = child.wait()?;
    ensure!(status.success() && said.is_empty(), "{status}: {said}");
    // But what could not be written is one.
    let full = fs::File::options().write(true).open("/dev/full")?;
    let output = command.stdout(full).output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && said.contains("No space left"), "{said}");
    Ok(())
}
