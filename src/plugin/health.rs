//! [`Health`]: whether the daemon works, as probes ask it.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nri::InFlight;

/// How the connection with the runtime is.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Connected>>);

#[derive(Debug)]
struct Connected {
    in_flight: InFlight,
    /// How long the runtime waits for an answer, once it has told.
    registered: Option<Duration>,
    synchronized: bool,
}

impl Health {
    /// There is a connection, on which these requests are not answered.
    pub(super) fn connected(&self, in_flight: InFlight) {
        *self.state() = Some(Connected { in_flight, registered: None, synchronized: false });
    }

    /// The runtime has registered us, and waits so long for each answer.
    pub(super) fn registered(&self, request_timeout: Duration) {
        if let Some(connected) = &mut *self.state() {
            connected.registered = Some(request_timeout);
        }
    }

    /// The runtime asks about containers from now on.
    pub(super) fn synchronized(&self) {
        if let Some(connected) = &mut *self.state() {
            connected.synchronized = true;
        }
    }

    pub(super) fn disconnected(&self) {
        *self.state() = None;
    }

    /// How many requests are not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.state().as_ref().map_or(0, |connected| connected.in_flight.count())
    }

    /// What only a restart could mend, if anything: a request that the runtime has given up. It drops a plugin that does
    /// not answer it, so one that it does not drop is a runtime that hangs itself, or a bug of ours.
    ///
    /// That there is no runtime is nothing that a restart would mend.
    pub(super) fn stuck(&self) -> Option<String> {
        let state = self.state();
        let connected = state.as_ref()?;
        let (timeout, age) = (connected.registered?, connected.in_flight.oldest()?);
        (age > 2 * timeout).then(|| {
            let (age, timeout) = (age.as_secs_f32(), timeout.as_secs_f32());
            format!("a request is not answered since {age:.1} s, and the runtime waits {timeout:.1} s for an answer")
        })
    }

    /// Why the runtime does not ask us about containers, if it does not.
    pub(super) fn unasked(&self) -> Option<&'static str> {
        match &*self.state() {
            None => Some("not connected to the runtime"),
            Some(Connected { registered: None, .. }) => Some("not registered by the runtime"),
            Some(Connected { synchronized: false, .. }) => Some("not synchronized by the runtime"),
            Some(_) => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Connected>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
