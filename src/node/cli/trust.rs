//! `invite`, `join`, `revoke`, `cert`: who belongs to the mesh.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure};
use super::forward::pairs;
use super::look::age;
use super::screen::{Format, Screen, escape};
use super::{Global, parse, up};
use crate::auth::{JoinAnswer, JoinRefusal, JoinRequest, Token, guest_tls};
use crate::node::api::{Invite as InviteBody, Invited, Reloaded, Revoke as RevokeBody, Revoked};
use crate::node::{Client, DataDir};
use crate::replica::Address;
use crate::tunnel::quic::{AskError, ask_as_guest};

#[derive(Debug, Args)]
pub(super) struct Invite {
    /// How long it holds: 10m, 1h, 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse::duration)]
    ttl: Duration,
    /// How many machines may join with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// Put whoever joins into a group of the policy, as often as you like: it gets the rights of @GROUP. The group is
    /// there already, and may be empty
    #[arg(long, value_name = "GROUP", add = super::complete::groups())]
    role: Vec<String>,
    /// Let whoever joins expose tunnels of this name, or beginning so ('cam-*'), as often as you like. The policy says
    /// so to all nodes: from then on nobody may whom no rule names
    #[arg(long, value_name = "NAME")]
    may_expose: Vec<String>,
    /// Something to say of whoever joins, as often as you like: the attribute node/ID/NAME
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
    attr: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// What `snomesh invite` gave; - reads it from standard input, so that it shows in no list of processes
    token: String,
    /// Run the node as soon as it belongs to the mesh
    #[arg(long)]
    up: bool,
    #[command(flatten)]
    node: up::Up,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The node: its id, the beginning of its id, or its name
    node: String,
    /// Why, for people
    #[arg(long, default_value = "")]
    reason: String,
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask: it cannot be taken back. Needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Cert {
    /// Read the certificates again, or make a new one; tunnels that stand are not touched
    Reload,
}

pub(super) async fn invite(client: &Client, screen: &mut Screen, invite: &Invite) -> Result<(), Failure> {
    let ttl_ms = u64::try_from(invite.ttl.as_millis()).unwrap_or(u64::MAX);
    let body = InviteBody {
        ttl_ms,
        uses: invite.uses,
        roles: invite.role.iter().cloned().collect(),
        may_expose: invite.may_expose.iter().cloned().collect(),
        attributes: pairs(&invite.attr)?,
    };
    let invited: Invited = client.post_json("/v1/invites", &body).await?;
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&invited)?,
        Format::Name => screen.line(invited.token)?,
        Format::Table | Format::Wide => {
            screen.line(&invited.token)?;
            let machines = match invited.uses {
                1 => "one machine. On it:".to_owned(),
                uses => format!("{uses} machines. On each of them:"),
            };
            screen.next(format!("Holds for {}, for {machines}", age(invite.ttl)))?;
            screen.next("  snomesh join TOKEN && snomesh up")?;
        }
    }
    Ok(())
}

pub(super) async fn revoke(client: &Client, screen: &mut Screen, revoke: Revoke) -> Result<(), Failure> {
    let Revoke { node, reason, dry_run, yes } = revoke;
    if !dry_run && !yes {
        confirm(client, &node).await?;
    }
    let revoked: Revoked = client.post_json("/v1/revocations", &RevokeBody { node, reason, dry_run }).await?;
    match screen.format() {
        Format::Json | Format::Jsonl => screen.json(&revoked)?,
        Format::Name => screen.line(revoked.node)?,
        Format::Table | Format::Wide => {
            let who = format!("{} {}", revoked.node, revoked.name);
            let what = match (dry_run, revoked.changed) {
                (true, _) => format!("would revoke {}", who.trim_end()),
                (false, true) => {
                    format!("revoked {}: all nodes cut it off and let it in no more", who.trim_end())
                }
                (false, false) => format!("{} was revoked already", who.trim_end()),
            };
            screen.done(what)?;
        }
    }
    Ok(())
}

/// Asks whoever sits there. Where nobody does, that is an error.
async fn confirm(client: &Client, node: &str) -> Result<(), Failure> {
    let body = RevokeBody { node: node.to_owned(), reason: String::new(), dry_run: true };
    let would: Revoked = client.post_json("/v1/revocations", &body).await?;
    let who = format!("{} {}", would.node, would.name);
    let what = "a revocation cannot be taken back, and there is nobody to ask";
    consent(what, &format!("Cut {} off, on all nodes and for ever?", who.trim_end()))
}

/// Asks whoever sits there; where nobody does, `what` is wrong.
pub(super) fn consent(what: &str, question: &str) -> Result<(), Failure> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Failure::usage(what).hint("say --yes, or look first with --dry-run"));
    }
    eprint(&format!("{} [y/N] ", escape(question)))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if is_yes(&answer) {
        return Ok(());
    }
    Err(Failure::new(Exit::Unexpected, "nothing was done"))
}

/// Whether somebody agrees. Whoever just presses return, or ends the input, does not.
fn is_yes(answer: &str) -> bool {
    matches!(answer.trim(), "y" | "Y" | "yes")
}

/// A question, which is no answer: on standard error.
fn eprint(text: &str) -> std::io::Result<()> {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(text.as_bytes())?;
    stderr.flush()
}

pub(super) async fn cert(client: &Client, screen: &mut Screen, cert: Cert) -> Result<(), Failure> {
    match cert {
        Cert::Reload => {
            let reloaded: Reloaded = client.post_json("/v1/certificates/reload", &()).await?;
            if matches!(screen.format(), Format::Json | Format::Jsonl) {
                return Ok(screen.json(&reloaded)?);
            }
            Ok(screen.done("certificates reloaded")?)
        }
    }
}

/// Makes a node of this machine's directory.
pub(super) fn join(global: &Global, join: &Join, screen: &mut Screen) -> Result<Exit, Failure> {
    if !join.up && join.node.speaks_of_running(global) {
        return Err(Failure::usage("nothing is run, and how to run is not remembered")
            .hint("say --up too, or say it to `snomesh up`, or write it into the configuration"));
    }
    // What is wrong with the configuration is said before the invitation is used.
    let (_, settings) = join.node.settings(global)?;
    up::harden();
    let token = read(&join.token)?;
    let data_dir = DataDir::open(&std::path::absolute(&settings.data_dir)?)?;
    let known = data_dir.known_mesh()?;
    if known.is_some_and(|mesh| Token::fingerprint(mesh) != token.mesh) {
        let what = format!("{} belongs to another mesh already", data_dir.path().display());
        return Err(
            Failure::new(Exit::Conflict, what).hint("give this node a directory of its own: --data-dir DIR")
        );
    }
    let identity = data_dir.identity()?;
    let request = JoinRequest::new(token.secret, &identity)
        .map_err(|error| Failure::new(Exit::Unexpected, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ask(&token, &request.encode()))?;
    drop(runtime);
    match JoinAnswer::decode(&answer) {
        Ok(JoinAnswer::Granted { certificate, authority, addresses }) => {
            let addresses = if addresses.is_empty() { token.addresses } else { addresses };
            data_dir.enrol(&identity, &certificate, &authority, &addresses)?;
        }
        Ok(JoinAnswer::Refused(why)) if known.is_some() && why != JoinRefusal::Revoked => {
            let hint = format!("this directory belongs to the mesh already: {} up", screen.snomesh());
            return Err(refused(why).hint(hint));
        }
        Ok(JoinAnswer::Refused(why)) => return Err(refused(why)),
        Err(error) => {
            return Err(Failure::new(Exit::Unexpected, format!("the answer makes no sense: {error}")));
        }
    }
    let node = identity.node_id();
    match screen.format() {
        Format::Name => screen.line(node.to_string())?,
        _ => screen.outcome(
            format!("{} belongs to the mesh", node.short()),
            &serde_json::json!({ "node": node.to_string() }),
        )?,
    }
    drop(data_dir);
    if join.up {
        return up::run(global, &join.node, screen);
    }
    if screen.format().is_for_people() {
        screen.next(format!("Run it:  {} up", screen.snomesh()))?;
    }
    Ok(Exit::Success)
}

fn read(text: &str) -> Result<Token, Failure> {
    let mut typed = text.to_owned();
    if text == "-" {
        typed.clear();
        std::io::stdin().take(4_096).read_to_string(&mut typed)?;
    }
    typed.parse().map_err(|error: crate::auth::TokenError| {
        Failure::usage(error.to_string()).hint("copy the whole line that `snomesh invite` printed")
    })
}

/// Asks at each address until somebody answers.
async fn ask(token: &Token, request: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut last = Failure::new(Exit::Unexpected, "the invitation names no address");
    for address in &token.addresses {
        match ask_at(token, address, request).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn ask_at(token: &Token, address: &Address, request: &[u8]) -> Result<Vec<u8>, Failure> {
    let resolved = tokio::net::lookup_host(address.as_str()).await;
    let resolved: Vec<SocketAddr> = resolved
        .map_err(|error| Failure::new(Exit::TimedOut, format!("{address} cannot be resolved: {error}")))?
        .collect();
    let mut last = Failure::new(Exit::TimedOut, format!("{address} has no address"));
    for candidate in resolved {
        let tls = guest_tls(token).map_err(|error| Failure::new(Exit::Unexpected, error.to_string()))?;
        match ask_as_guest(candidate, tls, request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = unanswered(&error),
        }
    }
    Err(last)
}

fn unanswered(error: &AskError) -> Failure {
    match error {
        AskError::TimedOut { .. } => Failure::new(Exit::TimedOut, error.to_string())
            .hint("is the node that made the invitation up, and can UDP reach it?"),
        AskError::Refused { .. } => Failure::new(Exit::Unauthorised, error.to_string())
            .hint("the invitation is of another mesh, or something sits between this machine and the node"),
        _ => Failure::new(Exit::Unexpected, error.to_string()),
    }
}

fn refused(why: JoinRefusal) -> Failure {
    let failure = Failure::new(Exit::Unauthorised, why.to_string());
    match why {
        JoinRefusal::Secret => failure.hint("ask for a new one: snomesh invite"),
        JoinRefusal::Revoked => failure.hint("remove identity.key to become another node"),
        _ => Failure::new(Exit::Unexpected, why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(["y\n", "Y\n", "yes\n", " yes \r\n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n\n", "no\n", "yesterday\n", "y y\n", "o\n"].into_iter().any(is_yes));
    }
}
