//! The HTTP server of the daemon, and its worst clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::endpoint::{Answer, converse};
use crate::matrix::binary;
use crate::served::{Served, gpu};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_there_is_answered_and_only_to_readers() -> Result<()> {
    let served = Served::start(&[])?;
    for (path, status) in [("/metrics", 200), ("/healthz", 200), ("/", 404), ("/metrics/", 404)] {
        ensure!(served.get(path)?.status == status, "{path}");
    }
    ensure!(served.get("/healthz?verbose")?.status == 200);
    let ask = |head: &str| converse(served.address, &format!("{head}\r\nHost: x\r\n\r\n"));
    let head = Answer::parse(&ask("HEAD /metrics HTTP/1.1")?)?;
    ensure!(head.status == 200 && head.body.is_empty(), "{head:?}");
    let post = Answer::parse(&ask("POST /metrics HTTP/1.1")?)?;
    ensure!(post.status == 405 && post.head.contains("allow: get, head"), "{post:?}");
    ensure!(post.head.contains("connection: close"), "{post:?}");
    for (accept, kind) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let answer = Answer::parse(&ask(&format!("GET /metrics HTTP/1.1\r\nAccept: {accept}"))?)?;
        ensure!(answer.head.contains(&format!("content-type: {kind}")), "{answer:?}");
        ensure!(answer.body.ends_with("# EOF\n") == kind.contains("openmetrics"), "{answer:?}");
    }
    let long = ask(&format!("GET /{} HTTP/1.1", "x".repeat(20_000)));
    ensure!(long.is_err() || !long?.contains(" 200 "), "20,000 bytes of request");
    Ok(())
}

/// As `printf … | nc` does. That it has closed its side may be seen before the answer is written, or after.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_no_more_to_say_is_answered() -> Result<()> {
    let served = Served::start(&[])?;
    for number in 0..1000 {
        let mut client = TcpStream::connect(served.address)?;
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{number}: {answer:?}");
    }
    Ok(())
}

/// Clients that say nothing keep neither a probe out nor the runtime waiting.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_delay_nobody() -> Result<()> {
    let served = Served::start(&[])?;
    let mut runtime = served.registered().await?;
    let mut slow: Vec<_> =
        (0..200).map(|_| TcpStream::connect(served.address)).collect::<Result<_, _>>()?;
    for stream in &mut slow {
        // Some of them are gone already, for others came after them.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
    }
    let start = Instant::now();
    served.is(200, 200, "ok\n")?;
    for number in 0..100 {
        let (pod, container) = gpu(&number.to_string());
        runtime.create_container(pod, container).await?;
    }
    ensure!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = String::new();
        // What is read until the end may be a 408, nothing, or a reset; but it ends.
        if let Err(error) = stream.read_to_string(&mut answer) {
            ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", served.daemon.id()))?.count();
    ensure!(descriptors < 30, "{descriptors} descriptors");
    Ok(())
}

/// All that wait are accepted one after the other: the probe among them must not lose its place before it is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_in_a_crowd_is_answered() -> Result<()> {
    let served = Served::start(&[])?;
    served.signal("STOP")?;
    let connect = || TcpStream::connect(served.address);
    let mut crowd: Vec<_> = (0..40).map(|_| connect()).collect::<Result<_, _>>()?;
    let mut probe = connect()?;
    probe.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    for _ in 0..40 {
        crowd.push(connect()?);
    }
    served.signal("CONT")?;
    let mut answer = String::new();
    probe.set_read_timeout(Some(Duration::from_secs(5)))?;
    probe.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_had_ends_the_daemon_before_it_registers() -> Result<()> {
    let served = Served::start(&[])?;
    let address = served.address.to_string();
    for (address, named) in [
        (&*address, "listen on 127.0.0.1:"),
        ("192.0.2.1:80", "listen on 192.0.2.1:80"),
        ("localhost:80", "\"localhost\" is not an IP address"),
    ] {
        let mut command = Command::new(binary());
        command.args(["run", "--http-address", address, "--socket-path", "/nowhere"]);
        let output = command.env_clear().output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(named), "{said}");
        ensure!(said.lines().count() == 1, "{said}");
    }
    Ok(())
}
