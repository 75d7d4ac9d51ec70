//! [`Readiness`]: whether an uninstallation is done, told over HTTP, and asked: what the pods of a chart that is removed have
//! between them. The daemon's own probes are not here.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

/// Most bytes of a request that are looked at.
const REQUEST: usize = 4 << 10;

/// How long one request may take, and one answer may take to come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between looks at who is ready, and how many in a row must find everybody ready: addresses come one by one.
const PERIOD: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 3;

/// What `GET /readyz` answers.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// What is not done yet.
    waiting: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    /// Answers requests to `[HOST]:PORT` from now on, in a thread; without a host, to every address of this machine.
    pub fn serve(address: &str) -> Result<Self> {
        let listener = listen(address).with_context(|| format!("listen on {address}"))?;
        Ok(Self::on(listener))
    }

    fn on(listener: TcpListener) -> Self {
        let readiness = Self { waiting: Arc::new(Mutex::new(Some("not started".to_owned()))) };
        let served = readiness.clone();
        thread::spawn(move || {
            // One at a time, for none can take long.
            listener.incoming().flatten().for_each(|peer| drop(served.answer(peer)));
        });
        readiness
    }

    /// Not ready, because of `what`.
    pub fn waits_for(&self, what: &str) {
        self.set(Some(what.to_owned()));
    }

    /// Ready.
    pub fn is_done(&self) {
        self.set(None);
    }

    fn set(&self, waiting: Option<String>) {
        *self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = waiting;
    }

    fn answer(&self, mut peer: TcpStream) -> io::Result<()> {
        let line = request_line(&mut peer)?;
        let waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (status, body) = match (line.as_str(), waiting) {
            ("GET /readyz", Some(what)) => ("503 Service Unavailable", what),
            ("GET /readyz" | "GET /healthz", _) => ("200 OK", "ok".to_owned()),
            (line, _) if line.starts_with("GET ") => ("404 Not Found", "not found".to_owned()),
            _ => ("405 Method Not Allowed", "GET only".to_owned()),
        };
        let length = body.len() + 1;
        write!(
            peer,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}\n"
        )
    }
}

/// Without a host, every address: the one of IPv6 takes connections of IPv4, too, unless the kernel has no IPv6.
fn listen(address: &str) -> io::Result<TcpListener> {
    let Some(port) = address.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) else {
        return TcpListener::bind(address);
    };
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}

/// Reads a request, and returns its method and path.
fn request_line(peer: &mut TcpStream) -> io::Result<String> {
    let (end, mut request, mut buffer) = (Instant::now() + PATIENCE, Vec::new(), [0; 1 << 10]);
    peer.set_write_timeout(Some(PATIENCE))?;
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        peer.set_read_timeout(Some(left))?;
        match peer.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let line = request.lines().next().unwrap_or_default();
    Ok(line.rsplit_once(" HTTP/1.").map_or(String::new(), |(line, _)| line.to_owned()))
}

/// Ends this process at SIGTERM and SIGINT, as any other: the first one of a container ignores a signal that it has no
/// handler for (pid_namespaces(7)).
pub fn end_on_signals() -> Result<()> {
    for signal in [SIGTERM, SIGINT] {
        let always = Arc::new(AtomicBool::new(true));
        register_conditional_shutdown(signal, 128 + signal, always).context("handle signals")?;
    }
    Ok(())
}

/// Waits until every address of `host`, a `HOST:PORT`, is ready, in some rounds one after the other.
///
/// # Errors
///
/// What was missing last, when `limit` is over.
pub fn wait_for(host: &str, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    let mut ready = 0;
    loop {
        let missing = missing(host);
        ready = if missing.is_none() { ready + 1 } else { 0 };
        if ready == ROUNDS {
            return Ok(());
        }
        if Instant::now() + PERIOD > end {
            let missing =
                missing.unwrap_or_else(|| "it has been ready for too short a time".into());
            bail!("wait for {host}: {missing}");
        }
        sleep(PERIOD);
    }
}

/// Why not all of `host` are ready.
fn missing(host: &str) -> Option<String> {
    let addresses: BTreeSet<SocketAddr> = match host.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Some(format!("resolve: {error}")),
    };
    if addresses.is_empty() {
        return Some("it has no address".to_owned());
    }
    addresses.iter().find_map(|address| match ask(address) {
        Ok(status) if status.ends_with(" 200") => None,
        Ok(status) => Some(format!("{address} answers {status:?}")),
        Err(error) => Some(format!("ask {address}: {error}")),
    })
}

/// The first words of an answer: `HTTP/1.1 200`.
fn ask(address: &SocketAddr) -> io::Result<String> {
    let mut peer = TcpStream::connect_timeout(address, PATIENCE)?;
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.set_write_timeout(Some(PATIENCE))?;
    write!(peer, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    peer.read_exact(&mut status)?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(address: SocketAddr, request: &str) -> String {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // One that is refused is closed at once, with what it sent unread.
        drop(peer.read_to_string(&mut answer));
        answer
    }

    fn on(address: &str) -> (Readiness, SocketAddr) {
        let listener = listen(address).unwrap();
        let address = listener.local_addr().unwrap();
        (Readiness::on(listener), address)
    }

    #[test]
    fn who_waits_is_told_for_what_until_it_is_done() {
        let (readiness, address) = on("127.0.0.1:0");
        let get = |path: &str| said(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        readiness.waits_for("the daemon");
        assert!(get("/readyz").starts_with("HTTP/1.1 503 "));
        assert!(get("/readyz").ends_with("\r\n\r\nthe daemon\n"));
        assert!(get("/healthz").starts_with("HTTP/1.1 200 "));
        let error = wait_for(&address.to_string(), Duration::from_millis(10)).unwrap_err();
        assert!(error.to_string().contains("answers \"HTTP/1.1 503\""), "{error}");
        readiness.is_done();
        assert!(get("/readyz").ends_with("\r\n\r\nok\n"));
        assert!(get("/").starts_with("HTTP/1.1 404 "));
        assert!(said(address, "POST /readyz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(said(address, &"x".repeat(REQUEST + 2000)).is_empty());
        wait_for(&address.to_string(), Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn nobody_is_not_everybody() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (host, expected) in
            [(closed.to_string().as_str(), "ask 127.0.0.1:"), ("127.0.0.1", "resolve: ")]
        {
            let error = format!("{:#}", wait_for(host, Duration::ZERO).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        assert!(Readiness::serve("nowhere").is_err());
    }

    #[test]
    fn every_address_of_this_machine_is_answered() {
        let (readiness, address) = on(":0");
        readiness.is_done();
        assert_eq!(ask(&(Ipv4Addr::LOCALHOST, address.port()).into()).unwrap(), "HTTP/1.1 200");
    }
}
