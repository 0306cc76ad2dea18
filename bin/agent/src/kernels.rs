//! Open kernel sockets, lent to blocking work. Opening one costs system calls, closing one a grace period; and the kernel
//! takes most changes under one lock, so that more than a few at once gain nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tombolo_netlink::{Error as NetlinkError, Kernel};

use crate::error::Error;

/// How many run at once.
pub const WIDTH: usize = 4;

#[derive(Debug)]
pub struct Kernels {
    idle: Mutex<Vec<Kernel>>,
    permits: Semaphore,
    ports: BTreeSet<u32>,
}

impl Kernels {
    /// Opens all sockets in the calling thread's namespace, which must be the node's and the one of every other thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let idle: Vec<Kernel> = (0..WIDTH)
            .map(|_| Kernel::open())
            .collect::<Result<_, _>>()?;
        let ports = idle.iter().flat_map(Kernel::ports).collect();
        Ok(Self {
            idle: Mutex::new(idle),
            permits: Semaphore::new(WIDTH),
            ports,
        })
    }

    /// Whether a notification with this port id tells of our own change.
    pub fn is_ours(&self, port: u32) -> bool {
        self.ports.contains(&port)
    }

    /// Runs blocking work with a kernel, off the asynchronous threads. The work goes on when the caller is dropped.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let kernels = Arc::clone(self);
        let permit = self.permits.acquire().await.map_err(|_| Error::Stopping)?;
        permit.forget();
        let task = tokio::task::spawn_blocking(move || {
            let loan = Loan::take(&kernels);
            match loan {
                Some(mut loan) => loan.kernel.as_mut().map(work),
                None => None,
            }
        });
        task.await?.ok_or(Error::Stopping)
    }
}

/// A kernel that returns, with its permit, however the work ends.
struct Loan<'a> {
    kernels: &'a Kernels,
    kernel: Option<Kernel>,
}

impl<'a> Loan<'a> {
    fn take(kernels: &'a Kernels) -> Option<Self> {
        let kernel = kernels
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(Self {
            kernels,
            kernel: Some(kernel),
        })
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.take() {
            self.kernels
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(kernel);
        }
        self.kernels.permits.add_permits(1);
    }
}
