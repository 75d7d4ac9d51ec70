use nri::Event;
use nri::api::*;

use crate::world::{World, adjustment, container, container_of, pod};

#[tokio::test]
async fn a_container_is_left_alone() {
    let mut world = World::ready().await;
    let answer = world.runtime.create_container(pod("p"), container("c")).await.unwrap();
    assert_eq!(answer, CreateContainerResponse::default());
    assert_eq!(world.plugin.take(), ["create p/c"]);
}

#[tokio::test]
async fn a_container_is_adjusted() {
    let mut world = World::ready().await;
    let answer = world.runtime.create_container(pod("p"), container("adjust")).await.unwrap();
    assert_eq!(answer.adjust.into_option(), Some(adjustment(None)));
}

#[tokio::test]
async fn missing_messages_are_empty_ones() {
    let mut world = World::ready().await;
    let request = CreateContainerRequest::default();
    let _: CreateContainerResponse = world.runtime.call("CreateContainer", &request).await.unwrap();
    assert_eq!(world.plugin.take(), ["create /"]);
}

#[tokio::test]
async fn answers_of_every_size_arrive() {
    let mut world = World::ready().await;
    let around_4096 = 3900..4110;
    let others = [0, 1, 5000, 65_536, 1 << 20, (4 << 20) - 1024];
    for bytes in around_4096.chain(others) {
        let asked = container_of("adjust", bytes);
        let answer = world.runtime.create_container(pod("p"), asked).await.unwrap();
        assert_eq!(answer.adjust.env[0].value.len(), bytes);
    }
    let frames = world.runtime.trunk().frames();
    // The sizes hit the limit from both sides, and never a frame more than needed.
    assert!(frames.iter().any(|frame| frame.len == 4095));
    assert!(frames.windows(2).any(|two| two[0].len == 4096 && two[1].len == 1));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error() {
    let mut world = World::ready().await;
    let asked = container_of("adjust", 5 << 20);
    let failure = world.runtime.create_container(pod("p"), asked).await.unwrap_err();
    assert!(failure.code().is_some(), "{failure}");
    world.check_alive().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_an_error() {
    let mut world = World::ready().await;
    let asked = Container { args: vec!["x".repeat(5 << 20)], ..container("large") };
    let failure = world.runtime.create_container(pod("p"), asked).await.unwrap_err();
    assert_eq!(failure.code(), Some(3), "{failure}");
    world.check_alive().await;
}

#[tokio::test]
async fn large_requests_arrive() {
    let mut world = World::ready().await;
    for bytes in [4000, 4096, 5000, 65_536, 4 << 20] {
        let asked = Container { args: vec!["x".repeat(bytes - 200)], ..container("large") };
        world.runtime.create_container(pod("p"), asked).await.unwrap();
        assert_eq!(world.plugin.take(), ["create p/large"]);
    }
}

/// Calls a method, and wants an empty answer.
macro_rules! agrees {
    ($world:ident: $($method:literal($request:ident) -> $response:ident,)*) => {
        $(
            let answer: $response =
                $world.runtime.call($method, &$request::default()).await.expect($method);
            assert_eq!(answer, $response::default(), $method);
        )*
    };
}

#[tokio::test]
async fn every_call_is_answered() {
    let mut world = World::ready().await;
    agrees! { world:
        "Synchronize"(SynchronizeRequest) -> SynchronizeResponse,
        "CreateContainer"(CreateContainerRequest) -> CreateContainerResponse,
        "UpdateContainer"(UpdateContainerRequest) -> UpdateContainerResponse,
        "StopContainer"(StopContainerRequest) -> StopContainerResponse,
        "UpdatePodSandbox"(UpdatePodSandboxRequest) -> UpdatePodSandboxResponse,
        "ValidateContainerAdjustment"(ValidateContainerAdjustmentRequest)
            -> ValidateContainerAdjustmentResponse,
        "StateChange"(StateChangeEvent) -> Empty,
        "RunPodSandbox"(RunPodSandboxRequest) -> RunPodSandboxResponse,
        "PostUpdatePodSandbox"(PostUpdatePodSandboxRequest) -> PostUpdatePodSandboxResponse,
        "StopPodSandbox"(StopPodSandboxRequest) -> StopPodSandboxResponse,
        "RemovePodSandbox"(RemovePodSandboxRequest) -> RemovePodSandboxResponse,
        "PostCreateContainer"(PostCreateContainerRequest) -> PostCreateContainerResponse,
        "StartContainer"(StartContainerRequest) -> StartContainerResponse,
        "PostStartContainer"(PostStartContainerRequest) -> PostStartContainerResponse,
        "PostUpdateContainer"(PostUpdateContainerRequest) -> PostUpdateContainerResponse,
        "RemoveContainer"(RemoveContainerRequest) -> RemoveContainerResponse,
        "Shutdown"(Empty) -> Empty,
    }
    let answer: ConfigureResponse =
        world.runtime.call("Configure", &ConfigureRequest::default()).await.unwrap();
    assert_eq!(answer.events, 0x8);
}

#[tokio::test]
async fn a_call_of_the_future_is_unimplemented() {
    let mut world = World::ready().await;
    let failure = world.runtime.call::<_, Empty>("Levitate", &Empty::default()).await.unwrap_err();
    assert_eq!(failure.code(), Some(12));
    world.check_alive().await;
}

#[tokio::test]
async fn events_come_as_calls_of_their_own() {
    let mut world = World::ready().await;
    world.runtime.post_create_container(pod("p"), container("c")).await.unwrap();
    world.runtime.post_start_container(pod("p"), container("c")).await.unwrap();
    world.runtime.remove_container(pod("p"), container("c")).await.unwrap();
    assert_eq!(world.plugin.take(), ["post-create p/c", "post-start p/c", "remove p/c"]);
    let _: Empty = world.runtime.call("Shutdown", &Empty::default()).await.unwrap();
    assert_eq!(world.plugin.take(), ["shutdown"]);
}

#[tokio::test]
async fn events_come_as_state_changes() {
    let mut world = World::ready().await;
    for event in Event::ALL {
        world.runtime.state_change(event, pod("p"), container("c")).await.unwrap();
    }
    assert_eq!(world.plugin.take(), ["post-create p/c", "post-start p/c", "remove p/c"]);
}

#[tokio::test]
async fn an_event_of_the_future_is_ignored() {
    let mut world = World::ready().await;
    for event in [-1, 0, 15, i32::MAX] {
        let request = StateChangeEvent { event, ..Default::default() };
        let _: Empty = world.runtime.call("StateChange", &request).await.unwrap();
    }
    assert!(world.plugin.take().is_empty());
}

#[tokio::test]
async fn calls_may_overlap() {
    let mut world = World::ready().await;
    let request = |name: &str| CreateContainerRequest {
        container: Some(container(name)).into(),
        ..Default::default()
    };
    let first = world.runtime.begin("CreateContainer", &request("gate")).await.unwrap();
    let second = world.runtime.begin("CreateContainer", &request("c")).await.unwrap();
    let answer: CreateContainerResponse = world.runtime.finish(second).await.unwrap();
    assert!(answer.adjust.is_none());
    world.plugin.gate.notify_one();
    let answer: CreateContainerResponse = world.runtime.finish(first).await.unwrap();
    assert!(answer.adjust.is_some());
}
