//! [`Backoff`]: how long to wait before the next attempt to connect.

use std::time::Duration;

/// Delays are doubled from the first to the last, and begun anew after a session that lasted.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);
const LASTED: Duration = Duration::from_secs(30);

/// The last delay while nobody listens: connect(2) costs nothing then, and what is created before we are back has no hook.
const LAST_WHEN_ABSENT: Duration = Duration::from_millis(500);

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
    absent: bool,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST, absent: false }
    }

    /// The delay after this attempt.
    pub(super) fn after(&mut self, attempt: Attempt) -> Duration {
        // A runtime that listened and does not any more is about to come back.
        let left = attempt == Attempt::NoRuntime && !self.absent;
        let lasted = matches!(attempt, Attempt::Served(lasted) if lasted > LASTED);
        self.absent = attempt == Attempt::NoRuntime;
        let last = match attempt {
            Attempt::NoRuntime => LAST_WHEN_ABSENT,
            Attempt::Refused => LAST_WHEN_REFUSED,
            Attempt::Served(_) => LAST,
        };
        let delay = if left || lasted { FIRST } else { self.next.min(last) };
        self.next = delay * 2;
        delay
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
        let absent = milliseconds(&mut backoff, &[Attempt::NoRuntime; 5]);
        assert_eq!(absent, [100, 200, 400, 500, 500]);
        let refused = milliseconds(&mut backoff, &[Attempt::Refused; 8]);
        assert_eq!(refused, [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000]);
        assert_eq!(milliseconds(&mut backoff, &[Attempt::Served(LASTED * 2)]), [100]);
        let short = milliseconds(&mut backoff, &[Attempt::Served(Duration::ZERO); 7]);
        assert_eq!(short, [200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_runtime_that_restarts_is_found_at_once_however_often() {
        let mut backoff = Backoff::new();
        let restart = [Attempt::Served(Duration::from_secs(1)), Attempt::NoRuntime];
        for _ in 0..20 {
            let delays = milliseconds(&mut backoff, &restart);
            assert!(delays.iter().all(|delay| *delay <= 200), "{delays:?}");
        }
    }
}
