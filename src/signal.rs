//! [`Signal`]: what in a container says that it asked for an NVIDIA GPU, and where its driver libraries are.

use std::fmt;

use nri::api::{Container, LinuxDevice, PodSandbox};

/// What asked for an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The pod's annotation of this name.
    Annotation(String),
    /// The operator's mode.
    Configuration,
    /// A device node.
    Device(String),
    /// The qualified name of a CDI device.
    Cdi(String),
    /// The value of `NVIDIA_VISIBLE_DEVICES`.
    VisibleDevices(String),
    /// A driver library mounted at this path.
    Library(String),
    /// A directory of the driver mounted at this path.
    Directory(String),
}

impl Signal {
    /// Every word.
    pub const WORDS: [&str; 7] =
        ["annotation", "configuration", "device", "cdi", "visible-devices", "library", "directory"];

    /// The signal as one word, for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Annotation(_) => "annotation",
            Self::Configuration => "configuration",
            Self::Device(_) => "device",
            Self::Cdi(_) => "cdi",
            Self::VisibleDevices(_) => "visible-devices",
            Self::Library(_) => "library",
            Self::Directory(_) => "directory",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(key) => write!(f, "annotation {key}"),
            Self::Configuration => f.write_str("mode enabled by configuration"),
            Self::Device(path) => write!(f, "device {path}"),
            Self::Cdi(name) => write!(f, "CDI device {name}"),
            Self::VisibleDevices(value) => write!(f, "NVIDIA_VISIBLE_DEVICES={value}"),
            Self::Library(path) => write!(f, "library {path}"),
            Self::Directory(path) => write!(f, "directory {path}"),
        }
    }
}

/// Every kind of signal that a container gives, the first of each kind.
pub fn signals(pod: &PodSandbox, container: &Container) -> Vec<Signal> {
    let mounted = || container.mounts.iter().map(|mount| mount.destination.as_str());
    let device = container
        .linux
        .devices
        .iter()
        .find(|device| is_nvidia(device))
        .map(|device| device.path.as_str());
    // A device node may come as a bind mount, as rootless runtimes give it.
    let device = device.or_else(|| mounted().find(|path| is_nvidia_path(path)));
    [
        device.map(|path| Signal::Device(path.to_owned())),
        cdi_device(pod, container).map(Signal::Cdi),
        visible_devices(container).map(|value| Signal::VisibleDevices(value.to_owned())),
        mounted().find(|path| is_library(path)).map(|path| Signal::Library(path.to_owned())),
        mounted().find(|path| is_directory(path)).map(|path| Signal::Directory(path.to_owned())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The directories that a container's mounts and environment name: parents of mounted libraries, library directories of
/// mounted driver directories, and the one where NVIDIA's CDI specs say that libcuda is.
pub fn folders(container: &Container) -> Vec<String> {
    let mounted = || container.mounts.iter().map(|mount| mount.destination.trim_end_matches('/'));
    let parents =
        mounted().filter(|path| is_library(path)).filter_map(|path| path.rsplit_once('/'));
    let parents =
        parents.map(|(parent, _)| if parent.is_empty() { "/" } else { parent }.to_owned());
    let directories = mounted().filter(|path| is_directory(path)).flat_map(library_dirs);
    parents
        .chain(directories)
        .chain(env(container, "NVIDIA_CTK_LIBCUDA_DIR").map(str::to_owned))
        .collect()
}

/// The major number of NVIDIA's control and GPU devices (Linux, Documentation/admin-guide/devices.txt).
const MAJOR: i64 = 195;

fn is_nvidia(device: &LinuxDevice) -> bool {
    let character = matches!(device.type_.as_str(), "c" | "u");
    (character && device.major == MAJOR) || is_nvidia_path(&device.path)
}

/// GPUs, their control, unified memory and MIG capability devices; Tegra's; and the one of WSL.
fn is_nvidia_path(path: &str) -> bool {
    let Some(name) = path.strip_prefix("/dev/") else { return false };
    matches!(name, "nvidiactl" | "nvmap" | "dxg")
        || ["nvidia-uvm", "nvidia-caps/", "nvhost"].iter().any(|prefix| name.starts_with(prefix))
        || name
            .strip_prefix("nvidia")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The first CDI device of NVIDIA: by the runtime's list, else by annotations. CDI keeps `cdi.k8s.io/` for them, and the
/// NRI plugin of NVIDIA's toolkit `nvidia.cdi.k8s.io/`; both have comma-separated names.
fn cdi_device(pod: &PodSandbox, container: &Container) -> Option<String> {
    let listed = container.CDI_devices.iter().map(|device| device.name.as_str());
    let annotations = pod.annotations.iter().chain(&container.annotations);
    let annotated = annotations
        .filter(|(key, _)| key.starts_with("cdi.k8s.io/") || concerns(key, &container.name))
        .flat_map(|(_, value)| value.split(','));
    listed.chain(annotated).map(str::trim).find(|name| is_nvidia_kind(name)).map(str::to_owned)
}

/// Can the annotation of this key be one of these?
pub fn reads(key: &str) -> bool {
    key.starts_with("cdi.k8s.io/") || key.starts_with("nvidia.cdi.k8s.io")
}

/// Can this entry of the environment be a signal, or name a directory?
pub fn reads_env(entry: &str) -> bool {
    entry.starts_with("NVIDIA_")
}

/// Is this an annotation of NVIDIA's NRI plugin for this container?
fn concerns(key: &str, container: &str) -> bool {
    let scope = key.strip_prefix("nvidia.cdi.k8s.io");
    scope.is_some_and(|scope| {
        matches!(scope, "" | "/pod")
            || scope.strip_prefix("/container.").is_some_and(|name| name == container)
    })
}

/// `VENDOR/CLASS=DEVICE` (CDI specification, "kind") with nvidia.com or a name below it as vendor.
fn is_nvidia_kind(name: &str) -> bool {
    let vendor =
        name.split_once('=').and_then(|(kind, _)| kind.split_once('/')).map(|(vendor, _)| vendor);
    vendor.is_some_and(|vendor| vendor == "nvidia.com" || vendor.ends_with(".nvidia.com"))
}

/// The value of `NVIDIA_VISIBLE_DEVICES`, unless it is one of those that ask for nothing.
fn visible_devices(container: &Container) -> Option<&str> {
    env(container, "NVIDIA_VISIBLE_DEVICES")
        .filter(|value| !matches!(value.trim(), "" | "void" | "none"))
}

/// The value of a variable: of several, runc and crun keep the last.
fn env<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    container.env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Names with which the libraries of NVIDIA's driver begin, up to the `.so`.
const LIBRARIES: [&str; 13] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvidia-",
    "libnvcuvid.so",
    "libnvoptix.so",
    "libEGL_nvidia.so",
    "libGLX_nvidia.so",
    "libGLESv1_CM_nvidia.so",
    "libGLESv2_nvidia.so",
    "libvdpau_nvidia.so",
    "libnvrm_",     // Tegra
    "libnvscibuf.", // Tegra
    "libdxcore.so", // WSL
];

/// Is this the path of a library of NVIDIA's driver, by its name?
pub fn is_library(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let shared = name.ends_with(".so") || name.contains(".so.");
    shared && LIBRARIES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where whole directories of the driver are mounted: by GKE and other clusters whose nodes keep it apart, and by WSL.
const DIRECTORIES: [&str; 3] = ["/usr/local/nvidia", "/usr/lib/wsl", "/usr/lib/nvidia"];

fn is_directory(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    DIRECTORIES.iter().any(|base| {
        path.strip_prefix(base).is_some_and(|rest| matches!(rest, "" | "/lib" | "/lib64"))
    })
}

/// A mounted `lib` or `lib64` is one itself, and so may be what is right below a mounted driver directory.
fn library_dirs(path: &str) -> Vec<String> {
    if path.ends_with("/lib64") || path.ends_with("/lib") {
        return vec![path.to_owned()];
    }
    vec![format!("{path}/lib64"), format!("{path}/lib")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use nri::api::{CDIDevice, Mount};

    fn words(pod: &PodSandbox, container: &Container) -> Vec<&'static str> {
        signals(pod, container).iter().map(Signal::word).collect()
    }

    #[test]
    fn device_nodes_are_known_by_path_or_major() {
        for (path, kind, major, expected) in [
            ("/dev/nvidia0", "c", 195, true),
            ("/dev/nvidia15", "c", 0, true),
            ("/dev/nvidiactl", "c", 195, true),
            ("/dev/nvidia-uvm", "c", 511, true),
            ("/dev/nvidia-uvm-tools", "c", 511, true),
            ("/dev/nvidia-caps/nvidia-cap1", "c", 240, true),
            ("/dev/nvhost-ctrl", "c", 505, true),
            ("/dev/nvmap", "c", 10, true),
            ("/dev/dxg", "c", 10, true),
            ("/dev/renamed", "c", 195, true),
            ("/dev/disk", "b", 195, false),
            ("/dev/nvidia", "c", 7, false),
            ("/dev/nvme0", "c", 242, false),
            ("/dev/null", "c", 1, false),
            ("/tmp/nvidia0", "c", 1, false),
        ] {
            let (path, type_) = (path.to_owned(), kind.to_owned());
            let device = LinuxDevice { path, type_, major, ..LinuxDevice::default() };
            assert_eq!(is_nvidia(&device), expected, "{device:?}");
            let mut container = Container::default();
            container.linux.mut_or_insert_default().devices.push(device);
            assert_eq!(words(&PodSandbox::default(), &container).contains(&"device"), expected);
        }
    }

    #[test]
    fn cdi_names_count_from_the_list_and_from_annotations() {
        for (name, expected) in [
            ("nvidia.com/gpu=0", true),
            ("k8s.device-plugin.nvidia.com/gpu=GPU-1", true),
            ("management.nvidia.com/gpu=all", true),
            ("amd.com/gpu=0", false),
            ("evilnvidia.com/gpu=0", false),
            ("nvidia.com/gpu", false),
        ] {
            let listed = Container {
                CDI_devices: vec![CDIDevice { name: name.into(), ..CDIDevice::default() }],
                ..Container::default()
            };
            assert_eq!(cdi_device(&PodSandbox::default(), &listed).is_some(), expected, "{name}");
            for (key, counts) in [
                ("cdi.k8s.io/x", true),
                ("nvidia.cdi.k8s.io/container.main", true),
                ("nvidia.cdi.k8s.io/container.other", false),
                ("nvidia.cdi.k8s.io", true),
                ("example.com/x", false),
            ] {
                let annotations = [(key.to_owned(), format!("amd.com/gpu=1, {name}"))].into();
                let pod = PodSandbox { annotations, ..PodSandbox::default() };
                let main = Container { name: "main".into(), ..Container::default() };
                assert_eq!(cdi_device(&pod, &main).is_some(), expected && counts, "{key}: {name}");
            }
        }
    }

    #[test]
    fn visible_devices_count_when_they_name_something() {
        for (env, expected) in [
            (&["NVIDIA_VISIBLE_DEVICES=all"][..], true),
            (&["NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2"], true),
            (&["NVIDIA_VISIBLE_DEVICES=void"], false),
            (&["NVIDIA_VISIBLE_DEVICES=none"], false),
            (&["NVIDIA_VISIBLE_DEVICES="], false),
            (&["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"], false),
            (&["NVIDIA_VISIBLE_DEVICES_X=all", "X=NVIDIA_VISIBLE_DEVICES=all"], false),
        ] {
            let container = Container {
                env: env.iter().map(|e| e.to_string()).collect(),
                ..Container::default()
            };
            assert_eq!(
                words(&PodSandbox::default(), &container).contains(&"visible-devices"),
                expected,
                "{env:?}"
            );
        }
    }

    #[test]
    fn mounts_of_driver_libraries_and_directories_count() {
        for (destination, word, dirs) in [
            (
                "/usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06",
                "library",
                &["/usr/lib/x86_64-linux-gnu"][..],
            ),
            ("/usr/lib64/libnvidia-ml.so.1", "library", &["/usr/lib64"]),
            ("/libcuda.so", "library", &["/"]),
            (
                "/usr/local/nvidia",
                "directory",
                &["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"],
            ),
            (
                "/usr/local/nvidia/",
                "directory",
                &["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"],
            ),
            ("/usr/local/nvidia/lib64", "directory", &["/usr/local/nvidia/lib64"]),
            ("/usr/lib/wsl/lib", "directory", &["/usr/lib/wsl/lib"]),
            ("/usr/bin/nvidia-smi", "", &[]),
            ("/usr/lib/libcudart.so.12", "", &[]),
            ("/usr/lib/libnvidia-ml.so.1/sub/file", "", &[]),
            ("/data/nvidia", "", &[]),
            ("/usr/local/nvidia-data", "", &[]),
        ] {
            let mount = Mount { destination: destination.into(), ..Mount::default() };
            let container = Container { mounts: vec![mount], ..Container::default() };
            let found = words(&PodSandbox::default(), &container);
            assert_eq!(found.first().copied().unwrap_or_default(), word, "{destination}");
            assert_eq!(folders(&container), dirs, "{destination}");
        }
    }
}
