//! What a runtime asks and tells a plugin that is in service.

use std::time::Duration;
use std::{error, fmt, io};

use tokio::time::timeout;
use ttrpc::proto::{Codec as _, Request, Response};

use super::{FakeRuntime, PLUGIN, REQUEST, RESPONSE};
use crate::Event;
use crate::api::{
    Container, CreateContainerRequest, CreateContainerResponse, Empty, Message, PodSandbox,
    PostCreateContainerRequest, PostCreateContainerResponse, PostStartContainerRequest,
    PostStartContainerResponse, RemoveContainerRequest, RemoveContainerResponse, StateChangeEvent,
};

/// Why the plugin gave no answer, or not the hoped for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It answered with an error: the operation fails, the plugin stays.
    Status {
        /// A gRPC status code.
        code: i32,
        /// In the plugin's words.
        message: String,
    },
    /// It did not answer in time: a runtime drops it, and goes on without.
    TimedOut,
    /// The connection is closed, for this reason.
    Closed(String),
}

impl Failure {
    /// The code of a [`Failure::Status`].
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, message } => write!(f, "status {code}: {message}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Closed(why) => write!(f, "connection closed: {why}"),
        }
    }
}

impl error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}

impl FakeRuntime {
    /// Asks the plugin about a new container.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn create_container(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<CreateContainerResponse, Failure> {
        let request = CreateContainerRequest {
            pod: Some(pod).into(),
            container: Some(container).into(),
            ..Default::default()
        };
        self.call("CreateContainer", &request).await
    }

    /// Tells of an event as runtimes before NRI 0.12 do.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn state_change(
        &mut self,
        event: Event,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Failure> {
        let request = StateChangeEvent {
            event: event.number(),
            pod: Some(pod).into(),
            container: Some(container).into(),
            ..Default::default()
        };
        self.call::<_, Empty>("StateChange", &request).await.map(drop)
    }

    /// Tells that a container was created, as runtimes do from NRI 0.12 on.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn post_create_container(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Failure> {
        let request = PostCreateContainerRequest {
            pod: Some(pod).into(),
            container: Some(container).into(),
            ..Default::default()
        };
        let answer = self.call::<_, PostCreateContainerResponse>("PostCreateContainer", &request);
        answer.await.map(drop)
    }

    /// Tells that a container was started, as runtimes do from NRI 0.12 on.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn post_start_container(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Failure> {
        let request = PostStartContainerRequest {
            pod: Some(pod).into(),
            container: Some(container).into(),
            ..Default::default()
        };
        let answer = self.call::<_, PostStartContainerResponse>("PostStartContainer", &request);
        answer.await.map(drop)
    }

    /// Tells that a container was removed, as runtimes do from NRI 0.12 on.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn remove_container(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Failure> {
        let request = RemoveContainerRequest {
            pod: Some(pod).into(),
            container: Some(container).into(),
            ..Default::default()
        };
        self.call::<_, RemoveContainerResponse>("RemoveContainer", &request).await.map(drop)
    }
}

/// Any call.
impl FakeRuntime {
    /// Calls any method of the plugin, and drops the plugin if it does not answer in time.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn call<Q: Message, A: Message>(
        &mut self,
        method: &str,
        request: &Q,
    ) -> Result<A, Failure> {
        let stream = self.begin(method, request).await?;
        self.finish(stream).await
    }

    /// The first half of [`FakeRuntime::call`]: sends the request, returns its stream id.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn begin<Q: Message>(&mut self, method: &str, request: &Q) -> Result<u32, Failure> {
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Plugin".to_owned(),
            method: method.to_owned(),
            payload: request.encode().map_err(io::Error::other)?,
            timeout_nano: self.request_timeout.as_nanos() as i64,
            ..Default::default()
        };
        let stream = self.next_stream;
        self.next_stream += 2;
        let request = request.encode().map_err(io::Error::other)?;
        self.trunk.send_message(PLUGIN, stream, REQUEST, &request).await?;
        Ok(stream)
    }

    /// The second half of [`FakeRuntime::call`]: waits for the answer.
    ///
    /// # Errors
    ///
    /// The plugin failed.
    pub async fn finish<A: Message>(&mut self, stream: u32) -> Result<A, Failure> {
        let limit = match self.request_timeout {
            Duration::ZERO => Duration::from_secs(2),
            limit => limit,
        };
        let Ok(answer) = timeout(limit, self.answer(stream)).await else {
            self.trunk.close("plugin did not answer in time");
            return Err(Failure::TimedOut);
        };
        let response = Response::decode(answer?).map_err(io::Error::other)?;
        match response.status.into_option() {
            Some(status) if status.code.value() != 0 => {
                Err(Failure::Status { code: status.code.value(), message: status.message })
            }
            _ => Ok(A::decode(response.payload).map_err(io::Error::other)?),
        }
    }

    /// Reads answers until the one of `stream` is there.
    async fn answer(&mut self, stream: u32) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(answer) = self.answers.remove(&stream) {
                return Ok(answer);
            }
            let (answered, kind, payload) = self.plugin.message().await?;
            if kind != RESPONSE {
                return Err(Failure::Closed(format!("message of type {kind}")));
            }
            self.answers.insert(answered, payload);
        }
    }
}
