//! Uninstalling leaves a host as it was found.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ground::{Ground, Program, failed};
use crate::shell;

const PATIENCE: Duration = Duration::from_secs(20);

/// Uses the host as a daemon, hooks and killed installations would.
fn use_it(ground: &Ground) -> Result<()> {
    let installed = ground.install(Program::first()?)?;
    ground.install(&Program::other("removal")?)?;
    fs::write(ground.dir().join(".nri-ldcache-0.0.1-00112233.17f.tmp"), "half")?;
    // A hook that fails reports that, too.
    let reports = ground.root().join("run/nri-ldcache");
    fs::create_dir_all(ground.root().join("run"))?;
    let state = ground.root().join("state.json");
    fs::write(
        &state,
        r#"{"ociVersion":"1.1.0","id":"c1","status":"creating","bundle":"/nowhere"}"#,
    )?;
    let mut hook = Command::new(installed);
    hook.args(["update-ldcache", "--on-failure=warn", "--report-dir"]).arg(&reports);
    shell::output(hook.arg("--container-spec").arg(&state))?;
    fs::remove_file(state)?;
    ensure!(reports.join("c1.json").exists(), "no report");
    fs::write(reports.join("c2.8.tmp"), "{")?;
    Ok(())
}

#[test]
fn a_host_is_left_as_it_was_found() -> Result<()> {
    let prepare: [fn(&Ground) -> Result<()>; 2] = [
        |_| Ok(()),
        |ground| {
            for dir in [ground.dir(), ground.root().join("run/nri-ldcache")] {
                fs::create_dir_all(dir.join("directory/below"))?;
                fs::write(dir.join("nri-ldcache"), "by hand")?;
                fs::write(dir.join("foreign.json"), r#"{"id":"c1"}"#)?;
                std::os::unix::fs::symlink("/etc/passwd", dir.join("nri-ldcache-1.0.0-00112233"))?;
            }
            Ok(())
        },
    ];
    for prepare in prepare {
        let ground = Ground::new()?;
        fs::create_dir(ground.root().join("run"))?;
        prepare(&ground)?;
        let before = ground.tree()?;
        use_it(&ground)?;
        ensure!(ground.tree()? != before, "nothing was done");
        let output = ground.uninstall(&["--grace=0"])?.output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "{said}");
        ensure!(ground.tree()? == before, "{said}\n{}\n\n{before}", ground.tree()?);
        let foreign = before.lines().filter(|line| line.contains("foreign")).count();
        ensure!(said.matches("foreign.json is not ours").count() == foreign, "{said}");
        ensure!(said.matches("00112233 is a symbolic link").count() == foreign, "{said}");
        // Once more: there is nothing to do.
        ensure!(ground.uninstall(&["--grace=0"])?.output()?.stdout.is_empty());
    }
    Ok(())
}

fn wait(child: &mut Child) -> Result<bool> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    anyhow::bail!("it does not end")
}

#[test]
fn a_daemon_is_waited_for_and_then_the_grace() -> Result<()> {
    let ground = Ground::new()?;
    let installed = ground.install(Program::first()?)?;
    let daemon = fs::File::open(&installed)?;
    daemon.lock_shared()?;
    let mut child =
        ground.uninstall(&["--grace=2"])?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
    let line = lines.next().context("nothing said")??;
    ensure!(
        line.ends_with(&format!("waiting for the daemon that injects {}", installed.display())),
        "{line}"
    );
    thread::sleep(Duration::from_secs(3));
    ensure!(installed.exists() && child.try_wait()?.is_none(), "it did not wait for the daemon");
    drop(daemon);
    let free = Instant::now();
    let line = lines.next().context("nothing said")??;
    ensure!(line.ends_with("waiting 2 s for containers that are being created"), "{line}");
    ensure!(wait(&mut child)?, "failed");
    ensure!(free.elapsed() > Duration::from_millis(1500), "it did not wait for the grace");
    ensure!(!ground.dir().exists());
    Ok(())
}

/// After the grace there may be somebody else at work in the directory, and until that one is done, a daemon may start.
#[test]
fn a_daemon_that_starts_at_the_last_moment_keeps_its_version() -> Result<()> {
    let ground = Ground::new()?;
    let installed = ground.install(Program::first()?)?;
    let other = fs::File::open(ground.dir())?;
    other.lock()?;
    let mut child =
        ground.uninstall(&["--grace=0"])?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
    thread::sleep(Duration::from_secs(1));
    let daemon = fs::File::open(&installed)?;
    daemon.lock_shared()?;
    drop(other);
    let line = lines.next().context("nothing said")??;
    ensure!(line.contains("waiting for the daemon that injects"), "{line}");
    ensure!(installed.exists(), "it is gone, and injected");
    // Meanwhile the directory is nobody's: whoever installs does not wait.
    let start = Instant::now();
    ground.install(Program::first()?)?;
    ensure!(start.elapsed() < PATIENCE, "the directory stays locked");
    drop(daemon);
    ensure!(wait(&mut child)? && !ground.dir().exists(), "it was not removed");
    Ok(())
}

/// A port that nobody has now.
fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn readyz(port: u16) -> Result<String> {
    let mut peer = TcpStream::connect(("127.0.0.1", port))?;
    std::io::Write::write_all(&mut peer, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    peer.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn whoever_awaits_an_uninstallation_sees_it_done() -> Result<()> {
    let (ground, port) = (Ground::new()?, port()?);
    let daemon = fs::File::open(ground.install(Program::first()?)?)?;
    daemon.lock_shared()?;
    let mut cleanup = ground.uninstall(&["--grace=0", &format!("--http-address=:{port}")])?;
    let mut cleanup = cleanup.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let host = format!("localhost:{port}");
    let awaited = |timeout: &str| ground.uninstall(&["--await", &host, timeout]);
    let said = failed(awaited("--timeout=2")?.output()?)?;
    ensure!(said.contains(&format!("wait for {host}: ")), "{said}");
    let answer = readyz(port)?;
    ensure!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("waiting for the daemon"),
        "{answer}"
    );
    drop(daemon);
    ensure!(wait(&mut awaited("--timeout=20")?.spawn()?)?, "it did not see the end");
    ensure!(readyz(port)?.starts_with("HTTP/1.1 200 ") && !ground.dir().exists());
    // It stays until it is told to go.
    ensure!(cleanup.try_wait()?.is_none(), "it did not stay");
    shell::output(Command::new("kill").arg(cleanup.id().to_string()))?;
    ensure!(!wait(&mut cleanup)?, "a signal is not success");
    Ok(())
}

#[test]
fn a_mount_point_stays_and_is_told() -> Result<()> {
    if !crate::node::possible() {
        return Ok(());
    }
    let ground = Ground::new()?;
    fs::create_dir(ground.dir())?;
    let (install, uninstall) =
        (ground.command(Program::first()?), ground.uninstall(&["--grace=0"])?);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
    command.arg(r#"mount -t tmpfs -o mode=755 tmpfs "$1"; "$2" install "$3" "$4"; "$2" uninstall "$3" "$4" --grace=0; ls -A "$1""#);
    command
        .arg("sh")
        .arg(ground.dir())
        .arg(install.get_program())
        .args(uninstall.get_args().skip(1));
    let output = command.output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success() && said.contains("nri-ldcache is a mount point"), "{said}");
    ensure!(ground.names()?.is_empty());
    Ok(())
}
