//! Pods and containers as a test describes them.

use std::collections::HashMap;

use k8s_cri::v1::{CdiDevice, Device, KeyValue, Mount};

/// A pod that is still to be run.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) runtime: String,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) user_namespace: bool,
}

impl Pod {
    /// A pod in the namespace `default`, run by the runtime handler `runtime`.
    pub(crate) fn new(name: &str, runtime: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            runtime: runtime.to_owned(),
            annotations: HashMap::new(),
            user_namespace: false,
        }
    }

    /// Gives the pod users of its own, as `hostUsers: false` does in Kubernetes.
    pub(crate) fn user_namespace(mut self) -> Self {
        self.user_namespace = true;
        self
    }

    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// A container that is still to be created.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) envs: Vec<KeyValue>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) cdi_devices: Vec<CdiDevice>,
    pub(crate) read_only: bool,
}

impl Container {
    /// A container of the tests' image that sleeps.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            envs: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            annotations: HashMap::new(),
            cdi_devices: Vec::new(),
            read_only: false,
        }
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push(KeyValue { key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// A mount that the container can only read.
    pub(crate) fn mount(self, from: &str, to: &str) -> Self {
        self.mounted(from, to, true)
    }

    /// A mount that the container can write.
    pub(crate) fn volume(self, from: &str, to: &str) -> Self {
        self.mounted(from, to, false)
    }

    fn mounted(mut self, from: &str, to: &str, readonly: bool) -> Self {
        let (host_path, container_path) = (from.to_owned(), to.to_owned());
        self.mounts.push(Mount { host_path, container_path, readonly, ..Default::default() });
        self
    }

    /// A device node, under the same path as on the node.
    pub(crate) fn device(mut self, path: &str) -> Self {
        let (host_path, container_path) = (path.to_owned(), path.to_owned());
        self.devices.push(Device { host_path, container_path, permissions: "rw".to_owned() });
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A device by its CDI name.
    pub(crate) fn cdi(mut self, name: &str) -> Self {
        self.cdi_devices.push(CdiDevice { name: name.to_owned() });
        self
    }

    pub(crate) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}
