//! Logs: on standard error, for people on a terminal and as JSON elsewhere. Never secrets, never payloads.
//!
//! What one place in the code says more often than [`MAX_PER_SECOND`] times a second is left out, and how much that
//! was is said once: a storm must not fill a disk, nor hide what else happens.

use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::node::{LogControl, parse};

/// How often one place may speak.
const MAX_PER_SECOND: u32 = 10;

/// What `-v` and `-q` ask for; nothing if they were not given.
pub(super) fn asked_for(verbose: u8, quiet: bool) -> Option<&'static str> {
    match (verbose, quiet) {
        (_, true) => Some("error"),
        (0, false) => None,
        (1, false) => Some("warn,snomesh=debug"),
        (2.., false) => Some("debug,snomesh=trace"),
    }
}

/// Starts logging for a client or a demonstration: what is broken. `SNOMESH_LOG` has the last word.
pub(super) fn init(verbose: u8, quiet: bool) {
    init_at("error", verbose, quiet);
}

/// Starts logging for a server that is no node: what an operator cares about. `SNOMESH_LOG` has the last word.
pub(super) fn init_server(verbose: u8, quiet: bool) {
    init_at("warn,snomesh=info", verbose, quiet);
}

fn init_at(default: &str, verbose: u8, quiet: bool) {
    let spec = std::env::var("SNOMESH_LOG").ok().filter(|spec| parse::log_filter(spec).is_ok());
    start(&spec.unwrap_or_else(|| asked_for(verbose, quiet).unwrap_or(default).to_owned()), "auto");
}

/// Starts logging what a valid filter lets through, in one of the formats of the settings.
pub(super) fn start(spec: &str, format: &str) -> Arc<dyn LogControl> {
    let filter = parse::log_filter(spec).unwrap_or_else(|_| EnvFilter::new("warn,snomesh=info"));
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(filter);
    let pretty = format == "pretty" || format == "auto" && stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = if pretty {
        let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        layer.with_ansi(colours).with_target(false).compact().boxed()
    } else if format == "text" {
        layer.with_ansi(false).boxed()
    } else {
        layer.json().flatten_event(true).boxed()
    };
    // Another subscriber is there only in tests, which have their own wishes.
    let _already =
        tracing_subscriber::registry().with(filter).with(lines.with_filter(Rate::default())).try_init();
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        tracing::warn!("SSLKEYLOGFILE is ignored: keys of connections are never written down");
    }
    Arc::new(Control { spec: Mutex::new(spec.to_owned()), handle })
}

struct Control {
    spec: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogControl for Control {
    fn spec(&self) -> String {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, spec: &str) -> Result<(), String> {
        let filter = parse::log_filter(spec)?;
        self.handle.reload(filter).map_err(|error| error.to_string())?;
        spec.clone_into(&mut self.spec.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Lets each place in the code speak so often and no more.
#[derive(Debug, Default)]
struct Rate {
    places: Mutex<HashMap<Identifier, Spoken>>,
}

#[derive(Debug)]
struct Spoken {
    since: Instant,
    times: u32,
}

impl Rate {
    /// Whether the place may speak, and how often it was not let before, if that is to be said now.
    fn admit(&self, place: Identifier, now: Instant) -> (bool, u32) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let spoken = places.entry(place).or_insert(Spoken { since: now, times: 0 });
        let mut left_out = 0;
        if now.saturating_duration_since(spoken.since) >= Duration::from_secs(1) {
            left_out = spoken.times.saturating_sub(MAX_PER_SECOND);
            *spoken = Spoken { since: now, times: 0 };
        }
        spoken.times = spoken.times.saturating_add(1);
        (spoken.times <= MAX_PER_SECOND, left_out)
    }
}

impl<S: Subscriber> Filter<S> for Rate {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let (admitted, left_out) = self.admit(metadata.callsite(), Instant::now());
        if left_out > 0 {
            let (file, line) = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
            tracing::warn!(left_out, "more of the same from {file}:{line} was left out");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HARDENING: ten lines a second from one place, and what was left out is said.
    #[test]
    fn a_storm_is_cut_and_counted() {
        let rate = Rate::default();
        let place = || {
            let site: &'static dyn tracing::Callsite = {
                static META: Metadata<'static> = tracing::metadata! {
                    name: "x", target: "x", level: tracing::Level::WARN,
                    fields: &[], callsite: &SITE, kind: tracing::metadata::Kind::EVENT,
                };
                struct Site;
                static SITE: Site = Site;
                impl tracing::Callsite for Site {
                    fn set_interest(&self, _: tracing::subscriber::Interest) {}
                    fn metadata(&self) -> &Metadata<'_> {
                        &META
                    }
                }
                &SITE
            };
            Identifier(site)
        };
        let begin = Instant::now();
        let admitted = (0..1_000).filter(|_| rate.admit(place(), begin).0).count();
        assert_eq!(admitted, MAX_PER_SECOND as usize);
        assert_eq!(rate.admit(place(), begin + Duration::from_secs(1)), (true, 990));
        assert_eq!(rate.admit(place(), begin + Duration::from_secs(2)), (true, 0));
    }
}
