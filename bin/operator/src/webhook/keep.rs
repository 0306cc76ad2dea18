//! Keeps the certificate: in the Secret, trusted by the webhook's configuration, and served. In this order, so that what is
//! served is always trusted. Replicas that do so at once agree by the Secret's version: one writes, the others read.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::certificate::Certificate;
use super::serve::{Served, Unusable};
use crate::config::WebhookConfig;
use crate::steps;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(20);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// A look failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{operation} {subject}")]
    Api {
        operation: &'static str,
        subject: String,
        source: kube::Error,
    },
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("serve the certificate")]
    Serve(#[from] Unusable),
}

struct Keeper {
    config: WebhookConfig,
    secrets: Api<Secret>,
    configurations: Api<ValidatingWebhookConfiguration>,
    served: Arc<Served>,
}

/// Runs for ever.
pub async fn run(
    config: WebhookConfig,
    client: Client,
    served: Arc<Served>,
    ready: watch::Sender<bool>,
) {
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &config.namespace),
        configurations: Api::all(client),
        config,
        served,
    };
    loop {
        let looked = keeper.look().await;
        // One that is served is trusted, also where the API server cannot be asked just now.
        ready.send_replace(keeper.served.any());
        match looked {
            Ok(()) => sleep(LOOK).await,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "the webhook's certificate");
                sleep(RETRY).await;
            }
        }
    }
}

impl Keeper {
    async fn look(&self) -> Result<(), Error> {
        let certificate = self.agree().await?;
        self.make_trusted(&certificate).await?;
        if !self.served.is(&certificate) {
            self.served.put(&certificate)?;
            tracing::info!(?certificate, "the webhook serves");
        }
        Ok(())
    }

    /// The certificate of all replicas: a new one where there is none, where it is due, or where it cannot be used.
    async fn agree(&self) -> Result<Certificate, Error> {
        let name = &self.config.name;
        loop {
            let read = self.secrets.get(name).await;
            let mut secret = read.map_err(|error| failed("read Secret", name, error))?;
            let before = Certificate::read(&secret);
            if let Some(good) = &before
                && !good.is_due(Timestamp::now())
                && Served::default().put(good).is_ok()
            {
                return Ok(good.clone());
            }
            let service = format!("{name}.{}.svc", self.config.namespace);
            let made = Certificate::make(&[service], Timestamp::now(), before.as_ref())?;
            made.write(&mut secret);
            let params = PostParams::default();
            let write = self.secrets.replace(name, &params, &secret);
            match steps::WEBHOOK_SECRET.during(write).await {
                Ok(_) => return Ok(made),
                // Another replica was first.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed("write Secret", name, error)),
            }
        }
    }

    async fn make_trusted(&self, certificate: &Certificate) -> Result<(), Error> {
        let name = &self.config.name;
        let read = self.configurations.get(name).await;
        let present =
            read.map_err(|error| failed("read ValidatingWebhookConfiguration", name, error))?;
        let authorities = certificate.authorities.as_bytes();
        let webhooks = present.webhooks.unwrap_or_default();
        let trusts = |bundle: Option<&k8s_openapi::ByteString>| {
            bundle.is_some_and(|bundle| bundle.0 == authorities)
        };
        let all = webhooks
            .iter()
            .all(|webhook| trusts(webhook.client_config.ca_bundle.as_ref()));
        if all {
            return Ok(());
        }
        let bundle = k8s_openapi::ByteString(authorities.to_vec());
        let changed: Vec<_> = webhooks
            .iter()
            .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle } }))
            .collect();
        let patch = json!({ "webhooks": changed });
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let write = self.configurations.patch(name, &params, &patch);
        match steps::WEBHOOK_TRUST.during(write).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("write ValidatingWebhookConfiguration", name, error)),
        }
    }
}

fn failed(operation: &'static str, subject: &str, source: kube::Error) -> Error {
    Error::Api {
        operation,
        subject: subject.to_owned(),
        source,
    }
}
