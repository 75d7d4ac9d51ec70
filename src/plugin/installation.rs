//! [`Installation`]: this program on the host, put there by the daemon, and again if it is gone.
//!
//! That it fails is no reason to end: whoever starts us would do so again and again, and the reason be in the log of a
//! container that is gone. The daemon serves, injects nothing, and says why.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::host::{Installed, Place};
use crate::injection::Fault;

/// How often it is looked at, and how often while there is trouble: a disk that was full, or a directory that was not there, may
/// have been mended, and until that is seen no container gets a hook.
const PERIOD: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// What came of it last.
#[derive(Debug, Default)]
pub(super) struct Installation {
    trouble: Mutex<Option<String>>,
}

impl Installation {
    /// Installs this program at `place`, and keeps it there.
    pub(super) async fn begin(self: Arc<Self>, place: Place) {
        self.attempt(&place, Place::repair).await;
        tokio::spawn(self.keep(place));
    }

    /// Whether what was installed can be executed. The file alone does not tell: it may be whole, and a security
    /// module against it.
    pub(super) fn is_good(&self) -> Result<(), Fault> {
        let trouble = self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        trouble.as_deref().map_or(Ok(()), |trouble| Err(Fault::not_installed(trouble)))
    }

    /// Old versions go once we serve: that takes the directory's lock, which anybody may hold for as long as we are patient.
    async fn keep(self: Arc<Self>, place: Place) {
        self.attempt(&place, Place::install).await;
        loop {
            sleep(if self.is_good().is_ok() { PERIOD } else { RETRY }).await;
            self.attempt(&place, Place::repair).await;
        }
    }

    /// A thread of its own waits for disks and locks: requests of the runtime have seconds.
    async fn attempt(&self, place: &Place, install: fn(&Place) -> Result<Installed>) {
        let place = place.clone();
        let done = spawn_blocking(move || install(&place)).await;
        let trouble = match done {
            Ok(Ok(installed)) => {
                tell(&installed);
                None
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(panicked) => Some(panicked.to_string()),
        };
        let mut last = self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(error) = trouble.as_ref().filter(|error| last.as_ref() != Some(error)) {
            tracing::error!(%error, "not installed, no hooks will be injected; will try again");
        }
        *last = trouble;
    }
}

fn tell(installed: &Installed) {
    if installed.written {
        tracing::info!(path = %installed.path.display(), "installed");
    }
    for path in &installed.removed {
        tracing::info!(path = %path.display(), "old version removed");
    }
    installed.notes.iter().for_each(|note| tracing::warn!("{note}"));
}
