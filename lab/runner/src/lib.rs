//! Runs CNI plugins as container runtimes do, and stands in for a kubelet.
//!
//! - [`cni`]: configuration lists, plugin calls, the result cache. Synchronous and cheap: the bench times it.
//! - [`netns`]: named network namespaces of pods.
//! - `kubelet`: a node agent of Kubernetes that runs pods as processes of the host's file system.

pub mod cni;
pub mod ids;
#[cfg(feature = "kubelet")]
mod kubelet;
pub mod netns;

#[cfg(feature = "kubelet")]
pub use kubelet::{KubeletArgs, run_kubelet};
