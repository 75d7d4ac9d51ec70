use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nri::api::Message;
use nri::api::{CreateContainerRequest, CreateContainerResponse};
use nri::fake::Failure;
use nri::{Closed, Identity, Session};
use tokio::time::{Duration, Instant};

use crate::world::{Recorder, World, container_of, pod};

fn gate(bytes: usize) -> CreateContainerRequest {
    CreateContainerRequest {
        pod: Some(pod("p")).into(),
        container: Some(container_of("gate", bytes)).into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_idle_session_closes_at_once() {
    let mut world = World::ready().await;
    world.shutdown.send(()).unwrap();
    assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByShutdown);
    world.runtime.closed().await.unwrap();
}

#[tokio::test]
async fn a_request_that_came_in_is_answered() {
    for bytes in [0, 5000, 4_000_000] {
        let mut world = World::ready().await;
        let stream = world.runtime.begin("CreateContainer", &gate(bytes)).await.unwrap();
        world.plugin.waits.notified().await;
        world.shutdown.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!world.session.is_finished());
        world.plugin.gate.notify_one();
        let answer: CreateContainerResponse = world.runtime.finish(stream).await.unwrap();
        assert_eq!(answer.adjust.env[0].value.len(), bytes);
        assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByShutdown);
        world.runtime.closed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_stuck_still_gets_its_error_out() {
    let mut world = World::ready().await;
    let stream = world.runtime.begin("CreateContainer", &gate(0)).await.unwrap();
    world.plugin.waits.notified().await;
    world.shutdown.send(()).unwrap();
    let started = Instant::now();
    let failure = world.runtime.finish::<CreateContainerResponse>(stream).await.unwrap_err();
    assert_eq!(failure.code(), Some(4));
    assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByShutdown);
    assert!(started.elapsed() < Duration::from_millis(1500));
}

/// A protobuf field with up to 127 bytes in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_read_is_not_waited_for_forever() {
    let (mut runtime, socket) = UnixStream::pair().unwrap();
    let asked = CreateContainerRequest {
        container: Some(container_of("adjust", 4_000_000)).into(),
        ..Default::default()
    };
    let request = [
        field(1, b"nri.pkg.api.v1alpha1.Plugin"),
        field(2, b"CreateContainer"),
        field(3, &asked.write_to_bytes().unwrap()),
    ]
    .concat();
    let len = request.len() as u32;
    runtime.write_all(&[[0, 0, 0, 1], (len + 10).to_be_bytes()].concat()).unwrap();
    runtime.write_all(&[len.to_be_bytes(), [0, 0, 0, 1]].concat()).unwrap();
    runtime.write_all(&[&[1, 0], &request[..]].concat()).unwrap();

    let plugin = Arc::new(Recorder::default());
    let session = Session::inherit(socket).unwrap();
    let identity = Identity::new("10", "recorder").unwrap();
    let started = Instant::now();
    let asked = async {
        while plugin.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let closed = session.run(identity, Arc::clone(&plugin), asked).await.unwrap();
    assert_eq!(closed, Closed::ByShutdown);
    assert_eq!(started.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn a_runtime_that_is_gone_is_not_waited_for() {
    let mut world = World::ready().await;
    world.runtime.begin("CreateContainer", &gate(0)).await.unwrap();
    world.plugin.waits.notified().await;
    world.shutdown.send(()).unwrap();
    drop(world.runtime);
    assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByShutdown);
}

#[tokio::test]
async fn a_runtime_that_goes_away_in_the_middle_of_a_request_ends_the_session() {
    let mut world = World::ready().await;
    world.runtime.begin("CreateContainer", &gate(0)).await.unwrap();
    world.plugin.waits.notified().await;
    drop(world.runtime);
    assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByRuntime);
}

#[tokio::test]
async fn dropping_the_session_closes_the_connection() {
    let mut world = World::ready().await;
    world.session.abort();
    world.runtime.closed().await.unwrap();
    let failure = world.runtime.create_container(pod("p"), container_of("c", 0)).await;
    assert!(matches!(failure, Err(Failure::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_running() {
    for _ in 0..10 {
        let world = World::ready().await;
        world.shutdown.send(()).unwrap();
        world.session.await.unwrap().unwrap();
        drop(world.runtime);

        let mut world = World::ready().await;
        world.runtime.begin("CreateContainer", &gate(0)).await.unwrap();
        world.plugin.waits.notified().await;
        drop(world.runtime);
        world.session.await.unwrap().unwrap();
    }
    // What ttrpc spawned ends by itself, soon.
    let metrics = tokio::runtime::Handle::current().metrics();
    for _ in 0..100 {
        if metrics.num_alive_tasks() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{} tasks", metrics.num_alive_tasks());
}
