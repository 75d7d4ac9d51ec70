//! A small HTTP server: a few pages, for probes and scrapers.
//!
//! It runs in the same thread as the plugin, where there is one, and must never keep it from answering the runtime: nothing
//! here blocks, a page is made in well under a millisecond, and what a client may hold is bounded in number, size and time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

/// How many clients are served at once. One more than that takes the place of the oldest, so that clients who say nothing
/// do not keep a probe out.
const CLIENTS: usize = 16;

/// How long a client may take to send its request, and all in all.
const HEAD: Duration = Duration::from_secs(2);
const WHOLE: Duration = Duration::from_secs(10);

/// Most bytes and fields of a request's head; hyper takes no less than 8 KiB.
const HEAD_BYTES: usize = 8 << 10;
const HEAD_FIELDS: usize = 64;

/// Where to listen: `[HOST]:PORT`, an IP address or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Address {
    host: Option<IpAddr>,
    port: u16,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, port) =
            text.rsplit_once(':').with_context(|| format!("{text:?} is not [HOST]:PORT"))?;
        let port = port.parse().with_context(|| format!("{text:?}: {port:?} is not a port"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let parsed = (!bare.is_empty()).then(|| bare.parse()).transpose();
        let host = parsed.with_context(|| format!("{text:?}: {host:?} is not an IP address"))?;
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: Error| format!("{error:#}"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V6(host)) => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// What is served.
pub(crate) trait Site: Send + Sync + 'static {
    /// The page at this path, for a client that accepts these media types; `None` if there is none.
    fn page(&self, path: &str, accept: &str) -> Option<Page>;
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    /// 503 if not.
    pub(crate) good: bool,
    /// The media type.
    pub(crate) content_type: &'static str,
    pub(crate) text: String,
}

impl Page {
    /// What a probe reads: these troubles, a line for each, or `ok`.
    pub(crate) fn health(troubles: Vec<String>) -> Self {
        let good = troubles.is_empty();
        let lines = if good { vec!["ok".to_owned()] } else { troubles };
        let text = lines.iter().flat_map(|line| [line, "\n"]).collect();
        Self { good, content_type: "text/plain; charset=utf-8", text }
    }
}

/// Listens; without a host on all addresses of both families, or on those of the older where there is no newer.
pub(crate) async fn bind(address: Address) -> Result<TcpListener> {
    let bind = async |host: IpAddr| TcpListener::bind((host, address.port)).await;
    let bound = match address.host {
        Some(host) => bind(host).await,
        None => match bind(Ipv6Addr::UNSPECIFIED.into()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            Err(_) => bind(Ipv4Addr::UNSPECIFIED.into()).await,
            bound => bound,
        },
    };
    bound.with_context(|| format!("listen on {address}"))
}

/// Serves for as long as this process lives, in a thread of its own: for commands that have no other use for tokio.
pub(crate) fn serve_apart(address: Address, site: Arc<impl Site>) -> Result<SocketAddr> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let listener = runtime.block_on(bind(address))?;
    let address = listener.local_addr().context("find the address that is listened on")?;
    thread::spawn(move || runtime.block_on(serve(listener, site)));
    Ok(address)
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, site: Arc<impl Site>) -> Infallible {
    let mut clients: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: who waits is served when there are some.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        clients.retain(|client| !client.is_finished());
        if clients.len() >= CLIENTS
            && let Some(oldest) = clients.pop_front()
        {
            oldest.abort();
        }
        let client = tokio::spawn(timeout(WHOLE, converse(stream, Arc::clone(&site))));
        clients.push_back(client.abort_handle());
        // One that has sent its request is answered before others can take its place, however many wait to be accepted.
        yield_now().await;
    }
}

/// One request, one answer.
async fn converse(stream: TcpStream, site: Arc<impl Site>) {
    let answer = service_fn(|request| {
        let response = answer(&*site, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .keep_alive(false)
        // Or one that has said all and closes its side would not be answered.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    // What a client does wrong is its own business.
    let _ = connection.await;
}

fn answer(site: &impl Site, request: &Request<Incoming>) -> Response<String> {
    let mut response = Response::new(String::new());
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, const { hyper::header::HeaderValue::from_static("GET, HEAD") });
        return response;
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let Some(page) = site.page(request.uri().path(), accept.unwrap_or_default()) else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    if !page.good {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let content_type = hyper::header::HeaderValue::from_static(page.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    *response.body_mut() = page.text;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_addresses_or_all() {
        for text in [":9177", "127.0.0.1:80", "[::1]:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        // As Kubernetes gives a pod its address.
        assert_eq!("fd00::1:80".parse::<Address>().unwrap().to_string(), "[fd00::1]:80");
        for (text, named) in [
            ("9177", "is not [HOST]:PORT"),
            (":http", "\"http\" is not a port"),
            (":65536", "\"65536\" is not a port"),
            ("localhost:80", "\"localhost\" is not an IP address"),
            ("", "is not [HOST]:PORT"),
        ] {
            let error = format!("{:#}", text.parse::<Address>().unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
