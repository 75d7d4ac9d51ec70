//! The daemon: an NRI plugin that stays connected. The only module, with its children, that knows tokio.

// How it stays connected.
mod backoff;

// What it does with containers.
mod active;
mod census;
mod installation;
mod ldcache;

// Who looks at it.
mod health;
pub mod http;
mod site;

use std::sync::Arc;

use anyhow::{Context, Result};
use nri::{Closed, Identity, Launch, Session};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::backoff::{Attempt, Backoff, Socket};
use self::installation::Installation;
use self::ldcache::Ldcache;
use crate::config::{Layers, Settings};
use crate::metrics::Ended;

/// Runs until SIGTERM or SIGINT, or, if the runtime launched us, until it closes the connection.
pub fn run(settings: Layers) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    let ended = runtime.block_on(serve(settings));
    // A thread that waits for a disk or a lock is not waited for: it has half a minute, and we may not.
    runtime.shutdown_background();
    ended
}

async fn serve(layers: Layers) -> Result<()> {
    let settings = layers.settings();
    let launch = Launch::from_env(|name| std::env::var(name).ok())?;
    let stop = stop_signal()?;
    let installation = Arc::new(Installation::default());
    let plugin = Ldcache::new(layers, Arc::clone(&installation), launch.is_some())?;
    let plugin = Arc::new(plugin);
    if let Some(address) = settings.http_address {
        let listener = http::bind(address).await?;
        let address = listener.local_addr().context("find the address that is listened on")?;
        tracing::info!(%address, "metrics and health are served");
        tokio::spawn(http::serve(listener, Arc::clone(&plugin)));
    }
    if let Some(place) = settings.place()? {
        tokio::select! {
            () = installation.begin(place) => {}
            () = stopped(stop.clone()) => {}
        }
    }
    let Some(launch) = launch else { return stay_connected(&settings, plugin, stop).await };
    let identity = launch.identity().clone();
    let closed = talk(launch.connect()?, &identity, &plugin, stop).await?;
    // The runtime never launches a plugin again, and kills the one it has closed.
    tracing::info!(plugin = %identity, %closed, "session ended");
    Ok(())
}

async fn stay_connected(
    settings: &Settings,
    plugin: Arc<Ldcache>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let identity = settings.identity()?;
    let path = settings.socket_path();
    let mut backoff = Backoff::new();
    let mut complained = String::new();
    while !*stop.borrow() {
        let (start, socket) = (Instant::now(), Socket::look(path));
        let (attempt, ended) = match Session::connect(path).await {
            Ok(session) => {
                let ended = talk(session, &identity, &plugin, stop.clone()).await;
                let served = plugin.disconnected(reason(&ended));
                let attempt = Attempt::Served(start.elapsed());
                (if served { attempt } else { Attempt::Refused }, ended)
            }
            Err(error) => (Attempt::NoRuntime, Err(error)),
        };
        match ended {
            Ok(Closed::ByShutdown) => break,
            Ok(closed) => {
                tracing::warn!(plugin = %identity, %closed, "session ended, containers are created without hooks");
                complained.clear();
            }
            // The same trouble is told once, not every five seconds.
            Err(error) if chain(&error) != complained => {
                complained = chain(&error);
                tracing::warn!(plugin = %identity, error = %complained, "not connected, will try again; is NRI enabled in the runtime?");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = sleep(backoff.after(attempt)) => {}
            () = socket.renewed(path) => backoff = Backoff::new(),
            () = stopped(stop.clone()) => {}
        }
    }
    tracing::info!(plugin = %identity, "stopped");
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &nri::Error) -> String {
    let causes =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut parts: Vec<_> = causes.map(ToString::to_string).collect();
    parts.dedup();
    parts.join(": ")
}

/// One session, from its connection to its end.
async fn talk(
    session: Session,
    identity: &Identity,
    plugin: &Arc<Ldcache>,
    stop: watch::Receiver<bool>,
) -> Result<Closed, nri::Error> {
    plugin.connected(session.in_flight());
    session.run(identity.clone(), Arc::clone(plugin), stopped(stop)).await
}

fn reason(ended: &Result<Closed, nri::Error>) -> Ended {
    match ended {
        Ok(Closed::ByShutdown) => Ended::ByShutdown,
        Ok(Closed::ByViolation(_)) => Ended::ByViolation,
        Ok(_) => Ended::ByRuntime,
        Err(nri::Error::Refused { .. }) => Ended::Refused,
        Err(nri::Error::Unanswered(_)) => Ended::Unanswered,
        Err(_) => Ended::Failed,
    }
}

/// Becomes true with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and it sends before it goes.
    let _ = stop.wait_for(|stop| *stop).await;
}
