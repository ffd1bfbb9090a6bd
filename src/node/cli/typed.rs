//! The commands of `snomesh attr` for counters and sets.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Subcommand;

use super::attr::{answer, encode, read_value};
use super::failure::Failure;
use super::look::shown;
use super::parse;
use super::screen::{Format, Screen, Table, excerpt};
use crate::crdt::Value;
use crate::node::Client;
use crate::node::api::{Bytes, Counter, CounterList, Increment, Members, SetChange, SetList, Write};
use crate::replica::AttributeKey;

#[derive(Debug, Subcommand)]
pub(super) enum Typed {
    /// Add to a counter, and print what it is then
    Incr {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key)]
        key: AttributeKey,
        /// How much; below zero it is taken away
        #[arg(default_value_t = 1, allow_hyphen_values = true)]
        by: i64,
    },
    /// Print a counter
    Count {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key)]
        key: AttributeKey,
    },
    /// List counters
    Counters {
        /// The beginning of their full names, like mesh/ or tunnel/web/
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Add an element to a set
    Add {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key)]
        key: AttributeKey,
        /// The element; - reads it from standard input
        #[arg(allow_hyphen_values = true)]
        element: OsString,
    },
    /// Remove an element from a set; one that is added elsewhere meanwhile stays
    Remove {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key)]
        key: AttributeKey,
        /// The element; - reads it from standard input
        #[arg(allow_hyphen_values = true)]
        element: OsString,
    },
    /// Print the elements of a set, a line each
    Members {
        /// NAME, mesh/NAME, node/NODE-ID/NAME or tunnel/TUNNEL-NAME/NAME
        #[arg(value_parser = parse::key)]
        key: AttributeKey,
    },
    /// List sets
    Sets {
        /// The beginning of their full names, like mesh/ or tunnel/web/
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
}

/// How much of an element a line shows.
const EXCERPT: usize = 200;

/// Does what one of the commands says.
pub(super) async fn run(client: &Client, screen: &mut Screen, typed: Typed) -> Result<(), Failure> {
    match typed {
        Typed::Incr { key, by } => {
            let counter = client.post_json(&format!("/v1/counters/{key}"), &Increment { by }).await?;
            show(screen, &counter)
        }
        Typed::Count { key } => show(screen, &client.get(&format!("/v1/counters/{key}")).await?),
        Typed::Counters { prefix } => {
            let list: CounterList = client.list(&format!("/v1/counters?prefix={}", encode(&prefix))).await?;
            let mut table = Table::new(&["KEY", "VALUE"]);
            for counter in &list.counters {
                table.row([counter.key.clone(), counter.value.clone()]);
            }
            Ok(screen.list(&list, &list.counters, |counter| &counter.key, &table)?)
        }
        Typed::Add { key, element } => {
            let write = change(client, &key, SetChange::Add(base64(element)?)).await?;
            screen.done(if write.changed {
                format!("added to {key}")
            } else {
                format!("{key} has it already")
            })?;
            answer(screen, &write)
        }
        Typed::Remove { key, element } => {
            let write = change(client, &key, SetChange::Remove(base64(element)?)).await?;
            if !write.changed {
                let what = format!("\"{key}\" has no such element");
                return Err(Failure::new(super::failure::Exit::NotFound, what)
                    .hint(format!("{} attr members {key}", screen.snomesh())));
            }
            screen.done(format!("removed from {key}"))?;
            answer(screen, &write)
        }
        Typed::Members { key } => {
            let mut members: Members = client.list(&format!("/v1/sets/{key}")).await?;
            members.members.sort_by_cached_key(Bytes::decode);
            print_members(screen, &members)
        }
        Typed::Sets { prefix } => {
            let list: SetList = client.list(&format!("/v1/sets?prefix={}", encode(&prefix))).await?;
            let mut table = Table::new(&["KEY", "ELEMENTS"]);
            for set in &list.sets {
                table.row([set.key.clone(), set.elements.to_string()]);
            }
            Ok(screen.list(&list, &list.sets, |set| &set.key, &table)?)
        }
    }
}

fn show(screen: &mut Screen, counter: &Counter) -> Result<(), Failure> {
    match screen.format() {
        Format::Json | Format::Jsonl => screen.document(counter)?,
        Format::Name | Format::Table | Format::Wide => screen.line(&counter.value)?,
    }
    Ok(())
}

fn print_members(screen: &mut Screen, members: &Members) -> Result<(), Failure> {
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(members)?,
        Format::Name | Format::Table | Format::Wide => {
            for member in &members.members {
                screen.line(excerpt(&shown(member), EXCERPT))?;
            }
        }
    }
    Ok(())
}

async fn change(client: &Client, key: &AttributeKey, change: SetChange) -> Result<Write, Failure> {
    Ok(client.post_json(&format!("/v1/sets/{key}"), &change).await?)
}

fn base64(element: OsString) -> Result<String, Failure> {
    let element = if element == "-" { read_value()? } else { element.into_vec() };
    let element = Value::try_from(&element[..]).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Bytes::from(&element).base64)
}
