//! Talks to the agent: connects with patience, sends one request, and sends it again when the agent is restarted in
//! the middle. All requests are idempotent by key, so a repeat is harmless.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tombolo_failpoint::Point;
use tombolo_rpc::node_client::NodeClient;
use tombolo_rpc::{
    AddRequest, Attachment, CheckRequest, ConnectError, DelRequest, Failure, GcRequest, PROTOCOL,
    StatusReply, StatusRequest, Transport, add_reply, connect,
};
use tonic::{Code, Status};

use crate::steps;

/// First and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// How often a request whose connection broke is sent again. More would only feed an agent that it brings down.
const RESENDS: u32 = 3;

/// The agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent is away (waited {waited:?})")]
    Away {
        waited: Duration,
        #[source]
        source: ConnectError,
    },
    #[error("the agent on {} did not answer within {after:?}", socket.display())]
    TimedOut { socket: PathBuf, after: Duration },
    #[error("call the agent on {}: {}", socket.display(), source.message())]
    Call {
        socket: PathBuf,
        #[source]
        source: Box<Status>,
    },
    #[error("the agent on {} is of an older build than this plugin and has no {command}", socket.display())]
    Older {
        socket: PathBuf,
        command: &'static str,
        #[source]
        source: Box<Status>,
    },
    #[error("the agent's answer to ADD holds neither an attachment nor a failure")]
    EmptyAnswer,
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl AgentError {
    /// Whether there was no answer at all, which may be because there is no agent.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Away { .. } | Self::TimedOut { .. } => true,
            Self::Call { source, .. } => broke(source),
            Self::EmptyAnswer | Self::Refused(_) | Self::Older { .. } => false,
        }
    }

    /// Whether it is certain that no agent runs.
    pub fn nobody_listens(&self) -> bool {
        let Self::Away {
            source: ConnectError::Connect { source, .. },
            ..
        } = self
        else {
            return false;
        };
        matches!(
            source.kind(),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused
        )
    }
}

/// Where the agent listens and how long to wait.
#[derive(Clone, Debug)]
pub struct Patience {
    pub socket: PathBuf,
    /// For all together.
    pub overall: Duration,
    /// For a connection, while nobody listens.
    pub connect: Duration,
}

/// Asks for an attachment. `request.timeout_ms` is set here to the time that is left.
pub async fn add(patience: &Patience, request: AddRequest) -> Result<Attachment, AgentError> {
    let reply = converse(
        patience,
        &steps::ADD_ASK,
        async |mut client, left: Duration| {
            let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            client
                .add_network(AddRequest {
                    timeout_ms,
                    ..request.clone()
                })
                .await
        },
    )
    .await?;
    match reply.outcome {
        Some(add_reply::Outcome::Attachment(attachment)) => Ok(attachment),
        Some(add_reply::Outcome::Failure(failure)) => Err(AgentError::Refused(failure)),
        None => Err(AgentError::EmptyAnswer),
    }
}

/// Asks to detach.
pub async fn del(patience: &Patience, request: DelRequest) -> Result<(), AgentError> {
    let reply = converse(patience, &steps::DEL_ASK, async |mut client, _left| {
        client.del_network(request.clone()).await
    })
    .await?;
    reply
        .failure
        .map_or(Ok(()), |failure| Err(AgentError::Refused(failure)))
}

/// Asks to compare.
pub async fn check(patience: &Patience, request: CheckRequest) -> Result<(), AgentError> {
    let reply = converse(patience, &steps::CHECK_ASK, async |mut client, _left| {
        client.check_network(request.clone()).await
    })
    .await?;
    reply
        .failure
        .map_or(Ok(()), |failure| Err(AgentError::Refused(failure)))
}

/// Asks to detach what is not listed. An agent of a build before GC says so.
pub async fn gc(patience: &Patience, request: GcRequest) -> Result<(), AgentError> {
    let reply = converse(patience, &steps::GC_ASK, async |mut client, _left| {
        client.garbage_collect(request.clone()).await
    })
    .await;
    let reply = reply.map_err(|error| match error {
        AgentError::Call { socket, source } if source.code() == Code::Unimplemented => {
            let command = "GC";
            AgentError::Older {
                socket,
                command,
                source,
            }
        }
        error => error,
    })?;
    reply
        .failure
        .map_or(Ok(()), |failure| Err(AgentError::Refused(failure)))
}

/// Asks whether an ADD can work.
pub async fn status(patience: &Patience) -> Result<StatusReply, AgentError> {
    let protocol = PROTOCOL;
    converse(patience, &steps::STATUS_ASK, async |mut client, _left| {
        client.status(StatusRequest { protocol }).await
    })
    .await
}

async fn converse<R>(
    patience: &Patience,
    point: &'static Point,
    call: impl AsyncFn(NodeClient<Transport>, Duration) -> Result<tonic::Response<R>, Status>,
) -> Result<R, AgentError> {
    let deadline = Instant::now() + patience.overall;
    let socket = &patience.socket;
    let attempts = async || {
        let mut resent = 0;
        loop {
            let client = connect_patiently(socket, patience.connect).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            match point.during(call(client, left)).await {
                Ok(reply) => return Ok(reply.into_inner()),
                // The connection broke: the agent went away in the middle. Whoever listens next resumes or undoes.
                Err(status) if broke(&status) && resent < RESENDS => {
                    sleep(PAUSE.0 * 2_u32.pow(resent)).await;
                    resent += 1;
                }
                Err(status) => {
                    return Err(AgentError::Call {
                        socket: socket.clone(),
                        source: Box::new(status),
                    });
                }
            }
        }
    };
    match timeout_at(deadline, attempts()).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(AgentError::TimedOut {
            socket: socket.clone(),
            after: patience.overall,
        }),
    }
}

/// Whether this side made the status up because the connection ended; what the agent itself says has no source.
fn broke(status: &Status) -> bool {
    status.source().is_some()
}

/// Connects; while nobody listens, tries again with growing pauses.
async fn connect_patiently(
    socket: &Path,
    patience: Duration,
) -> Result<NodeClient<Transport>, AgentError> {
    let start = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        match connect(socket).await {
            Ok(client) => return Ok(client),
            Err(source) if start.elapsed() + pause > patience => {
                return Err(AgentError::Away {
                    waited: start.elapsed(),
                    source,
                });
            }
            Err(_not_yet) => sleep(pause).await,
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}
