//! `snomesh debug`, `snomesh ui` and `snomesh down`.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::failure::{Exit, Failure};
use super::parse;
use super::screen::{Format, Screen};
use crate::node::Client;
use crate::node::api::{LogLevel, LogState, Status, UiLink};
use crate::node::data_dir::is_locked;

#[derive(Debug, Subcommand)]
pub(super) enum Debug {
    /// Print or change what the node logs, while it runs
    LogLevel {
        /// A level, or TARGET=LEVEL with commas: info,snomesh::mesh=debug
        spec: Option<String>,
        /// Go back to what was logged before after that time
        #[arg(long = "for", value_name = "TIME", value_parser = parse::duration, requires = "spec")]
        lasting: Option<Duration>,
    },
}

pub(super) async fn run(client: &Client, screen: &mut Screen, debug: Debug) -> Result<(), Failure> {
    let Debug::LogLevel { spec, lasting } = debug;
    let changes = spec.is_some();
    let state: LogState = match spec {
        None => client.get("/v1/debug/log").await?,
        Some(spec) => {
            let body = LogLevel { spec, for_seconds: lasting.map(|lasting| lasting.as_secs().max(1)) };
            client.put_json("/v1/debug/log", &body).await?
        }
    };
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&state)?,
        Format::Table | Format::Wide if changes => screen.done(format!("the node logs {}", state.spec))?,
        Format::Table | Format::Wide | Format::Name => screen.line(&state.spec)?,
    }
    Ok(())
}

/// Prints a link to the dashboard.
pub(super) async fn ui(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let link: UiLink = client.post_json("/v1/ui/links", &json!({})).await?;
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&link)?,
        Format::Table | Format::Wide | Format::Name => screen.line(&link.url)?,
    }
    screen.next("Open it in a browser on this machine. It works once, within five minutes.")?;
    Ok(())
}

/// How long the node may take to drain and to leave its directory, once it answers no more.
const MAX_DRAIN: Duration = Duration::from_secs(60);

/// Ends the node, and waits until it has gone and another one may have its directory.
pub(super) async fn down(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let status: Status = client.get("/v1/status").await?;
    client.post_empty("/v1/shutdown").await?;
    let gone = async {
        while client.get_bytes("/healthz").await.is_ok() || is_locked(Path::new(&status.data_dir)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(MAX_DRAIN, gone).await.is_err() {
        let what = format!("the node ends and has not ended after {} s", MAX_DRAIN.as_secs());
        return Err(Failure::new(Exit::TimedOut, what).hint("its log says what it waits for"));
    }
    let document = json!({ "node": status.node, "name": status.name, "ended": true });
    Ok(screen.outcome("the node has said good-bye and ended", &document)?)
}
