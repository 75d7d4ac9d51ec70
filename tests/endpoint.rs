//! What the daemon serves over HTTP, as a client sees it: raw, for a library would mend what is to be seen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::node::Node;

/// Where daemons in nodes serve.
pub(crate) const ADDRESS: &str = "127.0.0.1:9177";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends bytes to an address of this machine; what comes back until the end.
pub(crate) fn converse(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    Ok(answer)
}

/// Gets a page from an address of this machine.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    Answer::parse(&converse(address, &request(path))?)
}

/// Gets a page from a daemon in a node.
pub(crate) fn get_inside(node: &Node, address: &str, path: &str) -> Result<Answer> {
    let (host, port) = address.rsplit_once(':').context("no port")?;
    let mut command = node.command("busybox");
    command.args(["nc", host, port]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    // Fails where nobody listens, which the missing answer tells.
    let _ = stdin.write_all(request(path).as_bytes());
    let output = child.wait_with_output()?;
    drop(stdin);
    Answer::parse(&String::from_utf8(output.stdout)?)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{text:?}"))?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Self { status, head: head.to_lowercase(), body: body.to_owned() })
    }
}

/// The value of a sample, named with its labels.
pub(crate) fn sample(metrics: &str, name: &str) -> Result<f64> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(&format!("nri_ldcache_{name} ")));
    let value = value.with_context(|| format!("no sample {name} in\n{metrics}"))?;
    Ok(value.parse()?)
}

/// The sum of all samples of a name that have this label.
pub(crate) fn sum(metrics: &str, name: &str, label: &str) -> Result<f64> {
    let prefix = format!("nri_ldcache_{name}{{");
    let samples = metrics.lines().filter(|line| line.starts_with(&prefix) && line.contains(label));
    let values: Vec<_> = samples.filter_map(|line| line.rsplit_once(' ')).collect();
    ensure!(!values.is_empty(), "no sample of {name} with {label}");
    values.into_iter().map(|(_, value)| Ok(value.parse::<f64>()?)).sum()
}
