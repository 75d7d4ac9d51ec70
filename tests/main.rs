//! Black-box tests: the real binary, real runtimes. One test binary, so that nodes are shared and linking happens once.

// What the tests stand on, from the machine up to the pod.
mod bundle;
mod cache;
mod chart;
mod containerd;
mod cri;
mod daemon;
mod debian;
mod endpoint;
mod gpu;
mod image;
mod installation;
mod kubelet;
mod matrix;
mod node;
mod pod;
mod sandbox;
mod served;
mod shell;

// A subject each.
mod attack;
mod cdi;
mod deploy;
mod doctor;
mod drivers;
mod e2e;
#[cfg(feature = "fuzzing")]
mod fuzz_corpus;
mod health;
mod hook;
mod hostile;
mod hostile_pods;
mod http;
mod input;
mod inspect;
mod install;
mod interrupt;
mod lifecycle;
mod log;
mod metrics;
mod soak;
mod tidy;
