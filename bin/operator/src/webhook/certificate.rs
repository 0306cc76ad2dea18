//! The webhook's certificate: signed by an authority of its own whose key is thrown away, kept in a Secret that all replicas
//! share, renewed long before it ends.
//!
//! `ca.crt` holds the authority of this certificate and the one before it, so that the API server trusts a replica that still
//! serves the old one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a certificate holds.
const LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// When it is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(240 * DAY.as_secs());
/// Clocks that go behind ours take it all the same.
const EARLIER: Duration = Duration::from_secs(3600);

const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const RENEW: &str = "renew-after";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate and what belongs to it, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Authorities to trust, this one's first.
    pub authorities: String,
    pub certificate: String,
    pub key: String,
    /// When it is to be renewed, in RFC 3339.
    renew: Timestamp,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("renew", &self.renew)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// A new one for these names; the authority of an earlier one stays trusted.
    ///
    /// # Errors
    /// A key cannot be made, or a name is none.
    pub fn make(
        names: &[String],
        now: Timestamp,
        before: Option<&Self>,
    ) -> Result<Self, rcgen::Error> {
        let since_epoch = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let epoch = date_time_ymd(1970, 1, 1);
        let limit = |params: &mut CertificateParams| {
            params.not_before = epoch + since_epoch.saturating_sub(EARLIER);
            params.not_after = epoch + (since_epoch + LIFETIME);
        };
        let called = |name: &str| {
            let mut full = DistinguishedName::new();
            full.push(DnType::CommonName, name);
            full
        };
        let mut authority = CertificateParams::new(Vec::new())?;
        limit(&mut authority);
        // Told apart from the one before: a verifier that looks for an issuer by name finds one.
        authority.distinguished_name = called(&format!("tombolo webhook {}", now.as_second()));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();

        let mut params = CertificateParams::new(names)?;
        limit(&mut params);
        params.distinguished_name = called("tombolo webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &Issuer::new(authority, authority_key))?;
        let earlier = before.and_then(|before| first(&before.authorities));
        Ok(Self {
            authorities: authority_pem + earlier.unwrap_or_default(),
            certificate: signed.pem(),
            key: key.serialize_pem(),
            renew: now + RENEW_AFTER,
        })
    }

    /// What the Secret holds; `None` where it holds none that can be used.
    pub fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            authorities: text(CA)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            renew: text(RENEW)?.parse().ok()?,
        })
    }

    /// Puts it into the Secret.
    pub fn write(&self, secret: &mut Secret) {
        let renew = self.renew.to_string();
        let data = [
            (CA, &self.authorities),
            (CERTIFICATE, &self.certificate),
            (KEY, &self.key),
            (RENEW, &renew),
        ];
        let bytes = |text: &String| ByteString(text.clone().into_bytes());
        let data: BTreeMap<_, _> = data
            .into_iter()
            .map(|(key, text)| (key.to_owned(), bytes(text)))
            .collect();
        secret.data = Some(data);
    }

    /// Whether it is time for the next one.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew
    }
}

/// The first certificate of several.
fn first(pem: &str) -> Option<&str> {
    let end = pem.find(END)? + END.len();
    pem.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_one_trusts_the_one_before_and_no_older() {
        let names = ["a.b.svc".to_owned()];
        let at = |days: i64| Timestamp::from_second(1_000_000_000 + days * 86_400).unwrap();
        let one = Certificate::make(&names, at(0), None).unwrap();
        assert_eq!(one.authorities.matches(END).count(), 1);
        assert!(!one.is_due(at(239)) && one.is_due(at(240)));
        let two = Certificate::make(&names, at(240), Some(&one)).unwrap();
        let three = Certificate::make(&names, at(480), Some(&two)).unwrap();
        assert_ne!(two.key, three.key);
        assert_eq!(three.authorities.matches(END).count(), 2);
        assert!(three.authorities.contains(first(&two.authorities).unwrap()));
        assert!(!three.authorities.contains(first(&one.authorities).unwrap()));
    }

    #[test]
    fn a_secret_gives_back_what_was_put_in() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let made = Certificate::make(&["a".to_owned()], now, None).unwrap();
        let mut secret = Secret::default();
        assert_eq!(Certificate::read(&secret), None);
        made.write(&mut secret);
        assert_eq!(Certificate::read(&secret), Some(made.clone()));
        assert!(!format!("{made:?}").contains("PRIVATE"), "{made:?}");
        for key in [CA, CERTIFICATE, KEY, RENEW] {
            let mut broken = secret.clone();
            broken.data.as_mut().unwrap().remove(key);
            assert_eq!(Certificate::read(&broken), None, "{key}");
        }
    }
}
