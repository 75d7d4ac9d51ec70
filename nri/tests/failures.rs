use std::time::Duration;

use nri::fake::{Failure, FakeRuntime};
use tokio::time::Instant;

use crate::world::{World, container, pod};

#[tokio::test]
async fn an_error_is_told_with_its_sources() {
    let mut world = World::ready().await;
    let failure = world.runtime.create_container(pod("p"), container("fail")).await.unwrap_err();
    assert_eq!(failure, Failure::Status { code: 2, message: "outer: inner".into() });
    world.check_alive().await;
}

#[tokio::test]
async fn a_panic_is_an_error() {
    let mut world = World::ready().await;
    let failure = world.runtime.create_container(pod("p"), container("panic")).await.unwrap_err();
    assert_eq!(failure, Failure::Status { code: 13, message: "plugin panicked".into() });
    let failure =
        world.runtime.post_start_container(pod("p"), container("panic")).await.unwrap_err();
    assert_eq!(failure.code(), Some(13));
    world.check_alive().await;
}

#[tokio::test]
async fn a_panic_over_what_exists_is_an_error_of_the_synchronization() {
    let mut world = World::new();
    let failure = world.runtime.handshake(&[pod("panic"), pod("p")], &[], 1).await.unwrap_err();
    assert_eq!(failure.code(), Some(13));
    assert_eq!(world.plugin.take(), ["pod p"]);
    world.check_alive().await;
}

async fn check_deadline(request_timeout: Duration, told: Duration, deadline: Duration) {
    let mut world = World::new();
    world.runtime.request_timeout = request_timeout;
    world.handshake().await;
    world.runtime.request_timeout = told;
    let started = Instant::now();
    let failure = world.runtime.create_container(pod("p"), container("slow")).await.unwrap_err();
    assert_eq!(failure.code(), Some(4), "{failure}");
    let elapsed = started.elapsed();
    assert!(elapsed >= deadline && elapsed < deadline + Duration::from_millis(50), "{elapsed:?}");
    world.check_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_half_of_the_time() {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    check_deadline(s(2), s(2), s(1)).await;
    check_deadline(s(10), s(10), s(5)).await;
    // The shorter one counts.
    check_deadline(s(10), s(3), ms(1500)).await;
    check_deadline(s(3), s(10), ms(1500)).await;
    // NRI before 0.7 tells only one of them.
    check_deadline(Duration::ZERO, s(1), ms(500)).await;
    check_deadline(Duration::ZERO, Duration::ZERO, s(1)).await;
    // At least that much.
    check_deadline(ms(150), ms(150), ms(100)).await;
}

/// Not about the plugin: the fake runtime does as the real ones do.
#[tokio::test(start_paused = true)]
async fn a_plugin_that_does_not_answer_is_dropped() {
    let (mut runtime, _plugin) = FakeRuntime::pair().unwrap();
    let started = Instant::now();
    let failure = runtime.create_container(pod("p"), container("c")).await.unwrap_err();
    assert_eq!(failure, Failure::TimedOut);
    assert_eq!(started.elapsed().as_secs(), 2);
    runtime.closed().await.unwrap();
    let failure = runtime.create_container(pod("p"), container("c")).await.unwrap_err();
    assert!(matches!(failure, Failure::Closed(_)));
}
