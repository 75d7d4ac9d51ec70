//! Requests that are not answered yet.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::mux::Violation;

/// How many there may be: far more than one at a time. Each has a task and its message in memory.
const MOST: usize = 1 << 10;

/// The requests of a session that the runtime waits for: each from its first bytes to the last byte of its answer.
///
/// A runtime asks one thing at a time, and drops a plugin that lets it wait: one that is older than
/// [`Runtime::request_timeout`](crate::Runtime::request_timeout) is lost, and says that the plugin or the runtime hangs.
#[derive(Clone, Debug)]
pub struct InFlight(watch::Sender<Vec<(u32, Instant)>>);

impl Default for InFlight {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl InFlight {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// How long the runtime has been waiting for the oldest of them.
    pub fn oldest(&self) -> Option<Duration> {
        self.0.borrow().first().map(|(_, came)| came.elapsed())
    }

    /// Waits until each request that came in is answered, to the last byte.
    pub(crate) async fn drained(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(Vec::is_empty).await;
    }

    /// A request began to come in on this stream.
    pub(crate) fn came(&self, stream: u32) -> Result<(), Violation> {
        if self.count() == MOST {
            return Err(Violation("more than 1024 requests wait for their answers"));
        }
        self.0.send_modify(|requests| requests.push((stream, Instant::now())));
        Ok(())
    }

    /// An answer on this stream is written.
    pub(crate) fn answered(&self, stream: u32) {
        self.0.send_modify(|requests| {
            if let Some(at) = requests.iter().position(|(asked, _)| *asked == stream) {
                requests.remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_the_one_that_waits_whatever_else_is_answered() {
        let requests = InFlight::default();
        assert_eq!((requests.count(), requests.oldest()), (0, None));
        requests.came(1).unwrap();
        for stream in [3, 5, 7] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            requests.came(stream).unwrap();
            requests.answered(stream);
        }
        assert_eq!((requests.count(), requests.oldest()), (1, Some(Duration::from_secs(3))));
        requests.answered(9);
        requests.answered(1);
        assert_eq!((requests.count(), requests.oldest()), (0, None));
    }

    #[test]
    fn a_runtime_that_asks_and_asks_is_stopped() {
        let requests = InFlight::default();
        assert!((1..=1024).all(|stream| requests.came(stream).is_ok()));
        assert!(requests.came(1025).unwrap_err().0.contains("wait for their answers"));
        requests.answered(7);
        requests.came(1025).unwrap();
    }
}
