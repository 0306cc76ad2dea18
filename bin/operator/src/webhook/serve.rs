//! The webhook's server: TLS with the certificate of the moment.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::Webhook;
use super::certificate::Certificate;
use super::review;
use crate::metrics::ReviewLabels;

/// Longest time of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once.
const HANDSHAKES: usize = 64;

/// Certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("tls.crt: {0}")]
    Certificate(rustls::pki_types::pem::Error),
    #[error("tls.key: {0}")]
    Key(rustls::pki_types::pem::Error),
    #[error("tls.crt and tls.key: {0}")]
    Pair(#[from] rustls::Error),
}

/// The certificate of the moment; without one every handshake fails.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<(Certificate, Arc<CertifiedKey>)>>);

impl Served {
    /// Whether this very certificate is served.
    pub fn is(&self, certificate: &Certificate) -> bool {
        let served = self.0.read().unwrap_or_else(PoisonError::into_inner);
        served.as_ref().is_some_and(|(now, _)| now == certificate)
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        let served = self.0.read().unwrap_or_else(PoisonError::into_inner);
        served.is_some()
    }

    /// Serves this one from now on.
    ///
    /// # Errors
    /// It cannot be used; what was served still is.
    pub fn put(&self, certificate: &Certificate) -> Result<(), Unusable> {
        let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
        let chain = chain
            .collect::<Result<Vec<_>, _>>()
            .map_err(Unusable::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
        let key = key.map_err(Unusable::Key)?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        let mut served = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *served = Some((certificate.clone(), Arc::new(pair)));
        Ok(())
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.0.read().unwrap_or_else(PoisonError::into_inner);
        served.as_ref().map(|(_, pair)| Arc::clone(pair))
    }
}

/// Connections whose handshake is done: one that dawdles keeps nobody waiting.
#[derive(Debug)]
struct Handshaken {
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl Handshaken {
    fn new(mut listener: TcpListener, config: Arc<ServerConfig>) -> std::io::Result<Self> {
        let local = listener.local_addr()?;
        let (done, connections) = mpsc::channel(HANDSHAKES);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            let slots = Arc::new(Semaphore::new(HANDSHAKES));
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let (stream, peer) = tokio::select! {
                    accepted = Listener::accept(&mut listener) => accepted,
                    () = done.closed() => return,
                };
                let handshake = acceptor.accept(stream);
                let done = done.clone();
                tokio::spawn(async move {
                    let result = timeout(HANDSHAKE, handshake).await;
                    drop(slot);
                    match result {
                        // Closed: the server ends.
                        Ok(Ok(stream)) => drop(done.send((stream, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake failed"),
                        Err(_) => tracing::debug!(%peer, "handshake took too long"),
                    }
                });
            }
        });
        Ok(Self { connections, local })
    }
}

impl Listener for Handshaken {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // Cannot be: the task above ends after this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Serves until shutdown.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    webhook: Arc<Webhook>,
    mut shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let served: Arc<dyn ResolvesServerCert> = Arc::<Served>::clone(&webhook.served);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(served);
    let listener = Handshaken::new(listener, Arc::new(config))?;
    let router = Router::new()
        .route("/identity", post(judge))
        .layer(DefaultBodyLimit::max(review::MAX_REVIEW))
        .with_state(webhook);
    let stopped = async move {
        // An error means that the sender is gone, which is a shutdown too.
        drop(shutdown.wait_for(|stop| *stop).await);
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await?;
    Ok(())
}

async fn judge(State(webhook): State<Arc<Webhook>>, body: Bytes) -> Response {
    let count = |verdict| {
        let labels = ReviewLabels { verdict };
        webhook.metrics.reviews.get_or_create(&labels).inc();
    };
    let request = match review::read(&body) {
        Ok(request) => request,
        Err(error) => {
            count("unreadable");
            tracing::warn!(%error, "a review that cannot be read");
            return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
        }
    };
    let verdict = webhook.verdict(&request).await;
    match &verdict {
        Ok(()) => count("allowed"),
        Err(refusal) => {
            count(if refusal.code == 403 {
                "refused"
            } else {
                "failed"
            });
            tracing::warn!(
                user = request.user_info.username,
                operation = request.operation,
                name = request.name,
                resource = request.resource.resource,
                refusal = refusal.message,
                "refused"
            );
        }
    }
    axum::Json(review::answer(&request.uid, &verdict)).into_response()
}
