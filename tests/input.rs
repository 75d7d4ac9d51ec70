//! Bad input: one line that names the object, the exit code of its kind, and a root that is as it was.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const FAILED: i32 = 1;
const USAGE: i32 = 64;

/// Runs the program with `input` as standard input and an environment of nothing.
fn run(args: &[&str], input: &[u8]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
    command.args(args).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // A program that does not read all of it has decided already.
    drop(child.stdin.take().context("stdin is piped")?.write_all(input));
    Ok(child.wait_with_output()?)
}

/// Checks exit code and message of a run that must fail.
fn refused(args: &[&str], input: &[u8], code: i32, named: &str) -> Result<()> {
    let output = run(args, input)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let found = output.status.code();
    ensure!(found == Some(code), "{args:?}: exit code {found:?}, not {code}: {said}");
    ensure!(said.lines().count() == 1, "{args:?}: not one line: {said}");
    ensure!(said.starts_with("nri-ldcache: "), "{args:?}: {said}");
    ensure!(said.contains(named), "{args:?}: {named:?} is not in {said}");
    Ok(())
}

/// A bundle with a small root, on this machine.
struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new() -> Result<Self> {
        let bundle = Self(tempfile::tempdir()?);
        fs::create_dir_all(bundle.path("rootfs/etc"))?;
        fs::write(bundle.path("rootfs/etc/ld.so.conf"), "/lib\n")?;
        bundle.config(r#"{"root":{"path":"rootfs"}}"#)?;
        Ok(bundle)
    }

    fn path(&self, part: &str) -> PathBuf {
        self.0.path().join(part)
    }

    fn config(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.path("config.json"), text)?)
    }

    fn state(&self) -> String {
        format!(
            r#"{{"ociVersion":"1.1.0","id":"x","status":"creating","bundle":"{}"}}"#,
            self.0.path().display()
        )
    }

    /// Must fail with `named`, and leave the root alone; what is no mistake of the command line is reported, too.
    fn refused(&self, args: &[&str], code: i32, named: &str) -> Result<()> {
        let before = files(&self.path("rootfs"))?;
        let reports = format!("--report-dir={}", self.path("reports").display());
        let args = [&["update-ldcache", &reports], args].concat();
        refused(&args, self.state().as_bytes(), code, named)?;
        ensure!(files(&self.path("rootfs"))? == before, "{args:?}: the root changed");
        if code == FAILED {
            let report = fs::read_to_string(self.path("reports/x.json"))?;
            let report: serde_json::Value = serde_json::from_str(&report)?;
            let reason = report["reason"].as_str().unwrap_or_default();
            ensure!(report["outcome"] == "failed" && reason.contains(named), "{report}");
        }
        Ok(())
    }
}

fn files(path: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let meta = path.symlink_metadata()?;
        found.push(format!("{} {:?} {:?}", path.display(), meta.permissions(), meta.modified()?));
        if meta.is_dir() {
            found.extend(files(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn bad_states_are_refused() -> Result<()> {
    let mut huge = br#"{"bundle":"/b","id":""#.to_vec();
    huge.resize(5 << 20, b'a');
    huge.extend(b"\"}");
    for (state, named) in [
        (&b"{\"bundle\":\"/b"[..], "read state from standard input: not the JSON expected"),
        (b"", "read state from standard input: not the JSON expected"),
        (b"hello", "read state from standard input: not the JSON expected"),
        (b"{\"bundle\":\"/\xff\"}", "read state from standard input: not UTF-8"),
        (&huge, "read state from standard input: larger than 4 MiB"),
        (b"{\"bundle\":\"/nowhere\"}", "open /nowhere/config.json: No such file"),
        (b"{\"bundle\":\"\"}", "read state from standard input: neither a bundle"),
    ] {
        for spec in [&[][..], &["--container-spec="], &["--container-spec", "-"]] {
            refused(&[&["update-ldcache"], spec].concat(), state, FAILED, named)?;
        }
    }
    refused(&["update-ldcache", "--container-spec", "/nowhere"], b"", FAILED, "open state /nowhere")
}

#[test]
fn bad_bundles_are_refused() -> Result<()> {
    let bundle = Bundle::new()?;
    fs::write(bundle.path("file"), "")?;
    symlink("/", bundle.path("link"))?;
    symlink("loop", bundle.path("loop"))?;
    for (config, named) in [
        (r#"{"root":{"path":"missing"}}"#, "/missing: ENOENT"),
        (r#"{"root":{"path":"file"}}"#, "/file is not a directory"),
        (r#"{"root":{"path":"link"}}"#, "/link is the host's own /"),
        (r#"{"root":{"path":"loop"}}"#, "/loop: ELOOP"),
        (r#"{"root":{"path":"/"}}"#, "root / is the host's own /"),
        (r#"{"root":{"path":""}}"#, "root path is empty"),
        (r#"{"root":{}}"#, "config.json: not the JSON expected"),
        (r#"{"root":"#, "config.json: not the JSON expected"),
    ] {
        bundle.config(config)?;
        bundle.refused(&[], FAILED, named)?;
    }
    fs::remove_file(bundle.path("config.json"))?;
    fs::create_dir(bundle.path("config.json"))?;
    bundle.refused(&[], FAILED, "config.json: Is a directory")
}

#[test]
fn a_state_may_come_from_a_file() -> Result<()> {
    let bundle = Bundle::new()?;
    fs::write(bundle.path("state"), "{}")?;
    let path = bundle.path("state").display().to_string();
    refused(
        &["update-ldcache", "--container-spec", &path],
        b"",
        FAILED,
        &format!("read state {path}"),
    )
}

#[test]
fn bad_ldconfigs_are_refused() -> Result<()> {
    let bundle = Bundle::new()?;
    let program = bundle.path("ldconfig");
    let path = program.display().to_string();
    let args = ["--engine=ldconfig", "--ldconfig-path", &*path];
    bundle.refused(&args, FAILED, &format!("open ldconfig {path}"))?;
    fs::write(&program, format!("#!/bin/sh\n{}", "#".repeat(100)))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    bundle.refused(&args, FAILED, &format!("check ldconfig {path}: a script"))?;
    fs::write(&program, "")?;
    bundle.refused(&args, FAILED, &format!("check ldconfig {path}: not an ELF file"))?;
    fs::copy("/bin/true", &program)?;
    bundle.refused(&args, FAILED, &format!("check ldconfig {path}: dynamically linked"))?;
    fs::remove_file(&program)?;
    fs::create_dir(&program)?;
    bundle.refused(&args, FAILED, &format!("ldconfig {path} is not a regular file"))
}

#[test]
fn bad_folders_are_refused() -> Result<()> {
    let bundle = Bundle::new()?;
    for (folder, named) in [
        ("lib", "\"lib\" is not absolute"),
        ("/a/../../etc", "contains .."),
        ("/a\n/b", "contains '\\n'"),
        ("-f", "starts with -"),
        ("", "folder is empty"),
        ("/ok,bad", "\"bad\" is not absolute"),
    ] {
        bundle.refused(&[&format!("--folder={folder}")], USAGE, named)?;
    }
    bundle.refused(&["--folders=/a"], USAGE, "--folders")?;
    bundle.refused(&["--ldconfig-path=ldconfig"], USAGE, "\"ldconfig\" is not absolute")?;
    bundle.refused(&["--ldconfig-path=@"], USAGE, "not absolute")?;
    bundle.refused(&["--timeout=0"], USAGE, "--timeout")
}

#[test]
fn warning_is_told_and_exits_zero() -> Result<()> {
    for (args, named) in [
        (&["--on-failure=warn"][..], "read state"),
        (&["--on-failure", "warn", "--folder=relative"], "not absolute"),
        (&["--on-failure=warn", "--of-a-newer-version"], "--of-a-newer-version"),
    ] {
        let output = run(&[&["update-ldcache"], args].concat(), b"hello")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.contains(named), "{output:?}");
    }
    Ok(())
}

/// A full disk under the log, or a reader that is gone.
#[test]
fn a_message_that_cannot_be_written_is_no_failure() -> Result<()> {
    for (args, code) in [(&["--on-failure=warn"][..], 0), (&[], FAILED)] {
        let full = fs::File::options().write(true).open("/dev/full")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
        let status =
            command.arg("update-ldcache").args(args).stdin(Stdio::null()).stderr(full).status()?;
        ensure!(status.code() == Some(code), "{args:?}: {status}");
    }
    Ok(())
}

#[test]
fn a_state_that_does_not_come_is_waited_for_no_longer_than_allowed() -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
    command.args(["update-ldcache", "--timeout=1"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(stdin);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(FAILED) && said.contains("read state"), "{output:?}");
    // To open a FIFO may take as long as to read it.
    let bundle = Bundle::new()?;
    let fifo = bundle.path("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600))?;
    let spec = format!("--container-spec={}", fifo.display());
    refused(&["update-ldcache", "--timeout=1", &spec], b"", FAILED, "read state")?;
    let hook = std::thread::spawn(move || run(&["update-ldcache", "--timeout=20", &spec], b""));
    fs::write(&fifo, r#"{"bundle":"/nowhere"}"#)?;
    let output = hook.join().expect("it returns errors")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("open /nowhere/config.json"), "{said}");
    Ok(())
}

#[test]
fn bad_configurations_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("config.toml");
    let path = file.display().to_string();
    for (text, named) in [
        ("foldesr = []", "line 1: unknown field `foldesr`"),
        ("\n\nmode = 'perhaps'", "line 3: unknown variant `perhaps`"),
        ("folders = ['../x']", "\"../x\" is not absolute"),
        ("idx = '123'", "123"),
        ("idx", "line 1"),
    ] {
        fs::write(&file, text)?;
        refused(&["run", "--config", &path], b"", FAILED, named)?;
    }
    refused(&["run", "--config", "/nowhere.toml"], b"", FAILED, "/nowhere.toml")?;
    refused(&["run", "--config", "/dev/zero"], b"", FAILED, "/dev/zero is larger than 1 MiB")?;
    for (args, named) in [
        (&["run", "--mode", "perhaps"][..], "perhaps"),
        (&["-idx"], "--idx"),
        (&["bogus"], "bogus"),
        (&[], "subcommand"),
        (&["explain", "/nowhere", "--bogus"], "--bogus"),
    ] {
        refused(args, b"", USAGE, named)?;
    }
    refused(&["explain", "/nowhere"], b"", FAILED, "open /nowhere")
}

#[test]
fn an_unsupported_hook_of_the_toolkit_warns_and_exits_zero_under_its_name_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let link = dir.path().join("nvidia-cdi-hook");
    symlink(env!("CARGO_BIN_EXE_nri-ldcache"), &link)?;
    let output = Command::new(&link).args(["create-symlinks", "--link", "a::b"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.contains("create-symlinks"), "{output:?}");
    refused(&["create-symlinks"], b"", USAGE, "create-symlinks")
}

#[test]
fn a_missing_or_refusing_socket_is_told_once_and_waited_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("nri.sock");
    for named in ["No such file", "refused"] {
        if named == "refused" {
            // A socket whose listener is gone, as a stopped runtime leaves it.
            drop(std::os::unix::net::UnixListener::bind(&socket)?);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_nri-ldcache"));
        command.arg("run").arg("--socket-path").arg(&socket).stderr(Stdio::piped());
        let child = command.spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(1500));
        shell_kill(child.id())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let told = said.lines().filter(|line| line.contains("not connected")).collect::<Vec<_>>();
        ensure!(told.len() == 1 && told[0].contains(&socket.display().to_string()), "{said}");
        ensure!(told[0].contains(named), "{said}");
        ensure!(output.status.success() && said.contains("stopped"), "{said}");
    }
    Ok(())
}

fn shell_kill(pid: u32) -> Result<()> {
    let status = Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status()?;
    ensure!(status.success(), "kill {pid}: {status}");
    Ok(())
}

#[test]
fn explain_tells_decision_reason_and_hook() -> Result<()> {
    let config = br#"{"ociVersion":"1.1.0","process":{"env":["NVIDIA_VISIBLE_DEVICES=all"]},
        "mounts":[{"destination":"/usr/local/nvidia","source":"/x"}]}"#;
    let output = run(&["explain", "-", "--hook-path", "/opt/hook"], config)?;
    let said = String::from_utf8_lossy(&output.stdout);
    for part in [
        "decision: update\n",
        "reason: NVIDIA_VISIBLE_DEVICES=all\n",
        "reason: directory /usr/local/nvidia\n",
        "\"path\": \"/opt/hook\"",
        "\"--folder=/usr/local/nvidia/lib64\"",
        "\"--on-failure=warn\"",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    let output = run(&["explain", "-"], br#"{"ociVersion":"1.1.0"}"#)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.starts_with("decision: leave (not-gpu)\nreason: no device"), "{said}");
    Ok(())
}
