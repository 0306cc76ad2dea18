//! Flags and environment, validated once. Components receive their own part.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tombolo_cloud_sim::client::{ClientConfig, Endpoint};
use tombolo_core::eni::{BackoffConfig, PlannerConfig};
use tombolo_core::types::Millis;

/// Tombolo's cluster operator: keeps the cloud's NICs and addresses as the nodes need them.
#[derive(Clone, Debug, Parser)]
#[command(name = "tombolo-operator", version)]
pub struct Args {
    /// The cloud.
    #[arg(long, env = "TOMBOLO_CLOUD", value_enum)]
    cloud: CloudKind,
    /// The cloud's API: `http://<host>[:<port>]` or `unix:<path>`.
    #[arg(long, env = "TOMBOLO_CLOUD_ENDPOINT")]
    cloud_endpoint: String,
    /// Name of this cluster; cloud NICs that it makes carry it, and no others are ever changed.
    #[arg(long, env = "TOMBOLO_CLUSTER")]
    cluster: String,
    /// Where metrics and health are served.
    #[arg(long, env = "TOMBOLO_METRICS_LISTEN", default_value = "0.0.0.0:9811")]
    metrics_listen: String,
    /// URL of the Kubernetes API; absent: kubeconfig or the pod's service account.
    #[arg(long, env = "TOMBOLO_API_SERVER")]
    api_server: Option<String>,

    /// Calls a second that the operator makes to the cloud, in the long run.
    #[arg(long, env = "TOMBOLO_CLOUD_RATE", default_value_t = 20.0)]
    cloud_rate: f64,
    /// Calls that it may make at once.
    #[arg(long, env = "TOMBOLO_CLOUD_BURST", default_value_t = 40)]
    cloud_burst: u32,
    /// Longest time of one cloud call.
    #[arg(long, env = "TOMBOLO_CLOUD_TIMEOUT", default_value = "10s", value_parser = duration)]
    cloud_timeout: Duration,

    /// Time between two whole readings of the cloud.
    #[arg(long, env = "TOMBOLO_RESYNC", default_value = "60s", value_parser = duration)]
    resync: Duration,
    /// Shortest time between two whole readings.
    #[arg(long, env = "TOMBOLO_SWEEP_GAP", default_value = "1s", value_parser = duration)]
    sweep_gap: Duration,
    /// Time between two readings that must agree before anything is taken for gone.
    #[arg(long, env = "TOMBOLO_CONFIRM_AFTER", default_value = "5s", value_parser = duration)]
    confirm_after: Duration,
    /// How long an address that was given back is not believed when a reading still shows it.
    #[arg(long, env = "TOMBOLO_STALE_GRACE", default_value = "60s", value_parser = duration)]
    stale_grace: Duration,
    /// How long an instance that the cloud no longer lists, and whose Node is gone, is kept.
    #[arg(long, env = "TOMBOLO_ABSENT_GRACE", default_value = "10m", value_parser = duration)]
    absent_grace: Duration,
    /// How long a NIC of this cluster may be seen without an object before it is deleted.
    #[arg(long, env = "TOMBOLO_LEAK_AGE", default_value = "5m", value_parser = duration)]
    leak_age: Duration,
    /// Time between two looks at NICs that are being attached or detached.
    #[arg(long, env = "TOMBOLO_ATTACH_POLL", default_value = "500ms", value_parser = duration)]
    attach_poll: Duration,

    /// Wait after a first failure.
    #[arg(long, env = "TOMBOLO_BACKOFF_BASE", default_value = "1s", value_parser = duration)]
    backoff_base: Duration,
    /// Longest wait after failures.
    #[arg(long, env = "TOMBOLO_BACKOFF_MAX", default_value = "60s", value_parser = duration)]
    backoff_max: Duration,
    /// How long a subnet that refused is left alone.
    #[arg(long, env = "TOMBOLO_SUBNET_HOLD", default_value = "120s", value_parser = duration)]
    subnet_hold: Duration,
    /// How long a limit that the cloud enforced is taken for real.
    #[arg(long, env = "TOMBOLO_LIMIT_HOLD", default_value = "120s", value_parser = duration)]
    limit_hold: Duration,
    /// How long an address that a node refused to give back is not asked for again.
    #[arg(long, env = "TOMBOLO_REFUSED_HOLD", default_value = "30s", value_parser = duration)]
    refused_hold: Duration,
    /// How long a NIC must be spare before it is given back.
    #[arg(long, env = "TOMBOLO_NIC_IDLE", default_value = "60s", value_parser = duration)]
    nic_idle: Duration,
    /// How long attaching may take before it is reported.
    #[arg(long, env = "TOMBOLO_ATTACH_TIMEOUT", default_value = "60s", value_parser = duration)]
    attach_timeout: Duration,

    /// Namespace of the lease.
    #[arg(long, env = "TOMBOLO_LEASE_NAMESPACE", default_value = "kube-system")]
    lease_namespace: String,
    /// Name of the lease.
    #[arg(long, env = "TOMBOLO_LEASE_NAME", default_value = "tombolo-operator")]
    lease_name: String,
    /// How long the lease holds without renewal.
    #[arg(long, env = "TOMBOLO_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    lease_duration: Duration,
    /// Time between renewals.
    #[arg(long, env = "TOMBOLO_LEASE_RENEW", default_value = "4s", value_parser = duration)]
    lease_renew: Duration,
    /// Where the admission webhook is served over TLS; absent: not at all, and then nothing keeps an agent from writing
    /// other nodes' objects (a lab without accounts).
    #[arg(long, env = "TOMBOLO_WEBHOOK_LISTEN")]
    webhook_listen: Option<String>,
    /// Name of the webhook's Secret and Service, in the lease's namespace, and of its ValidatingWebhookConfiguration.
    #[arg(long, env = "TOMBOLO_WEBHOOK_NAME", default_value = "tombolo-webhook")]
    webhook_name: String,
    /// The agents' service account, in the lease's namespace.
    #[arg(long, env = "TOMBOLO_AGENT_ACCOUNT", default_value = "tombolo-agent")]
    agent_account: String,

    /// Name of this process in the lease; absent: made of the host name and a random word.
    #[arg(long, env = "TOMBOLO_IDENTITY")]
    identity: Option<String>,

    /// Which spans and events are logged (`info`, `tombolo_operator=debug`, …).
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info")]
    pub log: String,

    /// For tests: end or stop the process before or after a write, for example `cloud.create-nic.after`. No variable sets it.
    #[arg(long, hide = true)]
    pub failpoint: Vec<tombolo_failpoint::Order>,
}

/// Clouds that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CloudKind {
    /// The simulated VPC.
    Sim,
}

impl CloudKind {
    /// The cloud's word in `Node.spec.providerID`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sim => "sim",
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{field} {value:?} {problem}")]
pub struct InvalidConfig {
    /// The flag.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Everything, valid.
#[derive(Clone, Debug)]
pub struct Config {
    pub cloud: CloudKind,
    pub cluster: String,
    pub metrics_listen: SocketAddr,
    pub api_server: Option<http::Uri>,
    pub cloud_calls: CloudConfig,
    pub inventory: InventoryConfig,
    pub planner: PlannerConfig,
    pub leak_age: Millis,
    pub absent_grace: Millis,
    pub lease: LeaseConfig,
    pub webhook: Option<WebhookConfig>,
}

/// How the cloud is called.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    pub endpoint: Endpoint,
    pub client: ClientConfig,
    pub rate: f64,
    pub burst: u32,
}

/// How the cloud is read.
#[derive(Clone, Copy, Debug)]
pub struct InventoryConfig {
    pub resync: Duration,
    pub sweep_gap: Duration,
    pub confirm_after: Millis,
    pub stale_grace: Millis,
    pub attach_poll: Duration,
    pub backoff: BackoffConfig,
}

/// The lease.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub duration: Duration,
    pub renew: Duration,
}

/// The admission webhook.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    pub listen: SocketAddr,
    /// Of the Secret, the Service and the agents.
    pub namespace: String,
    pub name: String,
    /// The agents' service account.
    pub agent: String,
}

impl Args {
    /// Checks everything.
    ///
    /// # Errors
    /// Names the first flag at fault.
    pub fn validate(self) -> Result<Config, InvalidConfig> {
        let invalid = |field, value: &str, problem: &str| InvalidConfig {
            field,
            value: value.to_owned(),
            problem: problem.to_owned(),
        };
        let endpoint = self
            .cloud_endpoint
            .parse::<Endpoint>()
            .map_err(|error| invalid("cloud-endpoint", &self.cloud_endpoint, &error.to_string()))?;
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.cluster.is_empty() || self.cluster.len() > 63 || !self.cluster.chars().all(name) {
            let problem = "must have 1 to 63 characters out of a-z, 0-9 and '-'";
            return Err(invalid("cluster", &self.cluster, problem));
        }
        let metrics_listen = self.metrics_listen.parse().map_err(|_| {
            invalid(
                "metrics-listen",
                &self.metrics_listen,
                "is not <address>:<port>",
            )
        })?;
        let api_server = match &self.api_server {
            None => None,
            Some(url) => {
                let uri: http::Uri = url
                    .parse()
                    .map_err(|_| invalid("api-server", url, "is not a URL"))?;
                if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
                    return Err(invalid(
                        "api-server",
                        url,
                        "is not http(s)://<host>[:<port>]",
                    ));
                }
                Some(uri)
            }
        };
        // One call in a quarter of an hour; what is beyond has no duration.
        if !(0.001..=1e6).contains(&self.cloud_rate) {
            return Err(invalid(
                "cloud-rate",
                &self.cloud_rate.to_string(),
                "must be 0.001 to 1000000",
            ));
        }
        if self.cloud_burst == 0 {
            return Err(invalid("cloud-burst", "0", "must be above 0"));
        }
        for (field, value) in [
            ("cloud-timeout", self.cloud_timeout),
            ("resync", self.resync),
            ("attach-poll", self.attach_poll),
            ("backoff-base", self.backoff_base),
            ("lease-renew", self.lease_renew),
        ] {
            if value.is_zero() {
                return Err(invalid(field, "0", "must be above 0"));
            }
        }
        if self.backoff_max < self.backoff_base {
            return Err(invalid(
                "backoff-max",
                &format!("{:?}", self.backoff_max),
                "is below --backoff-base",
            ));
        }
        if self.lease_duration < self.lease_renew * 2 || self.lease_duration.as_secs() == 0 {
            let problem = "must be at least 1s and twice --lease-renew";
            return Err(invalid(
                "lease-duration",
                &format!("{:?}", self.lease_duration),
                problem,
            ));
        }
        let webhook = match &self.webhook_listen {
            None => None,
            Some(listen) => Some(WebhookConfig {
                listen: listen
                    .parse()
                    .map_err(|_| invalid("webhook-listen", listen, "is not <address>:<port>"))?,
                namespace: self.lease_namespace.clone(),
                name: self.webhook_name,
                agent: self.agent_account,
            }),
        };
        let backoff = BackoffConfig {
            base: millis(self.backoff_base),
            max: millis(self.backoff_max),
        };
        Ok(Config {
            cloud: self.cloud,
            cluster: self.cluster,
            metrics_listen,
            api_server,
            cloud_calls: CloudConfig {
                endpoint,
                client: ClientConfig {
                    timeout: self.cloud_timeout,
                    ..ClientConfig::default()
                },
                rate: self.cloud_rate,
                burst: self.cloud_burst,
            },
            inventory: InventoryConfig {
                resync: self.resync,
                sweep_gap: self.sweep_gap,
                confirm_after: millis(self.confirm_after),
                stale_grace: millis(self.stale_grace),
                attach_poll: self.attach_poll,
                backoff,
            },
            planner: PlannerConfig {
                backoff,
                subnet_hold: millis(self.subnet_hold),
                limit_hold: millis(self.limit_hold),
                refused_hold: millis(self.refused_hold),
                // Longer than any call takes, and than anybody trusts what was read.
                taking_hold: millis(self.stale_grace + 2 * self.resync + self.cloud_timeout),
                nic_idle: millis(self.nic_idle),
                attach_timeout: millis(self.attach_timeout),
            },
            leak_age: millis(self.leak_age),
            absent_grace: millis(self.absent_grace),
            lease: LeaseConfig {
                namespace: self.lease_namespace,
                name: self.lease_name,
                identity: self.identity.unwrap_or_else(default_identity),
                duration: self.lease_duration,
                renew: self.lease_renew,
            },
            webhook,
        })
    }
}

fn default_identity() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .filter(|host| !host.is_empty());
    format!(
        "{}-{:08x}",
        host.as_deref().unwrap_or("operator"),
        crate::clock::random() >> 32
    )
}

fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Parses `500ms`, `60s`, `10m`, `1h` and a bare `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} has no whole number in front"))?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "" if number == 0 => Duration::ZERO,
        _ => return Err(format!("{text:?} has no unit: ms, s, m or h")),
    };
    let seconds = u32::try_from(number).map_err(|_| format!("{text:?} is too long"))?;
    Ok(unit * seconds)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Config, InvalidConfig> {
        let base = ["tombolo-operator", "--cloud", "sim"];
        let mut args: Vec<&str> = base.to_vec();
        for (flag, value) in [
            ("--cloud-endpoint", "http://169.254.169.254"),
            ("--cluster", "demo"),
        ] {
            if !extra.contains(&flag) {
                args.extend([flag, value]);
            }
        }
        args.extend(extra);
        Args::try_parse_from(args).unwrap().validate()
    }

    #[test]
    fn defaults_are_valid() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.cloud.word(), "sim");
        assert_eq!(config.planner.nic_idle, Millis::from_secs(60));
        assert_ne!(parse(&[]).unwrap().lease.identity, config.lease.identity);
    }

    #[test]
    fn the_flag_at_fault_is_named() {
        for (extra, field) in [
            (
                &["--cloud-endpoint", "169.254.169.254"][..],
                "cloud-endpoint",
            ),
            (&["--cluster", "Demo"], "cluster"),
            (&["--cluster", ""], "cluster"),
            (&["--metrics-listen", "9811"], "metrics-listen"),
            (&["--webhook-listen", "9443"], "webhook-listen"),
            (&["--api-server", "10.0.0.1:6443"], "api-server"),
            (&["--cloud-rate", "0"], "cloud-rate"),
            (&["--cloud-rate", "NaN"], "cloud-rate"),
            (&["--cloud-rate", "1e-300"], "cloud-rate"),
            (&["--cloud-burst", "0"], "cloud-burst"),
            (&["--resync", "0"], "resync"),
            (&["--backoff-base", "2m"], "backoff-max"),
            (&["--lease-duration", "5s"], "lease-duration"),
        ] {
            let error = parse(extra).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().contains(&format!("--{field}")));
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5", "1.5s", "-1s", "99999999999s", "5 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
