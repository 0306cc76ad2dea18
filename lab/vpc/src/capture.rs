//! Captures at a NIC: tcpdump on the fabric's end of its link, where the VPC sees what the instance sends and gets.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::admin::{Info, LinkInfo, Links};
use crate::client::{AdminClient, ClientError};
use crate::fabric::{Netns, NsError};

/// A capture that could not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No such NIC is plugged.
    #[error("no plugged network interface is called {0:?}: give its id, or <instance>:eth<index>")]
    NoSuchNic(String),
    /// The server runs without a fabric.
    #[error("this VPC has no fabric to capture on")]
    NoFabric,
    /// The server.
    #[error("look the network interface up")]
    Client(#[from] ClientError),
    /// The router's namespace.
    #[error(transparent)]
    Namespace(#[from] NsError),
    /// tcpdump said no.
    #[error("tcpdump: {0}")]
    Tcpdump(String),
    /// tcpdump cannot be signalled or waited for.
    #[error("stop tcpdump")]
    Stop(#[source] std::io::Error),
}

/// A running capture. Dropping it ends tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
}

impl Capture {
    /// Starts a capture of a NIC (its id, or `<instance>:eth<index>`) into a file; returns when tcpdump listens.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub async fn start(
        client: &AdminClient,
        nic: &str,
        file: &Path,
        filter: &[String],
    ) -> Result<Self, CaptureError> {
        let links = client.lab(&Links {}).await?;
        let link = find(&links, nic).ok_or_else(|| CaptureError::NoSuchNic(nic.to_owned()))?;
        let info = client.lab(&Info {}).await?;
        let netns = info.fabric_netns.ok_or(CaptureError::NoFabric)?;
        Self::on_link(&netns, &link.link, file, filter)
    }

    /// Starts a capture of any link in a namespace given by path.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn on_link(
        netns: &str,
        link: &str,
        file: &Path,
        filter: &[String],
    ) -> Result<Self, CaptureError> {
        let netns = Netns::open(netns)?;
        let mut child = netns.run(|| {
            Command::new("tcpdump")
                // Without -Z it would become another user, who may not write the file.
                .args([
                    "-i",
                    link,
                    "-U",
                    "--immediate-mode",
                    "-n",
                    "-Z",
                    "root",
                    "-w",
                ])
                .arg(file)
                .args(filter)
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(netns.io("start tcpdump"))
        })?;
        let Some(stderr) = child.stderr.take() else {
            return Err(CaptureError::Tcpdump("no standard error".to_owned()));
        };
        let mut said = String::new();
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        for line in lines.by_ref() {
            if line.contains("listening on") {
                // It writes little more; the reader keeps the pipe from filling or breaking.
                std::thread::spawn(move || lines.count());
                return Ok(Self { child });
            }
            said.push_str(&line);
            said.push(' ');
        }
        // Standard error ended: so has tcpdump.
        child.wait().map_err(CaptureError::Stop)?;
        Err(CaptureError::Tcpdump(said.trim().to_owned()))
    }

    /// Ends the capture; the file is complete when this returns.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn stop(mut self) -> Result<ExitStatus, CaptureError> {
        self.interrupt().map_err(|e| CaptureError::Stop(e.into()))?;
        self.child.wait().map_err(CaptureError::Stop)
    }

    /// Waits until tcpdump ends by itself.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn wait(mut self) -> Result<ExitStatus, CaptureError> {
        self.child.wait().map_err(CaptureError::Stop)
    }

    fn interrupt(&self) -> rustix::io::Result<()> {
        match Pid::from_raw(self.child.id().cast_signed()) {
            Some(pid) => kill_process(pid, Signal::INT),
            None => Ok(()),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // After `stop` or `wait` the child is gone and its status kept: nothing is signalled twice.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.interrupt();
            let _ = self.child.wait();
        }
    }
}

fn find<'a>(links: &'a [LinkInfo], nic: &str) -> Option<&'a LinkInfo> {
    links.iter().find(|l| {
        let by_instance = nic.rsplit_once(':').is_some_and(|(instance, guest)| {
            (instance == l.instance || instance == l.instance_name) && guest == l.guest_link
        });
        l.plugged && (l.nic == nic || l.link == nic || by_instance)
    })
}
