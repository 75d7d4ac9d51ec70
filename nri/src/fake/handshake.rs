//! Registration, configuration, synchronization.

use std::io;

use ttrpc::proto::{Codec as _, Request, Response};

use super::{Failure, FakeRuntime, REQUEST, RESPONSE, RUNTIME, patiently};
use crate::api::{
    ConfigureRequest, ConfigureResponse, Container, PodSandbox, RegisterPluginRequest,
    SynchronizeRequest, SynchronizeResponse,
};
use crate::{Events, Identity};

/// What a plugin said when it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: String,
    /// Its version of NRI; empty if it did not tell.
    pub nri_version: String,
    stream: u32,
}

impl Registration {
    /// Name and index, if a runtime would take them.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Identity`].
    pub fn identity(&self) -> Result<Identity, crate::Error> {
        Identity::new(&self.index, &self.name)
    }
}

impl FakeRuntime {
    /// Does all of it: registration, configuration, and synchronization in `parts` parts.
    ///
    /// # Errors
    ///
    /// The plugin failed in one of them.
    pub async fn handshake(
        &mut self,
        pods: &[PodSandbox],
        containers: &[Container],
        parts: usize,
    ) -> Result<(Registration, Events), Failure> {
        let registration = self.registration().await?;
        self.accept(&registration).await?;
        let events = self.configure().await?;
        self.synchronize(pods, containers, parts).await?;
        Ok((registration, events))
    }

    /// Waits for the plugin to register.
    ///
    /// # Errors
    ///
    /// It does not, or does something else.
    pub async fn registration(&mut self) -> Result<Registration, Failure> {
        let (stream, kind, payload) = patiently(self.runtime.message()).await??;
        let request = Request::decode(&payload).map_err(io::Error::other)?;
        if kind != REQUEST || request.method != "RegisterPlugin" {
            return Err(Failure::Closed(format!("{} instead of registration", request.method)));
        }
        let told = RegisterPluginRequest::decode(&request.payload).map_err(io::Error::other)?;
        Ok(Registration {
            name: told.plugin_name,
            index: told.plugin_idx,
            nri_version: told.NRI_version,
            stream,
        })
    }

    /// Answers the registration.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn accept(&mut self, registration: &Registration) -> Result<(), Failure> {
        // Go encodes an OK answer with an empty message as no bytes at all.
        self.trunk.send_message(RUNTIME, registration.stream, RESPONSE, &[]).await?;
        Ok(())
    }

    /// Refuses the registration. As in a real runtime, the connection stays open.
    ///
    /// # Errors
    ///
    /// The connection is closed.
    pub async fn refuse(
        &mut self,
        registration: &Registration,
        message: &str,
    ) -> Result<(), Failure> {
        let status = ttrpc::get_status(ttrpc::Code::UNKNOWN, message);
        let response = Response { status: Some(status).into(), ..Default::default() };
        let response = response.encode().map_err(io::Error::other)?;
        self.trunk.send_message(RUNTIME, registration.stream, RESPONSE, &response).await?;
        Ok(())
    }

    /// Configures the plugin; returns what it subscribes to.
    ///
    /// # Errors
    ///
    /// The plugin failed, or asks for an event that does not exist.
    pub async fn configure(&mut self) -> Result<Events, Failure> {
        let request = ConfigureRequest {
            config: self.config.clone(),
            runtime_name: self.name.clone(),
            runtime_version: self.version.clone(),
            registration_timeout: self.registration_timeout.as_millis() as i64,
            request_timeout: self.request_timeout.as_millis() as i64,
            NRI_version: self.nri_version.clone().unwrap_or_default(),
            ..Default::default()
        };
        let answer: ConfigureResponse = self.call("Configure", &request).await?;
        let events = Events::from_bits(answer.events);
        if events.bits() != answer.events {
            return Err(Failure::Closed(format!("invalid plugin events {:#x}", answer.events)));
        }
        Ok(events)
    }

    /// Tells the plugin what exists, in `parts` requests, all but the last with `more`.
    ///
    /// # Errors
    ///
    /// The plugin failed, or did not repeat `more`.
    pub async fn synchronize(
        &mut self,
        pods: &[PodSandbox],
        containers: &[Container],
        parts: usize,
    ) -> Result<(), Failure> {
        let parts = parts.max(1);
        for part in 0..parts {
            let request = SynchronizeRequest {
                pods: share(pods, part, parts).to_vec(),
                containers: share(containers, part, parts).to_vec(),
                more: part + 1 < parts,
                ..Default::default()
            };
            let answer: SynchronizeResponse = self.call("Synchronize", &request).await?;
            if answer.more != request.more || (answer.more && !answer.update.is_empty()) {
                let why = "plugin does not handle split sync requests";
                return Err(Failure::Closed(why.to_owned()));
            }
        }
        Ok(())
    }
}

/// What falls to one of `parts` parts.
fn share<T>(all: &[T], part: usize, parts: usize) -> &[T] {
    &all[all.len() * part / parts..all.len() * (part + 1) / parts]
}
