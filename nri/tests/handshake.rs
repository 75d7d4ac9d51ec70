use std::io;
use std::sync::Arc;
use std::time::Duration;

use nri::fake::{Failure, FakeRuntime, FakeSocket};
use nri::{Closed, Error, Event, Events, Identity, Plugin, Runtime, Session};

use crate::world::{Recorder, World, container, pod};

#[tokio::test]
async fn a_plugin_tells_who_it_is() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    assert_eq!(registration.identity().unwrap().to_string(), "10-recorder");
    assert!(registration.nri_version.starts_with("v0.1"), "{registration:?}");
}

#[tokio::test]
async fn configure_may_come_after_the_answer() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    world.runtime.accept(&registration).await.unwrap();
    assert_eq!(world.runtime.configure().await.unwrap(), Event::CreateContainer.into());
    world.runtime.synchronize(&[], &[], 1).await.unwrap();
    world.check_alive().await;
}

#[tokio::test]
async fn configure_may_come_before_the_answer() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    assert_eq!(world.runtime.configure().await.unwrap(), Event::CreateContainer.into());
    world.runtime.synchronize(&[], &[], 1).await.unwrap();
    world.runtime.accept(&registration).await.unwrap();
    world.check_alive().await;
}

#[tokio::test]
async fn configure_may_come_even_before_the_registration_is_read() {
    let mut world = World::new();
    world.runtime.configure().await.unwrap();
    let registration = world.runtime.registration().await.unwrap();
    world.runtime.accept(&registration).await.unwrap();
    world.check_alive().await;
}

#[tokio::test]
async fn a_plugin_that_is_refused_closes_the_connection() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    world.runtime.refuse(&registration, "invalid plugin name").await.unwrap();
    world.runtime.closed().await.unwrap();
    match world.session.await.unwrap() {
        Err(Error::Refused { code: 2, message }) => assert_eq!(message, "invalid plugin name"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_counts_even_if_the_connection_is_closed_at_once() {
    for _ in 0..20 {
        let mut world = World::new();
        let registration = world.runtime.registration().await.unwrap();
        world.runtime.refuse(&registration, "no").await.unwrap();
        drop(world.runtime);
        assert!(matches!(world.session.await.unwrap(), Err(Error::Refused { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_for_and_not_forever() {
    let mut world = World::new();
    world.runtime.registration().await.unwrap();
    let started = tokio::time::Instant::now();
    match world.session.await.unwrap() {
        Err(Error::Unanswered(limit)) => assert_eq!(limit, Duration::from_secs(300)),
        other => panic!("{other:?}"),
    }
    assert!(started.elapsed() >= Duration::from_secs(300));
    world.runtime.closed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_as_good_as_an_early_one() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    tokio::time::sleep(Duration::from_secs(299)).await;
    world.runtime.accept(&registration).await.unwrap();
    // Silence after that is normal: the runtime waits for its own locks.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.runtime.configure().await.unwrap();
    world.runtime.synchronize(&[], &[], 1).await.unwrap();
    world.check_alive().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_can_be_shortened() {
    let (mut runtime, socket) = FakeRuntime::pair().unwrap();
    let session = Session::inherit(socket).unwrap().registration_timeout(Duration::from_secs(1));
    let identity = Identity::new("10", "recorder").unwrap();
    let run = session.run(identity, Arc::new(Recorder::default()), std::future::pending());
    assert!(matches!(run.await, Err(Error::Unanswered(_))));
    runtime.closed().await.unwrap();
}

/// How far a handshake goes before the runtime closes.
const STEPS: usize = 5;

async fn handshake_up_to(step: usize, runtime: &mut FakeRuntime) {
    if step == 0 {
        return;
    }
    let registration = runtime.registration().await.unwrap();
    if step > 1 {
        runtime.accept(&registration).await.unwrap();
    }
    if step > 2 {
        runtime.configure().await.unwrap();
    }
    if step > 3 {
        runtime.synchronize(&[pod("p")], &[], 1).await.unwrap();
    }
}

#[tokio::test]
async fn the_runtime_may_close_at_each_step() {
    for step in 0..STEPS {
        let mut world = World::new();
        handshake_up_to(step, &mut world.runtime).await;
        drop(world.runtime);
        assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByRuntime, "step {step}");
    }
}

#[tokio::test]
async fn shutdown_may_come_at_each_step() {
    for step in 0..STEPS {
        let mut world = World::new();
        handshake_up_to(step, &mut world.runtime).await;
        world.shutdown.send(()).unwrap();
        assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByShutdown, "step {step}");
        world.runtime.closed().await.unwrap();
    }
}

async fn told(change: impl FnOnce(&mut FakeRuntime)) -> (String, Runtime) {
    let mut world = World::new();
    change(&mut world.runtime);
    world.handshake().await;
    let told = world.plugin.runtime.lock().unwrap().take();
    told.unwrap()
}

#[tokio::test]
async fn a_plugin_is_told_about_its_runtime() {
    let (config, runtime) = told(|runtime| {
        runtime.name = "cri-o".into();
        runtime.version = "1.36.0".into();
        runtime.config = "a: b\n".into();
        runtime.registration_timeout = Duration::from_secs(7);
        runtime.request_timeout = Duration::from_millis(3500);
    })
    .await;
    assert_eq!(config, "a: b\n");
    assert_eq!((&*runtime.name, &*runtime.version), ("cri-o", "1.36.0"));
    assert_eq!(runtime.nri_version.as_deref(), Some("v0.12.0"));
    assert_eq!(runtime.registration_timeout, Duration::from_secs(7));
    assert_eq!(runtime.request_timeout, Duration::from_millis(3500));
}

#[tokio::test]
async fn an_old_runtime_tells_less() {
    let (config, runtime) = told(|runtime| {
        runtime.nri_version = None;
        runtime.registration_timeout = Duration::ZERO;
        runtime.request_timeout = Duration::ZERO;
    })
    .await;
    assert_eq!(config, "");
    assert_eq!(runtime.nri_version, None);
    assert_eq!(runtime.registration_timeout, Duration::from_secs(5));
    assert_eq!(runtime.request_timeout, Duration::from_secs(2));
}

#[tokio::test]
async fn a_plugin_is_called_for_three_events_by_default() {
    struct Bare;
    impl Plugin for Bare {}
    let (mut runtime, socket) = FakeRuntime::pair().unwrap();
    let session = Session::inherit(socket).unwrap();
    let identity = Identity::from_file_name("10-default").unwrap();
    let run = session.run(identity, Arc::new(Bare), std::future::pending());
    let (pods, containers) = ([pod("p")], [container("c")]);
    let (_, events) = tokio::select! {
        handshake = runtime.handshake(&pods, &containers, 2) => handshake.unwrap(),
        end = run => panic!("{end:?}"),
    };
    assert_eq!(events.bits(), 0x58);
}

#[tokio::test]
async fn a_plugin_that_fails_to_configure_is_an_error() {
    let mut world = World::new();
    world.runtime.config = "fail".into();
    let failure = world.runtime.handshake(&[], &[], 1).await.unwrap_err();
    assert_eq!(failure, Failure::Status { code: 2, message: "bad configuration".into() });
}

#[tokio::test]
async fn no_events_are_not_mistaken_for_all_events() {
    let mut world = World::with(Recorder { events: Events::default(), ..Recorder::default() });
    let failure = world.runtime.handshake(&[], &[], 1).await.unwrap_err();
    assert_eq!(failure.code(), Some(3));
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nri.sock");
    let kind = |error: Error| match error {
        Error::Connect { path: told, source } if told == path => source.kind(),
        other => panic!("{other:?}"),
    };
    let missing = Session::connect(&path).await.unwrap_err();
    assert_eq!(kind(missing), io::ErrorKind::NotFound);
    drop(FakeSocket::bind(&path).unwrap());
    // The file stays when a runtime stops.
    let stale = Session::connect(&path).await.unwrap_err();
    assert_eq!(kind(stale), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_plugin_connects_again_to_a_runtime_that_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nri.sock");
    let plugin = Arc::new(Recorder::default());
    for round in 0..10 {
        let socket = FakeSocket::bind(&path).unwrap();
        let session = Session::connect(&path).await.unwrap();
        let identity = Identity::new("10", "recorder").unwrap();
        let run = session.run(identity, Arc::clone(&plugin), std::future::pending());
        let run = tokio::spawn(run);
        let mut runtime = socket.accept().await.unwrap();
        runtime.handshake(&[pod(&round.to_string())], &[], 1).await.unwrap();
        assert_eq!(plugin.take(), [format!("pod {round}"), "synchronized".into()]);
        drop(runtime);
        assert_eq!(run.await.unwrap().unwrap(), Closed::ByRuntime);
    }
}
