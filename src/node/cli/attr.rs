//! `snomesh attr`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use super::failure::{Exit, Failure};
use super::look::{age, follow, short, shown};
use super::parse;
use super::screen::{Format, Screen, Table, excerpt};
use super::stream;
use super::typed::{self, Typed};
use crate::crdt::Value;
use crate::node::api::{Attribute, AttributeList, Bytes, Code, Counter, Event, Members, Write};
use crate::node::{Client, ClientError};
use crate::replica::AttributeKey;

#[derive(Debug, Subcommand)]
pub(super) enum Attr {
    /// Print the bytes of a value
    Get {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key, add = super::complete::keys())]
        key: AttributeKey,
        /// Print the values that lost against it too, a line each
        #[arg(long)]
        siblings: bool,
    },
    /// Set a value, up to 64 KiB of anything
    Set {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key, add = super::complete::keys())]
        key: AttributeKey,
        /// The value; - reads it from standard input
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Remove a value
    Rm {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key, add = super::complete::keys())]
        key: AttributeKey,
    },
    /// List values
    Ls {
        /// The beginning of their names: NAME, mesh/NAME, or like node/ or tunnel/web/
        #[arg(default_value = "", hide_default_value = true, value_parser = parse::prefix)]
        prefix: String,
        /// Print the list again whenever it changes
        #[arg(long)]
        watch: bool,
    },
    #[command(flatten)]
    Typed(Typed),
    /// Print values, then every change
    Watch {
        /// The beginning of their names: NAME, mesh/NAME, or like node/ or tunnel/web/
        #[arg(default_value = "", hide_default_value = true, value_parser = parse::prefix)]
        prefix: String,
    },
}

/// How much of a value a table shows.
const EXCERPT: usize = 32;

/// Does what one of the commands says.
pub(super) async fn run(client: &Client, screen: &mut Screen, attr: Attr) -> Result<Exit, Failure> {
    match attr {
        Attr::Get { key, siblings } => get(client, screen, &key, siblings).await?,
        Attr::Set { key, value } => set(client, screen, &key, value).await?,
        Attr::Rm { key } => rm(client, screen, &key).await?,
        Attr::Ls { prefix, watch: false } => print(screen, &list(client, &prefix).await?)?,
        Attr::Ls { prefix, watch: true } => {
            let is_news =
                |event: &Event| matches!(event, Event::Attribute { key, .. } if key.starts_with(&prefix));
            let list = async || list(client, &prefix).await;
            return follow((client, screen), is_news, list, Clone::clone, print).await;
        }
        Attr::Typed(typed) => typed::run(client, screen, typed).await?,
        Attr::Watch { prefix } => return stream::watch(client, screen, &prefix).await,
    }
    Ok(Exit::Success)
}

async fn get(
    client: &Client,
    screen: &mut Screen,
    key: &AttributeKey,
    siblings: bool,
) -> Result<(), Failure> {
    let attribute: Attribute = match client.get(&format!("/v1/attributes/{key}?format=json")).await {
        Ok(attribute) => attribute,
        Err(ClientError::Refused(problem)) if problem.code == Code::NotFound => {
            return Err(match other_kind(client, key).await? {
                Some((kind, command)) => Failure::new(Exit::NotFound, format!("\"{key}\" is a {kind}"))
                    .hint(format!("{} attr {command} {key}", screen.snomesh())),
                None => ClientError::Refused(problem).into(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        return Ok(screen.document(&attribute)?);
    }
    screen.raw(&decode(&attribute.value)?)?;
    if siblings {
        for sibling in &attribute.siblings {
            screen.raw(b"\n")?;
            screen.raw(&decode(sibling)?)?;
        }
    }
    // The end of a line for people; programs that want the very bytes have `-o name` or a pipe.
    if screen.format().is_for_people() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        screen.raw(b"\n")?;
    }
    Ok(())
}

/// What else goes by that name, and the command that reads it.
async fn other_kind(
    client: &Client,
    key: &AttributeKey,
) -> Result<Option<(&'static str, &'static str)>, ClientError> {
    match client.get::<Counter>(&format!("/v1/counters/{key}")).await {
        Ok(_) => return Ok(Some(("counter", "count"))),
        Err(ClientError::Refused(problem)) if problem.code == Code::NotFound => {}
        Err(error) => return Err(error),
    }
    let set: Members = client.get(&format!("/v1/sets/{key}")).await?;
    Ok((!set.members.is_empty()).then_some(("set", "members")))
}

async fn set(
    client: &Client,
    screen: &mut Screen,
    key: &AttributeKey,
    value: OsString,
) -> Result<(), Failure> {
    let value = if value == "-" { read_value()? } else { value.into_vec() };
    let value = Value::try_from(&value[..]).map_err(|error| {
        Failure::usage(error.to_string()).hint("keep large things elsewhere and their address here")
    })?;
    let body = value.as_bytes().to_vec().into();
    let write: Write = client.put(&format!("/v1/attributes/{key}"), body).await?;
    if write.changed {
        screen.done(format!("{key} set"))?;
        screen.next(format!("See it change on any node:  snomesh attr watch {key}"))?;
    } else {
        screen.done(format!("{key} has that value already"))?;
    }
    answer(screen, &write)
}

async fn rm(client: &Client, screen: &mut Screen, key: &AttributeKey) -> Result<(), Failure> {
    let body = client.delete(&format!("/v1/attributes/{key}")).await?;
    let write: Write = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(Exit::Unexpected, format!("the node's answer makes no sense: {error}"))
    })?;
    if !write.changed {
        let hint = format!("{} attr ls", screen.snomesh());
        return Err(Failure::new(Exit::NotFound, format!("attribute \"{key}\" is not set")).hint(hint));
    }
    screen.done(format!("{key} removed"))?;
    answer(screen, &write)
}

async fn list(client: &Client, prefix: &str) -> Result<AttributeList, Failure> {
    Ok(client.list(&format!("/v1/attributes?prefix={}", encode(prefix))).await?)
}

fn print(screen: &mut Screen, list: &AttributeList) -> Result<(), Failure> {
    let mut table = Table::new(&["KEY", "VALUE", "SIBLINGS", "WRITTEN", "BY"]);
    for attribute in &list.attributes {
        let siblings = match attribute.siblings.len() {
            0 => "-".to_owned(),
            siblings => siblings.to_string(),
        };
        let value = excerpt(&shown(&attribute.value), EXCERPT);
        let written = format!("{} ago", age(since(attribute.written_at)));
        table.row([attribute.key.clone(), value, siblings, written, short(&attribute.author)]);
    }
    Ok(screen.list(list, &list.attributes, |attribute| &attribute.key, &table)?)
}

/// Percent-encodes what is not a key's character, for a query.
pub(super) fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'/' | b'@' | b'-' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

pub(super) fn answer(screen: &mut Screen, write: &Write) -> Result<(), Failure> {
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        screen.json(write)?;
    }
    Ok(())
}

pub(super) fn read_value() -> Result<Vec<u8>, Failure> {
    let (mut value, limit) = (Vec::new(), Value::MAX_LEN as u64 + 1);
    let read = std::io::stdin().lock().take(limit).read_to_end(&mut value);
    read.map_err(|error| Failure::new(Exit::Unexpected, format!("cannot read the value: {error}")))?;
    if value.len() > Value::MAX_LEN {
        let what = format!("the value has more than {} bytes, which is the limit", Value::MAX_LEN);
        return Err(Failure::usage(what).hint("keep large things elsewhere and their address here"));
    }
    Ok(value)
}

fn decode(bytes: &Bytes) -> Result<Vec<u8>, Failure> {
    bytes.decode().ok_or_else(|| Failure::new(Exit::Unexpected, "the node's answer is not base64"))
}

fn since(millis: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(millis))
}
