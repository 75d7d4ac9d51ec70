//! The calls, one by one.

use async_trait::async_trait;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, Result};

use super::{PANICKED, Service, present, status};
use crate::api::{self, Empty};
use crate::mux::Existing;
use crate::{Plugin, Runtime};

#[async_trait]
impl<P: Plugin> api::Service for Service<P> {
    async fn configure(
        &self,
        call: &TtrpcContext,
        request: api::ConfigureRequest,
    ) -> Result<api::ConfigureResponse> {
        let runtime = Runtime::from(&request);
        self.set_request_timeout(runtime.request_timeout);
        let events =
            self.answer(call, async { self.plugin.configure(&request.config, &runtime).await });
        match events.await? {
            none if none.is_empty() => Err(status(
                Code::INVALID_ARGUMENT,
                "plugin asks for no events, which would mean all of them",
            )),
            events => Ok(api::ConfigureResponse { events: events.bits(), ..Default::default() }),
        }
    }

    async fn synchronize(
        &self,
        call: &TtrpcContext,
        request: api::SynchronizeRequest,
    ) -> Result<api::SynchronizeResponse> {
        // The mux has taken them out, unless the request named its method last.
        request.pods.into_iter().map(Existing::Pod).for_each(|pod| self.existing(pod));
        let containers = request.containers.into_iter().map(Existing::Container);
        containers.for_each(|container| self.existing(container));
        if self.take_unsynchronized() {
            return Err(status(Code::INTERNAL, PANICKED));
        }
        if !request.more {
            self.notify::<()>(call, async { self.plugin.synchronized().await }).await?;
        }
        // Anything else, or an update beside `more`, would mean "I do not know about parts".
        Ok(api::SynchronizeResponse { more: request.more, ..Default::default() })
    }

    async fn shutdown(&self, call: &TtrpcContext, _: Empty) -> Result<Empty> {
        self.notify(call, async { self.plugin.shutdown().await }).await
    }

    async fn create_container(
        &self,
        call: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> Result<api::CreateContainerResponse> {
        let (pod, container) = (present(request.pod), present(request.container));
        let adjust =
            self.answer(call, async { self.plugin.create_container(pod, container).await }).await?;
        Ok(api::CreateContainerResponse { adjust: adjust.into(), ..Default::default() })
    }

    async fn state_change(
        &self,
        call: &TtrpcContext,
        event: api::StateChangeEvent,
    ) -> Result<Empty> {
        self.notify(call, self.dispatch(event)).await
    }

    async fn post_create_container(
        &self,
        call: &TtrpcContext,
        request: api::PostCreateContainerRequest,
    ) -> Result<api::PostCreateContainerResponse> {
        let (pod, container) = (present(request.pod), present(request.container));
        self.notify(call, async { self.plugin.post_create_container(pod, container).await }).await
    }

    async fn post_start_container(
        &self,
        call: &TtrpcContext,
        request: api::PostStartContainerRequest,
    ) -> Result<api::PostStartContainerResponse> {
        let (pod, container) = (present(request.pod), present(request.container));
        self.notify(call, async { self.plugin.post_start_container(pod, container).await }).await
    }

    async fn remove_container(
        &self,
        call: &TtrpcContext,
        request: api::RemoveContainerRequest,
    ) -> Result<api::RemoveContainerResponse> {
        let (pod, container) = (present(request.pod), present(request.container));
        self.notify(call, async { self.plugin.remove_container(pod, container).await }).await
    }

    // Nobody here is interested in the others: an empty answer means "go on". Without these, the
    // generated code would answer NOT_FOUND, and that fails the runtime's operation.

    async fn update_container(
        &self,
        _: &TtrpcContext,
        _: api::UpdateContainerRequest,
    ) -> Result<api::UpdateContainerResponse> {
        Ok(Default::default())
    }

    async fn stop_container(
        &self,
        _: &TtrpcContext,
        _: api::StopContainerRequest,
    ) -> Result<api::StopContainerResponse> {
        Ok(Default::default())
    }

    async fn update_pod_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::UpdatePodSandboxRequest,
    ) -> Result<api::UpdatePodSandboxResponse> {
        Ok(Default::default())
    }

    async fn validate_container_adjustment(
        &self,
        _: &TtrpcContext,
        _: api::ValidateContainerAdjustmentRequest,
    ) -> Result<api::ValidateContainerAdjustmentResponse> {
        Ok(Default::default())
    }

    async fn run_pod_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::RunPodSandboxRequest,
    ) -> Result<api::RunPodSandboxResponse> {
        Ok(Default::default())
    }

    async fn post_update_pod_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::PostUpdatePodSandboxRequest,
    ) -> Result<api::PostUpdatePodSandboxResponse> {
        Ok(Default::default())
    }

    async fn stop_pod_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::StopPodSandboxRequest,
    ) -> Result<api::StopPodSandboxResponse> {
        Ok(Default::default())
    }

    async fn remove_pod_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::RemovePodSandboxRequest,
    ) -> Result<api::RemovePodSandboxResponse> {
        Ok(Default::default())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        _: api::StartContainerRequest,
    ) -> Result<api::StartContainerResponse> {
        Ok(Default::default())
    }

    async fn post_update_container(
        &self,
        _: &TtrpcContext,
        _: api::PostUpdateContainerRequest,
    ) -> Result<api::PostUpdateContainerResponse> {
        Ok(Default::default())
    }
}
