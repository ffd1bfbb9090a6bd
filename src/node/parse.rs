//! Arguments that are more than a word.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::replica::{AttributeKey, NodeRecord};

/// A duration: `500ms`, `10s`, `2m`, or seconds without a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_no_number| "a duration is a number and ms, s, m or h".to_owned())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err("a duration ends in ms, s, m or h".to_owned()),
    };
    millis.filter(|millis| *millis > 0).map(Duration::from_millis).ok_or_else(|| "out of range".to_owned())
}

/// A duration, as [`duration`] reads it.
pub(super) fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// What is logged, as `tracing` writes it: a level, and `TARGET=LEVEL` for parts of the program. A target without a level, for
/// which all levels would hold, is more often a slip.
pub(super) fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let is_word = |part: &&str| !part.is_empty() && !part.contains(['=', '[']);
    let is_level = |part: &str| part.parse::<tracing::level_filters::LevelFilter>().is_ok();
    if let Some(part) = text.split(',').map(str::trim).filter(is_word).find(|part| !is_level(part)) {
        return Err(format!(
            "\"{}\" is no level (off, error, warn, info, debug or trace); for one part of the program: snomesh=debug",
            part.escape_debug()
        ));
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// An address to listen on: `IP:PORT`, or a port of 127.0.0.1.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse()
        .map_err(|_illegal| "an address to listen on is IP:PORT or PORT, an IPv6 in brackets".to_owned())
}

/// A local service: `HOST:PORT`, or a port of 127.0.0.1.
pub(super) fn target(text: &str) -> Result<crate::service::Target, String> {
    let text = if text.parse::<u16>().is_ok() { format!("127.0.0.1:{text}") } else { text.to_owned() };
    text.parse().map_err(|error: crate::service::ParseTargetError| error.to_string())
}

/// A health check, whose words are passed on.
pub(super) fn check(text: &str) -> Result<String, String> {
    super::health::HealthCheck::legal(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// An attribute: its full name, or a name in the scope of the mesh.
pub(super) fn key(text: &str) -> Result<AttributeKey, String> {
    full_name(text)
        .parse()
        .map_err(|error| super::cli::describe(&error as &crate::replica::AttributeKeyError))
}

/// What the full names of attributes begin with: any, a scope, or the beginning of names in the scope of the mesh.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let is_scope = SCOPES.iter().any(|scope| scope.trim_end_matches('/') == text);
    Ok(if text.is_empty() || is_scope { text.to_owned() } else { full_name(text) })
}

const SCOPES: [&str; 3] = ["mesh/", "node/", "tunnel/"];

fn full_name(text: &str) -> String {
    let scoped = SCOPES.iter().any(|scope| text.starts_with(scope));
    if scoped { text.to_owned() } else { format!("mesh/{text}") }
}

/// `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| "an attribute is written NAME=VALUE".to_owned())?;
    if name.is_empty() {
        return Err("an attribute has a name".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// What people call a node.
pub(super) fn label(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NodeRecord::MAX_TEXT_LEN || text.chars().any(char::is_control) {
        let max = NodeRecord::MAX_TEXT_LEN;
        return Err(format!("a node's name has 1 to {max} bytes and no control characters"));
    }
    Ok(text.to_owned())
}

/// Where a node's directory is if nobody says so; nothing if the environment does not tell.
pub(super) fn default_data_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/snomesh".into());
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).map(|state| state.join("snomesh"))
}

/// The name of the machine, for a node that was given none.
pub(super) fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    label(&name).unwrap_or_else(|_| "node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_one_of_the_mesh_and_so_is_its_beginning() {
        for (text, full) in [("color", "mesh/color"), ("a/b", "mesh/a/b"), ("tunnel/web/a", "tunnel/web/a")] {
            assert_eq!(key(text).unwrap().to_string(), full);
            assert_eq!(prefix(text).unwrap(), full);
        }
        for whole in ["", "mesh", "node", "tunnel/", "node/ab"] {
            assert_eq!(prefix(whole).unwrap(), whole);
        }
    }

    #[test]
    fn durations_have_units_and_are_never_zero() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        for text in ["1ms", "1500ms", "1s", "86400s"] {
            assert_eq!(shown(duration(text).unwrap()), text);
        }
        for bad in ["", "s", "0", "5d", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_port_is_one_of_loopback() {
        assert_eq!(listen("8080").unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(listen("[::1]:0").unwrap().to_string(), "[::1]:0");
        assert_eq!(target("8080").unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(target("db.local:5432").unwrap().to_string(), "db.local:5432");
        for bad in ["", "localhost:80", "70000", "1.2.3.4"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_name_is_an_attribute_of_the_mesh() {
        assert_eq!(key("color").unwrap().to_string(), "mesh/color");
        assert_eq!(key("limits/max").unwrap().to_string(), "mesh/limits/max");
        assert_eq!(key("mesh/color").unwrap().to_string(), "mesh/color");
        assert_eq!(key("tunnel/web/color").unwrap().to_string(), "tunnel/web/color");
        for bad in ["", "a b", "node/x/color", "tunnel/web", "../x"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
