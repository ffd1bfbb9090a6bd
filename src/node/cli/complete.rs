//! Completions that know the names of nodes, tunnels, attributes and groups: the shell asks the program, which asks the node.
//!
//! Whatever goes wrong there is nothing to complete: a shell has no place for errors.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::{Cli, parse};
use crate::node::Client;
use crate::node::api::{Acl, AttributeList, NodeList, TunnelList};

/// How long a shell waits for the node: as long as people do for a key to do something.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How many attributes are looked at.
const MAX_KEYS: usize = 1_000;

/// The variable by which a shell says that it wants completions.
const ASKED: &str = "COMPLETE";

/// Answers a shell that asks for completions, and says whether one did.
pub(super) fn answer() -> bool {
    let current = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(Cli::command)
        .var(ASKED)
        .try_complete(std::env::args_os(), current.as_deref());
    asked.unwrap_or(false)
}

/// What a shell has to read at its start.
pub(super) fn registration(shell: &str, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(shell) else { return Ok(()) };
    completer.write_registration(ASKED, "snomesh", "snomesh", "snomesh", out)
}

pub(super) fn nodes() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, &node_names))
}

pub(super) fn tunnels() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| candidates(typed, &tunnel_names))
}

pub(super) fn nodes_and_tunnels() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, &async |client: &Client| {
            let mut names = node_names(client).await?;
            names.extend(tunnel_names(client).await?);
            Some(names)
        })
    })
}

pub(super) fn keys() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, &async |client: &Client| {
            let list: AttributeList = client.get(&format!("/v1/attributes?limit={MAX_KEYS}")).await.ok()?;
            // Those of the mesh are written without their scope.
            let key = |key: &String| key.strip_prefix("mesh/").unwrap_or(key).to_owned();
            Some(list.attributes.iter().map(|attribute| key(&attribute.key)).collect())
        })
    })
}

/// The groups of the policy.
pub(super) fn groups() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, &async |client: &Client| {
            let acl: Acl = client.get("/v1/acl").await.ok()?;
            Some(acl.policy.groups.into_keys().collect())
        })
    })
}

async fn node_names(client: &Client) -> Option<Vec<String>> {
    let list: NodeList = client.list("/v1/nodes").await.ok()?;
    Some(list.nodes.into_iter().map(|node| node.name).collect())
}

async fn tunnel_names(client: &Client) -> Option<Vec<String>> {
    let list: TunnelList = client.get("/v1/tunnels").await.ok()?;
    let mut names: Vec<_> = list.tunnels.into_iter().map(|tunnel| tunnel.name).collect();
    names.dedup();
    Some(names)
}

fn candidates(typed: &OsStr, ask: &impl AsyncFn(&Client) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let names = socket().and_then(|socket| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let client = Client::new(socket, TIMEOUT);
        runtime.block_on(ask(&client))
    });
    // Names come from others: what a shell could take for more than a word is left out.
    let is_word =
        |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._:/@-".contains(c));
    let names = names.unwrap_or_default().into_iter().filter(is_word);
    names.filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

/// The node that the words on the line are for, as far as they say; else the environment, else the default.
fn socket() -> Option<std::path::PathBuf> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).cloned()
    };
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let in_directory = |directory: OsString| std::path::PathBuf::from(directory).join("admin.sock");
    option("--agent")
        .map(Into::into)
        .or_else(|| option("--data-dir").map(in_directory))
        .or_else(|| variable("SNOMESH_AGENT").map(Into::into))
        .or_else(|| variable("SNOMESH_DATA_DIR").map(in_directory))
        .or_else(|| parse::default_data_dir().map(|directory| directory.join("admin.sock")))
}
