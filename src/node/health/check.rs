//! What a check is, and how it is written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::node::{api, parse};
use crate::service::{Program, Target};

/// How a target is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) enum Probe {
    /// It takes a connection.
    Connect,
    /// It answers `GET` of that path with a status from 200 to 399.
    Http(String),
    /// A program, which says so with its exit code.
    Command(Program),
}

/// A check, and how often it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct HealthCheck {
    pub(super) probe: Probe,
    pub(super) interval: Duration,
    /// How long one attempt may take.
    pub(super) timeout: Duration,
    /// So many successes in a row make a failing target healthy.
    pub(super) rise: u32,
    /// So many failures in a row make a healthy one failing.
    pub(super) fall: u32,
}

const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_COUNT: u32 = 100;
/// The longest path that is asked for, in bytes.
const MAX_PATH: usize = 1_024;

/// What is wrong with a check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::node) enum HealthCheckError {
    /// It is of none of the kinds.
    #[error("a health check is tcp, http:/PATH, or 'cmd:/PATH/OF/PROGRAM ARGUMENT…'")]
    Kind,
    /// The path is none.
    #[error(
        "the path of a health check begins with / and has at most {MAX_PATH} visible characters of ASCII"
    )]
    Path,
    /// The target does not take connections.
    #[error("a health check of {target} is a program, cmd:…: it does not take connections")]
    Target {
        /// Which one.
        target: Target,
    },
    /// A duration is none, or not within its limits.
    #[error("the {what} of a health check is from {} to {}: {found}", parse::shown(*min), parse::shown(*max))]
    Time {
        /// Which one.
        what: &'static str,
        min: Duration,
        max: Duration,
        found: String,
    },
    /// A count is not within its limits.
    #[error("the {what} of a health check is from 1 to {MAX_COUNT}")]
    Count {
        /// Which one.
        what: &'static str,
    },
}

impl FromStr for Probe {
    type Err = HealthCheckError;

    fn from_str(text: &str) -> Result<Self, HealthCheckError> {
        if let Some(path) = text.strip_prefix("http:") {
            let legal = path.starts_with('/') && path.len() <= MAX_PATH;
            if !legal || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(HealthCheckError::Path);
            }
            return Ok(Self::Http(path.to_owned()));
        }
        if let Some(program) = text.strip_prefix("cmd:") {
            return program.parse().map(Self::Command).map_err(|_illegal| HealthCheckError::Kind);
        }
        if text == "tcp" { Ok(Self::Connect) } else { Err(HealthCheckError::Kind) }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
            Self::Command(program) => write!(f, "cmd:{program}"),
        }
    }
}

impl HealthCheck {
    /// Whether that is how a target can be asked.
    pub(in crate::node) fn legal(probe: &str) -> Result<(), HealthCheckError> {
        probe.parse::<Probe>().map(drop)
    }

    /// The check that the API's words describe, of that target.
    pub(in crate::node) fn new(words: &api::HealthCheck, target: &Target) -> Result<Self, HealthCheckError> {
        let probe: Probe = words.check.parse()?;
        let takes_connections = matches!(target, Target::Tcp(_) | Target::Unix(_));
        if !takes_connections && !matches!(probe, Probe::Command(_)) {
            return Err(HealthCheckError::Target { target: target.clone() });
        }
        let time = |what, text: &Option<String>, default: Duration, min, max| {
            let Some(text) = text else { return Ok(default) };
            let wrong = |found| HealthCheckError::Time { what, min, max, found };
            let time = parse::duration(text).map_err(wrong)?;
            if (min..=max).contains(&time) { Ok(time) } else { Err(wrong(parse::shown(time))) }
        };
        let count = |what, count: Option<u32>, default| match count.unwrap_or(default) {
            count @ 1..=MAX_COUNT => Ok(count),
            _ => Err(HealthCheckError::Count { what }),
        };
        let interval = time("interval", &words.interval, Duration::from_secs(5), MIN_INTERVAL, MAX_INTERVAL)?;
        let timeout = Duration::from_secs(2);
        Ok(Self {
            probe,
            interval,
            timeout: time("timeout", &words.timeout, timeout, Duration::from_millis(10), MAX_TIMEOUT)?,
            rise: count("rise", words.rise, 2)?,
            fall: count("fall", words.fall, 3)?,
        })
    }

    /// In the API's words.
    pub(in crate::node) fn words(&self) -> api::HealthCheck {
        api::HealthCheck {
            check: self.probe.to_string(),
            interval: Some(parse::shown(self.interval)),
            timeout: Some(parse::shown(self.timeout)),
            rise: Some(self.rise),
            fall: Some(self.fall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(check: &str) -> api::HealthCheck {
        api::HealthCheck { check: check.into(), interval: None, timeout: None, rise: None, fall: None }
    }

    fn check(words: &api::HealthCheck, target: &str) -> Result<HealthCheck, HealthCheckError> {
        HealthCheck::new(words, &target.parse().unwrap())
    }

    #[test]
    fn a_check_survives_its_words() {
        for (text, target) in [
            ("tcp", "localhost:80"),
            ("http:/healthz?deep=1", "unix:/run/x.sock"),
            ("cmd:/usr/bin/test -e /run/x", "udp:localhost:53"),
        ] {
            let read = check(&words(text), target).unwrap();
            assert_eq!(read.probe.to_string(), text);
            assert_eq!((read.interval.as_secs(), read.timeout.as_secs(), read.rise, read.fall), (5, 2, 2, 3));
            assert_eq!(check(&read.words(), target), Ok(read));
        }
    }

    #[test]
    fn what_is_no_check_is_refused_with_what_is_wrong() {
        for text in ["", "http", "https:/x", "cmd:true", "TCP", "tcp:80"] {
            assert_eq!(check(&words(text), "localhost:80"), Err(HealthCheckError::Kind), "{text}");
        }
        for text in ["http:", "http:x", "http:/a b", "http:/\r\nx:", &format!("http:/{}", "x".repeat(1_024))]
        {
            assert_eq!(check(&words(text), "localhost:80"), Err(HealthCheckError::Path), "{text}");
        }
        for target in ["udp:localhost:53", "stdio:/bin/cat"] {
            assert!(matches!(check(&words("tcp"), target), Err(HealthCheckError::Target { .. })));
        }
        let time = |interval: &str, timeout: &str| {
            let (interval, timeout) = (Some(interval.into()), Some(timeout.into()));
            check(&api::HealthCheck { interval, timeout, ..words("tcp") }, "localhost:80")
        };
        assert!(time("100ms", "10ms").is_ok() && time("24h", "1m").is_ok());
        for (interval, timeout) in [("99ms", "1s"), ("25h", "1s"), ("1s", "9ms"), ("1s", "2m"), ("1d", "1s")]
        {
            assert!(matches!(time(interval, timeout), Err(HealthCheckError::Time { .. })), "{interval}");
        }
        let count = |rise, fall| {
            check(&api::HealthCheck { rise: Some(rise), fall: Some(fall), ..words("tcp") }, "localhost:80")
        };
        assert!(count(1, 100).is_ok());
        assert_eq!(count(0, 1), Err(HealthCheckError::Count { what: "rise" }));
        assert_eq!(count(1, 101), Err(HealthCheckError::Count { what: "fall" }));
    }
}
