use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;

use nri::fake::FakeRuntime;
use nri::{Error, Launch, Session};

use crate::world::{Recorder, pod};

/// An environment with some variables.
fn environment(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    move |name| find(name).map(|(_, value)| (*value).to_owned())
}

fn identity(index: &str, name: &str) -> Result<String, Error> {
    let variables =
        [("NRI_PLUGIN_SOCKET", "3"), ("NRI_PLUGIN_IDX", index), ("NRI_PLUGIN_NAME", name)];
    Ok(Launch::from_env(environment(&variables))?.unwrap().identity().to_string())
}

#[test]
fn a_plugin_without_a_socket_was_not_launched() {
    let none = environment(&[("NRI_PLUGIN_IDX", "10"), ("NRI_PLUGIN_NAME", "name")]);
    assert!(Launch::from_env(none).unwrap().is_none());
}

#[test]
fn the_index_is_taken_off_the_name() {
    assert_eq!(identity("10", "nri-ldcache").unwrap(), "10-nri-ldcache");
    // NRI before 0.4.
    assert_eq!(identity("10", "10-nri-ldcache").unwrap(), "10-nri-ldcache");
    assert_eq!(identity("20", "10-nri-ldcache").unwrap(), "20-10-nri-ldcache");
}

#[test]
fn an_environment_that_makes_no_sense_is_an_error() {
    for (index, name) in [("", "name"), ("1", "name"), ("10", ""), ("10", "10-"), ("10", "a/b")] {
        assert!(matches!(identity(index, name), Err(Error::Identity(_))), "{index} {name}");
    }
    for socket in ["", "three", "-1", "0", "2", "99999999999"] {
        let variables = [("NRI_PLUGIN_SOCKET", socket)];
        let launch = Launch::from_env(environment(&variables));
        assert!(matches!(launch, Err(Error::Environment(_))), "{socket}");
    }
}

#[tokio::test]
async fn the_socket_is_taken_over() {
    let (mut runtime, socket) = FakeRuntime::pair().unwrap();
    let number = socket.into_raw_fd().to_string();
    let variables = [
        ("NRI_PLUGIN_SOCKET", &*number),
        ("NRI_PLUGIN_IDX", "10"),
        ("NRI_PLUGIN_NAME", "10-launched"),
    ];
    let launch = Launch::from_env(environment(&variables)).unwrap().unwrap();
    let identity = launch.identity().clone();
    let plugin = Arc::new(Recorder::default());
    let run = launch.connect().unwrap().run(identity, Arc::clone(&plugin), std::future::pending());
    let pods = [pod("p")];
    let (registration, _) = tokio::select! {
        handshake = runtime.handshake(&pods, &[], 1) => handshake.unwrap(),
        end = run => panic!("{end:?}"),
    };
    assert_eq!((&*registration.index, &*registration.name), ("10", "launched"));
    assert_eq!(plugin.take(), ["pod p", "synchronized"]);
    // No other descriptor keeps the connection open.
    runtime.closed().await.unwrap();
}

#[tokio::test]
async fn what_is_not_a_connected_socket_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    let number = file.as_raw_fd().to_string();
    for number in [&*number, "1000000"] {
        let launch = Launch::from_env(environment(&[
            ("NRI_PLUGIN_SOCKET", number),
            ("NRI_PLUGIN_IDX", "10"),
            ("NRI_PLUGIN_NAME", "launched"),
        ]));
        let error = launch.unwrap().unwrap().connect().unwrap_err();
        assert!(matches!(error, Error::Environment(_) | Error::Io(_)), "{error}");
    }
    assert!(matches!(Session::inherit(file), Err(Error::Io(_))));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(Session::inherit(listener), Err(Error::Io(_))));
}
