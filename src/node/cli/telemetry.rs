//! Logs: on standard error, for people on a terminal and as JSON elsewhere. Never secrets, never payloads.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// How much is logged if nobody says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A node: what an operator cares about.
    Node,
    /// A client or a demonstration: what is broken.
    Client,
}

/// Starts logging. `SNOMESH_LOG` has the last word.
pub(super) fn init(level: Level, verbose: u8, quiet: bool) {
    let default = match (level, verbose, quiet) {
        (_, _, true) | (Level::Client, 0, false) => "error",
        (Level::Node, 0, false) => "warn,snomesh=info",
        (_, 1, false) => "warn,snomesh=debug",
        (_, 2.., false) => "debug,snomesh=trace",
    };
    let filter = std::env::var("SNOMESH_LOG").ok().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Another subscriber is there only in tests, which have their own wishes.
    let _already = if stderr().is_terminal() {
        let colours = std::env::var_os("NO_COLOR").is_none();
        logs.with_ansi(colours).with_target(false).compact().try_init()
    } else {
        logs.json().flatten_event(true).try_init()
    };
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        tracing::warn!("SSLKEYLOGFILE is ignored: keys of connections are never written down");
    }
}
