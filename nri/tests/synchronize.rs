use nri::Closed;
use nri::api::{Container, Message, PodSandbox, SynchronizeRequest, SynchronizeResponse};
use nri::fake::{Failure, PLUGIN};

use crate::world::{World, container, pod};

fn pods(count: usize) -> Vec<PodSandbox> {
    (0..count).map(|i| pod(&format!("p{i}"))).collect()
}

fn containers(count: usize) -> Vec<Container> {
    (0..count).map(|i| container(&format!("c{i}"))).collect()
}

#[tokio::test]
async fn everything_is_handed_over_in_one_part() {
    let mut world = World::new();
    world.runtime.handshake(&pods(2), &containers(3), 1).await.unwrap();
    let expected =
        ["pod p0", "pod p1", "container c0", "container c1", "container c2", "synchronized"];
    assert_eq!(world.plugin.take(), expected);
}

#[tokio::test]
async fn everything_is_handed_over_in_six_parts() {
    let mut world = World::new();
    world.runtime.handshake(&pods(600), &containers(601), 6).await.unwrap();
    let calls = world.plugin.take();
    assert_eq!(calls.len(), 1202);
    assert_eq!(calls.iter().filter(|call| call.starts_with("pod ")).count(), 600);
    assert_eq!(calls.iter().filter(|call| call.starts_with("container ")).count(), 601);
    assert_eq!(calls.iter().position(|call| call == "synchronized"), Some(1201));
}

#[tokio::test]
async fn a_synchronization_that_is_cut_off_is_not_the_last_word() {
    let mut world = World::new();
    let registration = world.runtime.registration().await.unwrap();
    world.runtime.accept(&registration).await.unwrap();
    world.runtime.configure().await.unwrap();
    let part = SynchronizeRequest { pods: pods(1), more: true, ..Default::default() };
    let answer: SynchronizeResponse = world.runtime.call("Synchronize", &part).await.unwrap();
    assert!(answer.more);
    drop(world.runtime);
    assert_eq!(world.session.await.unwrap().unwrap(), Closed::ByRuntime);
    assert_eq!(world.plugin.take(), ["pod p0"]);
}

/// Up to NRI 0.6.1, everything comes in one message of up to 16 MiB.
#[tokio::test]
async fn a_message_of_12_mb_is_not_too_large() {
    let mut world = World::new();
    let mut containers = containers(3000);
    for container in &mut containers {
        container.annotations.insert("large".into(), "x".repeat(4000));
    }
    world.runtime.handshake(&[], &containers, 1).await.unwrap();
    let calls = world.plugin.take();
    assert_eq!(
        (calls.len(), &*calls[2999], &*calls[3000]),
        (3001, "container c2999", "synchronized")
    );
    world.check_alive().await;
}

#[tokio::test]
async fn an_item_that_is_too_large_is_passed_over() {
    let mut world = World::new();
    let huge = Container { args: vec!["x".repeat(2 << 20)], ..container("huge") };
    world.runtime.handshake(&[], &[container("a"), huge, container("b")], 1).await.unwrap();
    assert_eq!(world.plugin.take(), ["container a", "container b", "synchronized"]);
}

/// Sends bytes as a request.
async fn send(world: &mut World, request: &[u8]) {
    world.runtime.trunk().send_message(PLUGIN, 1, 1, request).await.unwrap();
}

/// A protobuf field with up to 127 bytes in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

#[tokio::test]
async fn a_method_may_be_named_last() {
    let mut world = World::new();
    let payload =
        SynchronizeRequest { pods: pods(1), containers: containers(1), ..Default::default() };
    let request = [
        field(3, &payload.write_to_bytes().unwrap()),
        field(2, b"Synchronize"),
        field(1, b"nri.pkg.api.v1alpha1.Plugin"),
    ];
    send(&mut world, &request.concat()).await;
    let answer: SynchronizeResponse = world.runtime.finish(1).await.unwrap();
    assert!(!answer.more);
    assert_eq!(world.plugin.take(), ["pod p0", "container c0", "synchronized"]);
}

#[tokio::test]
async fn nonsense_ends_the_session() {
    let mut world = World::new();
    let request = [
        field(1, b"nri.pkg.api.v1alpha1.Plugin"),
        field(2, b"Synchronize"),
        field(3, &field(1, b"this is not a pod")),
    ];
    send(&mut world, &request.concat()).await;
    world.runtime.closed().await.unwrap();
    match world.session.await.unwrap().unwrap() {
        Closed::ByViolation(how) => assert!(how.contains("cannot be decoded"), "{how}"),
        other => panic!("{other:?}"),
    }
    let answer = world.runtime.finish::<SynchronizeResponse>(1).await;
    assert!(matches!(answer, Err(Failure::Closed(_))));
}
