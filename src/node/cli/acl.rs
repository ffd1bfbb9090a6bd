//! `snomesh acl`: who may expose and connect what.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Read;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::failure::{Exit, Failure};
use super::screen::{Format, Screen};
use crate::auth::GroupName;
use crate::id::TunnelName;
use crate::node::Client;
use crate::node::api::{
    Acl as Document, AclAct, AclDefault, AclPolicy, AclRule, AclVerdict, NodeList, SetAcl,
};
use crate::node::nearest::nearest;

/// The longest file that is read, in bytes: far more than a policy may have.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Acl {
    /// Print the policy that holds, as a file that says the same
    Show,
    /// Make a policy hold on all nodes; needs the key of the mesh's authority
    #[command(after_help = "\
A policy:
  default = \"deny\"                    # or \"allow\": for names that no rule speaks of

  [groups]
  edge = [\"edge-1\", \"edge-2\"]         # names of nodes, or their ids: the ids are what is signed

  [[rule]]
  who = \"@edge\"                       # a group, a node, or \"*\"; or a list of them
  may = \"expose\"                      # expose, connect, or both as a list
  what = [\"cam-*\", \"door\"]            # names of tunnels, or their beginnings

Rules give rights and take none. What a rule speaks of is only for those whom rules name, also where the default is
allow. Streams that are not permitted any more are cut.")]
    Set {
        /// The file; - reads it from standard input
        file: PathBuf,
        /// Only say what would hold
        #[arg(long)]
        dry_run: bool,
        /// Only if the policy that holds has this number; 0 is the first one's
        #[arg(long, value_name = "NUMBER")]
        expected: Option<u64>,
    },
    /// Say whether a node may do something, and why; ends with 5 if not
    Check {
        /// The node: its name, its id, or the beginning of its id
        #[arg(add = super::complete::nodes())]
        node: String,
        /// What it wants to do
        #[arg(value_enum)]
        may: May,
        /// With tunnels of this name
        #[arg(add = super::complete::tunnels())]
        name: TunnelName,
    },
}

/// What a node may do with tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum May {
    /// Offer them
    Expose,
    /// Open streams to them
    Connect,
}

/// A policy as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: AclDefault,
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default, rename = "rule")]
    rules: Vec<FileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    who: Spanned<OneOrMore<String>>,
    may: OneOrMore<AclAct>,
    what: OneOrMore<String>,
}

/// One, or a list.
#[derive(Debug)]
struct OneOrMore<T>(Vec<T>);

/// By hand, for what is derived says of an illegal word only that it is none of both.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<Self::Value, E> {
                Ok(OneOrMore(vec![T::deserialize(one.into_deserializer())?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, several: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(several)).map(OneOrMore)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

pub(super) async fn run(client: &Client, screen: &mut Screen, acl: Acl) -> Result<Exit, Failure> {
    match acl {
        Acl::Show => show(client, screen).await?,
        Acl::Set { file, dry_run, expected } => set(client, screen, &file, dry_run, expected).await?,
        Acl::Check { node, may, name } => return check(client, screen, &node, may, &name).await,
    }
    Ok(Exit::Success)
}

async fn show(client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let document: Document = client.get("/v1/acl").await?;
    if !matches!(screen.format(), Format::Table | Format::Wide) {
        return Ok(screen.json(&document)?);
    }
    Ok(screen.line(written(client, &document).await?.trim_end())?)
}

async fn set(
    client: &Client,
    screen: &mut Screen,
    file: &Path,
    dry_run: bool,
    expected: Option<u64>,
) -> Result<(), Failure> {
    let policy = parse(file, &read(file)?)?;
    let body = SetAcl { policy, expected, dry_run };
    let document: Document = client.put_json("/v1/acl", &body).await?;
    if !matches!(screen.format(), Format::Table | Format::Wide) {
        return Ok(screen.json(&document)?);
    }
    if dry_run {
        let would = Document { serial: document.serial + 1, ..document };
        screen.next("This would hold:")?;
        return Ok(screen.line(written(client, &would).await?.trim_end())?);
    }
    screen.done(format!(
        "policy {} holds here, and on every node as soon as it hears of it",
        document.serial
    ))?;
    Ok(screen.next(format!("Look at it:  {} acl show", screen.snomesh()))?)
}

async fn check(
    client: &Client,
    screen: &mut Screen,
    node: &str,
    may: May,
    name: &TunnelName,
) -> Result<Exit, Failure> {
    let act = match may {
        May::Expose => "expose",
        May::Connect => "connect",
    };
    let node = super::attr::encode(node);
    let verdict: AclVerdict = client.get(&format!("/v1/acl/check?node={node}&may={act}&what={name}")).await?;
    if matches!(screen.format(), Format::Table | Format::Wide) {
        let word = if verdict.permitted { "may" } else { "may not" };
        screen.line(format!(
            "{} {word} {act} {name}: {}",
            super::look::short(&verdict.node),
            verdict.reason
        ))?;
    } else {
        screen.json(&verdict)?;
    }
    Ok(if verdict.permitted { Exit::Success } else { Exit::Unauthorised })
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(MAX_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    Ok(text)
}

fn parse(file: &Path, text: &str) -> Result<AclPolicy, Failure> {
    let wrong = |at: Option<Range<usize>>, what: &str| {
        let before = at.and_then(|at| text.get(..at.start)).unwrap_or_default();
        let (line, begins) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1));
        let place = format!("{}:{line}:{}", file.display(), before[begins..].chars().count() + 1);
        Failure::usage(format!("{place}: {what}")).hint("see snomesh acl set --help")
    };
    let read: File = toml::from_str(text).map_err(|error| wrong(error.span(), error.message().trim()))?;
    for FileRule { who, .. } in &read.rules {
        let mut groups = who.get_ref().0.iter().filter_map(|who| who.strip_prefix('@'));
        let is_absent =
            |group: &&str| group.parse::<GroupName>().is_ok() && !read.groups.contains_key(*group);
        if let Some(group) = groups.find(is_absent) {
            let failure = wrong(Some(who.span()), &format!("there is no group \"{group}\""));
            let near = nearest(group, read.groups.keys().map(String::as_str));
            let hint = near.map_or_else(
                || format!("add it below [groups], it may be empty: {group} = []"),
                |near| format!("did you mean \"@{near}\"?"),
            );
            return Err(failure.hint(hint));
        }
    }
    let rules = read.rules.into_iter().map(|rule| AclRule {
        who: rule.who.into_inner().0,
        may: rule.may.0,
        what: rule.what.0,
    });
    Ok(AclPolicy { default: read.default, groups: read.groups, rules: rules.collect() })
}

/// The policy as a file, with what people call the nodes beside their ids.
async fn written(client: &Client, document: &Document) -> Result<String, Failure> {
    let nodes: NodeList = client.list("/v1/nodes").await?;
    let names: BTreeMap<String, String> =
        nodes.nodes.into_iter().map(|node| (node.node, super::screen::escape(&node.name))).collect();
    let AclPolicy { default, groups, rules } = &document.policy;
    let mut text = match document.serial {
        0 => "# nobody has set a policy: every node may do everything\n".to_owned(),
        serial => format!("# policy {serial}\n"),
    };
    let word = if *default == AclDefault::Allow { "allow" } else { "deny" };
    writeln!(text, "default = \"{word}\"").expect("a text takes every text");
    if !groups.is_empty() {
        text += "\n[groups]\n";
    }
    for (group, nodes) in groups {
        text += &format!("\"{group}\" = [\n");
        for node in nodes {
            let name = names.get(node).map(|name| format!("  # {name}")).unwrap_or_default();
            text += &format!("    \"{node}\",{name}\n");
        }
        text += "]\n";
    }
    let list = |texts: &[String]| {
        let quoted: Vec<_> = texts.iter().map(|text| format!("\"{text}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    for AclRule { who, may, what } in rules {
        let named: Vec<_> = who.iter().filter_map(|who| names.get(who)).map(String::as_str).collect();
        let named = if named.is_empty() { String::new() } else { format!("  # {}", named.join(", ")) };
        let may: Vec<_> = may
            .iter()
            .map(|act| match act {
                AclAct::Expose => "expose".to_owned(),
                AclAct::Connect => "connect".to_owned(),
            })
            .collect();
        text +=
            &format!("\n[[rule]]\nwho = {}{named}\nmay = {}\nwhat = {}\n", list(who), list(&may), list(what));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_policy_is_told_with_its_place() {
        let told = |text: &str| parse(Path::new("acl.toml"), text).unwrap_err().what;
        assert!(
            told("default = \"maybe\"").starts_with("acl.toml:1:11: unknown variant"),
            "{}",
            told("default = \"maybe\"")
        );
        let text = "default = \"deny\"\n[[rule]]\nwho = \"*\"\nmay = \"expose\"\nwhom = \"x\"\n";
        assert!(told(text).starts_with("acl.toml:5:1: unknown field `whom`"), "{}", told(text));
        assert!(told("").contains("missing field `default`"), "{}", told(""));
        let rule = |who: &str, may: &str| {
            told(&format!("default = \"deny\"\n[[rule]]\nwho = {who}\nmay = {may}\nwhat = \"x\"\n"))
        };
        let may = "unknown variant `expse`, expected `expose` or `connect`";
        assert_eq!(rule("\"*\"", "\"expse\""), format!("acl.toml:4:7: {may}"));
        assert_eq!(rule("\"*\"", "[\"connect\", \"expse\"]"), format!("acl.toml:4:19: {may}"));
        assert_eq!(rule("\"@edge\"", "\"expose\""), "acl.toml:3:7: there is no group \"edge\"");
        assert!(rule("7", "\"expose\"").contains("a text, or a list of texts"));
        let one = "default = \"deny\"\n[[rule]]\nwho = \"*\"\nmay = \"expose\"\nwhat = [\"a\", \"b-*\"]\n";
        assert_eq!(parse(Path::new("-"), one).unwrap().rules[0].what, ["a", "b-*"]);
    }
}
