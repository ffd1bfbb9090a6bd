//! `snomesh config`: what is configured, and where.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::json;

use super::Global;
use super::failure::{Exit, Failure};
use super::screen::{Color, Format, Screen, Table, remark};
use super::up::{Files, load, sources};
use crate::compat::server_tls;
use crate::node::Client;
use crate::node::api::Reload;
use crate::node::settings::{Settings, default_file, show};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Say whether the configuration is valid; if not, where and why
    Check {
        #[command(flatten)]
        files: Files,
        /// End with 8 if there is something to be warned of
        #[arg(long)]
        strict: bool,
    },
    /// Print what holds, as a file that says the same
    Show {
        #[command(flatten)]
        files: Files,
        /// As a table: each setting, its value, and whether it comes from a flag, the environment, a file or a default
        #[arg(long)]
        effective: bool,
    },
    /// Print the JSON schema of the file, for editors
    Schema,
    /// Print which files are read, in their order
    Path {
        #[command(flatten)]
        files: Files,
    },
    /// Make the running node read its configuration again, as SIGHUP does
    Reload,
}

/// The commands that need no node; `None` for the one that does.
pub(super) fn run(global: &Global, config: &Config, screen: &mut Screen) -> Option<Result<Exit, Failure>> {
    match config {
        Config::Check { files, strict } => Some(check(global, files, *strict, screen)),
        Config::Show { files, effective } => Some(print(global, files, *effective, screen)),
        Config::Schema => Some(screen.json(&show::schema()).map(|()| Exit::Success).map_err(Into::into)),
        Config::Path { files } => Some(path(global, files, screen)),
        Config::Reload => None,
    }
}

fn check(global: &Global, files: &Files, strict: bool, screen: &mut Screen) -> Result<Exit, Failure> {
    let settings = load(&sources(global, files), global.color)?;
    if let Some(compat) = &settings.compat {
        server_tls(&compat.certificate, &compat.key)?;
    }
    let warnings = warnings(&settings);
    for warning in &warnings {
        remark(global.color, warning);
    }
    let read = match settings.files.len() {
        0 => "no file is read".to_owned(),
        1 => settings.files[0].display().to_string(),
        files => format!("{files} files"),
    };
    let document = json!({ "valid": true, "files": settings.files, "warnings": warnings });
    screen.outcome(format!("the configuration is valid ({read})"), &document)?;
    Ok(if strict && !warnings.is_empty() { Exit::Degraded } else { Exit::Success })
}

/// What is valid and probably not meant so.
fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if settings.listen.ip().is_unspecified() && settings.advertise.is_empty() {
        warnings.push(
            "nobody can dial this node: quic.listen is every address, and quic.advertise is empty".into(),
        );
    }
    if settings.listen.ip().is_loopback() && settings.seeds.iter().any(|seed| !is_local(seed.as_str())) {
        warnings.push("quic.listen is loopback, from where no other machine can be reached".into());
    }
    if settings.compat.as_ref().is_some_and(|compat| !compat.listen.ip().is_loopback()) {
        warnings.push("compat.listen is open: whoever reaches it is granted a public port".into());
    }
    if settings.drain_timeout.as_secs() > 60 {
        warnings.push("limits.drain_timeout is longer than service managers wait by default".into());
    }
    warnings
}

fn is_local(address: &str) -> bool {
    ["127.", "[::1]", "localhost:"].iter().any(|local| address.starts_with(local))
}

fn print(global: &Global, files: &Files, effective: bool, screen: &mut Screen) -> Result<Exit, Failure> {
    let settings = load(&sources(global, files), global.color)?;
    let rows = settings.rows();
    match screen.format() {
        Format::Json | Format::Jsonl => {
            let all = rows
                .iter()
                .map(|[key, value, origin]| json!({ "key": key, "value": plain(value), "origin": origin }));
            let all: Vec<_> = all.collect();
            match screen.format() {
                Format::Jsonl => all.iter().try_for_each(|setting| screen.json(setting))?,
                _ => screen.document(&json!({ "settings": all }))?,
            }
        }
        Format::Name => rows.iter().try_for_each(|[key, ..]| screen.line(key))?,
        Format::Table | Format::Wide if effective => {
            let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
            rows.into_iter().for_each(|row| table.row(row));
            screen.table(&table)?;
        }
        Format::Table | Format::Wide => screen.line(settings.to_toml().trim_end())?,
    }
    Ok(Exit::Success)
}

/// A value as programs read it, from how a file says it.
fn plain(written: &str) -> serde_json::Value {
    let read = toml::from_str::<BTreeMap<String, serde_json::Value>>(&format!("value = {written}"));
    let value = read.ok().and_then(|mut read| read.remove("value"));
    value.unwrap_or_else(|| written.into())
}

fn path(global: &Global, files: &Files, screen: &mut Screen) -> Result<Exit, Failure> {
    let read = sources(global, files).files();
    if read.is_empty() {
        let place = default_file().map_or_else(|| "nowhere".to_owned(), |path| path.display().to_string());
        remark(global.color, &format!("no file is read; the place for one is {place}"));
    }
    match screen.format() {
        Format::Json | Format::Jsonl => screen.document(&json!({ "files": read }))?,
        Format::Table | Format::Wide | Format::Name => {
            read.iter().try_for_each(|path| screen.line(path.display().to_string()))?;
        }
    }
    Ok(Exit::Success)
}

/// Asks the node to read its configuration again.
pub(super) async fn reload(client: &Client, screen: &mut Screen, color: Color) -> Result<Exit, Failure> {
    let reload: Reload = client.post_json("/v1/reload", &json!({})).await?;
    if !screen.format().is_for_people() {
        screen.json(&reload)?;
    }
    for applied in &reload.applied {
        screen.done(applied)?;
    }
    for key in &reload.needs_restart {
        remark(color, &format!("{key} was changed and holds only after a restart"));
    }
    if reload.applied.is_empty() && reload.needs_restart.is_empty() && reload.failed.is_empty() {
        screen.done("nothing has changed")?;
    }
    match reload.failed.first() {
        None => Ok(Exit::Success),
        Some(failed) => {
            Err(Failure::new(Exit::Conflict, failed.clone()).hint("the rest holds; see the node's log"))
        }
    }
}
