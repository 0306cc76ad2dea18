//! `Node.spec.providerID`: which instance a node is.

use std::fmt;
use std::str::FromStr;

/// An instance, as a Node names it: `<cloud>:///<zone>/<instance>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderId {
    /// The cloud's word, for example `sim`.
    pub cloud: String,
    /// Zone, for example `z1`.
    pub zone: String,
    /// The cloud's name of the instance.
    pub instance: String,
}

/// Most bytes of a provider id: those of the clouds have fewer than 100.
const MAX_LEN: usize = 512;

/// The text is not a provider id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.providerID {value:?} {problem}; `<cloud>:///<zone>/<instance>` is wanted")]
pub struct InvalidProviderId {
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FromStr for ProviderId {
    type Err = InvalidProviderId;

    fn from_str(text: &str) -> Result<Self, InvalidProviderId> {
        let invalid = |problem| InvalidProviderId {
            value: text.to_owned(),
            problem,
        };
        if text.len() > MAX_LEN {
            return Err(InvalidProviderId {
                value: text.chars().take(40).collect(),
                problem: "goes on: it may have 512 bytes",
            });
        }
        let (cloud, path) = text
            .split_once(":///")
            .ok_or_else(|| invalid("has no ':///'"))?;
        let (zone, instance) = path
            .split_once('/')
            .ok_or_else(|| invalid("has no '/' between zone and instance"))?;
        if instance.contains('/') {
            return Err(invalid("has more than two parts after ':///'"));
        }
        for (part, problem) in [
            (cloud, "has no cloud"),
            (zone, "has no zone"),
            (instance, "has no instance"),
        ] {
            if part.is_empty() {
                return Err(invalid(problem));
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if ![cloud, zone, instance]
            .into_iter()
            .all(|part| part.chars().all(plain))
        {
            return Err(invalid(
                "has a character other than letters, digits, '-', '_' and '.'",
            ));
        }
        Ok(Self {
            cloud: cloud.to_owned(),
            zone: zone.to_owned(),
            instance: instance.to_owned(),
        })
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:///{}/{}", self.cloud, self.zone, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let id: ProviderId = "sim:///z1/i-0a1b".parse().unwrap();
        assert_eq!(
            (id.cloud.as_str(), id.zone.as_str(), id.instance.as_str()),
            ("sim", "z1", "i-0a1b")
        );
        assert_eq!(id.to_string(), "sim:///z1/i-0a1b");
    }

    #[test]
    fn fuzz() {
        tombolo_fuzz::Target::new("provider-id").check(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            match text.parse::<ProviderId>() {
                Ok(id) => assert_eq!(id.to_string(), text),
                Err(error) => assert!(error.value.len() <= MAX_LEN * 4, "{error}"),
            }
        });
    }

    #[test]
    fn a_long_one_is_refused_and_not_repeated() {
        let long = format!("sim:///z1/{}", "i".repeat(MAX_LEN - 10));
        assert!(long.parse::<ProviderId>().is_ok());
        let error = format!("{long}i").parse::<ProviderId>().unwrap_err();
        assert!(error.to_string().contains("may have 512 bytes") && error.value.len() == 40);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, problem) in [
            ("", "has no ':///'"),
            ("sim://z1/i-1", "has no ':///'"),
            ("sim:///z1", "has no '/' between zone and instance"),
            (":///z1/i-1", "has no cloud"),
            ("sim:////i-1", "has no zone"),
            ("sim:///z1/", "has no instance"),
            ("sim:///z1/i-1/x", "has more than two parts after ':///'"),
            (
                "sim:///z1/i 1",
                "has a character other than letters, digits, '-', '_' and '.'",
            ),
        ] {
            let error = text.parse::<ProviderId>().unwrap_err();
            assert_eq!(error.problem, problem, "{text:?}");
            assert_eq!(error.value, text);
        }
    }
}
