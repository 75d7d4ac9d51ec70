//! [`Readiness`]: whether an uninstallation is done, told over HTTP, and asked: what the pods of a chart that is removed have
//! between them. The daemon's own probes are not here.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

use crate::plugin::http::{self, Address, Page, Site};

/// How long a connection, and each part of an answer, may take to come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between looks at who is ready, and how many in a row must find the same addresses, all of them ready: pods, and so
/// addresses, come one by one.
const PERIOD: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 5;

/// What glibc's getaddrinfo(3) says where name servers know of no address, as they do of a Kubernetes service without
/// pods. That they can't be asked is something else. The standard library passes on nothing but the words.
const NO_ADDRESS: [&str; 2] = ["Name or service not known", "No address associated with hostname"];

/// What `GET /readyz` answers.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// What is not done yet.
    waiting: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    /// Answers requests to `address` from now on, in a thread; to which one, if its port is 0, is returned, too.
    pub fn serve(address: Address) -> Result<(Self, SocketAddr)> {
        let readiness = Self { waiting: Arc::new(Mutex::new(Some("not started".to_owned()))) };
        let address = http::serve_apart(address, Arc::new(readiness.clone()))?;
        Ok((readiness, address))
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
}

impl Site for Readiness {
    fn page(&self, path: &str, _accept: &str) -> Option<Page> {
        let waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match path {
            "/readyz" => Some(Page::health(waiting.iter().cloned().collect())),
            "/healthz" => Some(Page::health(Vec::new())),
            _ => None,
        }
    }
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

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Every one of so many addresses is ready.
    Ready(usize),
    /// There is nobody to wait for.
    Nobody,
}

/// Waits until every address of `host`, a `HOST:PORT`, is ready, and for some seconds no other has come.
///
/// Without any address for as long as `none` there is nobody to wait for; that name servers can't be asked does not count.
///
/// # Errors
///
/// What was missing last, when `limit` is over.
pub fn wait_for(host: &str, limit: Duration, none: Option<Duration>) -> Result<Awaited> {
    ensure!(!host.starts_with(':'), "wait for {host}: it has no name");
    let (start, mut rounds, mut before) = (Instant::now(), 0, BTreeSet::new());
    let mut alone = start;
    loop {
        let found = resolve(host);
        if !found.as_ref().is_ok_and(BTreeSet::is_empty) {
            alone = Instant::now();
        } else if none.is_some_and(|none| alone.elapsed() >= none) {
            return Ok(Awaited::Nobody);
        }
        let missing = match found {
            Ok(addresses) => {
                let missing = missing(&addresses);
                rounds = match missing {
                    None if addresses == before => rounds + 1,
                    None => 1,
                    Some(_) => 0,
                };
                before = addresses;
                missing
            }
            Err(error) => {
                rounds = 0;
                Some(format!("resolve: {error}"))
            }
        };
        if rounds == ROUNDS {
            return Ok(Awaited::Ready(before.len()));
        }
        if start.elapsed() + PERIOD > limit {
            let missing =
                missing.unwrap_or_else(|| "it has been ready for too short a time".into());
            bail!("wait for {host}: {missing}");
        }
        sleep(PERIOD);
    }
}

/// The addresses of `host`, of which there may be none.
fn resolve(host: &str) -> io::Result<BTreeSet<SocketAddr>> {
    match host.to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) if NO_ADDRESS.iter().any(|words| error.to_string().ends_with(words)) => {
            Ok(BTreeSet::new())
        }
        Err(error) => Err(error),
    }
}

/// Why not all of these are ready.
fn missing(addresses: &BTreeSet<SocketAddr>) -> Option<String> {
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
    use std::net::{Ipv4Addr, TcpListener};

    const LONG: Duration = Duration::from_secs(30);

    fn on(address: &str) -> (Readiness, SocketAddr) {
        Readiness::serve(address.parse().unwrap()).unwrap()
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let mut peer = TcpStream::connect(address).unwrap();
        write!(peer, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn who_waits_is_told_for_what_until_it_is_done() {
        let (readiness, address) = on("127.0.0.1:0");
        let host = address.to_string();
        readiness.waits_for("the daemon");
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503 "));
        assert!(get(address, "/readyz").ends_with("\r\n\r\nthe daemon\n"));
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
        // Clients that say nothing keep nobody out.
        let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let error = wait_for(&host, Duration::from_millis(10), None).unwrap_err();
        assert!(error.to_string().contains("answers \"HTTP/1.1 503\""), "{error}");
        drop(silent);
        readiness.is_done();
        assert!(get(address, "/readyz").ends_with("\r\n\r\nok\n"));
        assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
        assert_eq!(wait_for(&host, LONG, None).unwrap(), Awaited::Ready(1));
    }

    #[test]
    fn nobody_is_not_everybody() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // glibc asks no server for a name that can be none.
        for (host, expected) in [
            (closed.to_string().as_str(), "ask 127.0.0.1:"),
            ("127.0.0.1", "resolve: "),
            ("no..name:1", "it has no address"),
            (":1", "it has no name"),
        ] {
            let error = format!("{:#}", wait_for(host, Duration::ZERO, None).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nobody_is_waited_for_as_long_as_was_asked() {
        let (start, none) = (Instant::now(), Duration::from_secs(2));
        assert_eq!(wait_for("no..name:1", LONG, Some(none)).unwrap(), Awaited::Nobody);
        assert!(start.elapsed() >= none);
        // Whoever can't be resolved, or asked, may well be there.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for host in ["127.0.0.1", &closed.to_string()] {
            wait_for(host, Duration::ZERO, Some(Duration::ZERO)).unwrap_err();
        }
    }

    #[test]
    fn every_address_of_this_machine_is_answered() {
        let (readiness, address) = on(":0");
        readiness.is_done();
        assert_eq!(ask(&(Ipv4Addr::LOCALHOST, address.port()).into()).unwrap(), "HTTP/1.1 200");
    }
}
