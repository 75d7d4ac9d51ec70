//! [`Backoff`]: how long to wait before the next attempt to connect.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

/// Delays are doubled from the first to the last, and begun anew after a session that lasted.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);
const LASTED: Duration = Duration::from_secs(30);

/// The last delay where a runtime listens and does not want us: each registration waits for locks that every container
/// operation of the node holds (<https://github.com/containerd/containerd/issues/14083>).
const LAST_WHEN_REFUSED: Duration = Duration::from_secs(120);

/// What came of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Nobody listens.
    NoRuntime,
    /// The runtime has not come to ask about containers.
    Refused,
    /// It has; the session lasted so long.
    Served(Duration),
}

/// The delays so far.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The delay after this attempt.
    pub(super) fn after(&mut self, attempt: Attempt) -> Duration {
        let last = match attempt {
            Attempt::Refused => LAST_WHEN_REFUSED,
            Attempt::NoRuntime | Attempt::Served(_) => LAST,
        };
        let lasted = matches!(attempt, Attempt::Served(lasted) if lasted > LASTED);
        let delay = if lasted { FIRST } else { self.next.min(last) };
        self.next = delay * 2;
        delay
    }
}

/// What tells a socket's file from another that took its place (stat(2)): a runtime that starts makes a new one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Socket(Option<(u64, u64, i64, i64)>);

impl Socket {
    pub(super) fn look(path: &Path) -> Self {
        let meta = fs::metadata(path).ok();
        Self(meta.map(|meta| (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())))
    }

    /// Waits until there is another one: the runtime that did not want us, or has left, is not the one that listens now.
    /// Connecting to find that out would make the runtime hold its locks for each attempt.
    pub(super) async fn renewed(&self, path: &Path) {
        loop {
            sleep(FIRST).await;
            let now = Self::look(path);
            if now.0.is_some() && now != *self {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(backoff: &mut Backoff, attempts: &[Attempt]) -> Vec<u128> {
        attempts.iter().map(|attempt| backoff.after(*attempt).as_millis()).collect()
    }

    #[test]
    fn delays_grow_to_what_the_runtime_can_bear() {
        let mut backoff = Backoff::new();
        let absent = milliseconds(&mut backoff, &[Attempt::NoRuntime; 8]);
        assert_eq!(absent, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let refused = milliseconds(&mut backoff, &[Attempt::Refused; 6]);
        assert_eq!(refused, [10_000, 20_000, 40_000, 80_000, 120_000, 120_000]);
        assert_eq!(milliseconds(&mut backoff, &[Attempt::Served(LASTED * 2)]), [100]);
        let short = milliseconds(&mut backoff, &[Attempt::Served(Duration::ZERO); 7]);
        assert_eq!(short, [200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[tokio::test]
    async fn a_socket_that_is_made_anew_is_noticed_and_one_that_goes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nri.sock");
        let waits = async |socket: &Socket| {
            tokio::time::timeout(FIRST * 3, socket.renewed(&path)).await.is_err()
        };
        let none = Socket::look(&path);
        assert!(waits(&none).await);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!waits(&none).await);
        let one = Socket::look(&path);
        drop(listener);
        assert!(waits(&one).await);
        fs::remove_file(&path).unwrap();
        assert!(waits(&one).await);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!waits(&one).await);
    }
}
