//! The steps of the tour, in their order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::time::{sleep, timeout};

use super::{Member, StepError, hello};
use crate::crdt::Value;
use crate::gossip::{MemberState, Mesh};
use crate::id::NodeId;
use crate::mesh::Policy;
use crate::node::api::{Bind, Expose, Exposed, Write};
use crate::replica::{Attribute, AttributeKey};

/// How long a step may take: several times what the slowest one should.
const STEP_DEADLINE: Duration = Duration::from_secs(30);
/// How often a condition is looked at, and so what the measured times are good to.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// How often two writes are tried to be made at once.
const MAX_RACES: usize = 20;

const TUNNEL: &str = "hello";
const RACED: &str = "mesh/color";
const SPLIT: &str = "mesh/motto";

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Step {
    Start,
    Link,
    Expose,
    Fetch,
    Write,
    Race,
    Cut,
    Suspect,
    Heal,
    Agree,
}

impl Step {
    pub(in crate::node) const ALL: [Self; 10] = [
        Self::Start,
        Self::Link,
        Self::Expose,
        Self::Fetch,
        Self::Write,
        Self::Race,
        Self::Cut,
        Self::Suspect,
        Self::Heal,
        Self::Agree,
    ];
}

/// What a step showed.
#[derive(Debug, Default)]
pub(in crate::node) struct Shown {
    pub(in crate::node) title: String,
    pub(in crate::node) details: Vec<String>,
}

/// The mesh that is toured.
#[derive(Debug)]
pub(in crate::node) struct Tour {
    directory: PathBuf,
    nodes: usize,
    members: Vec<Member>,
    /// Where the service can be reached through the mesh.
    door: Option<SocketAddr>,
    /// What the present step waits for, to be said when it waits in vain.
    expected: String,
}

impl Tour {
    /// A tour with so many nodes, at least three, that live in `directory`.
    pub(in crate::node) fn new(directory: &Path, nodes: usize) -> Self {
        let directory = directory.to_owned();
        Self { directory, nodes, members: Vec::new(), door: None, expected: String::new() }
    }

    /// Takes one step, which must come after those before it.
    pub(in crate::node) async fn take(&mut self, step: Step) -> Result<Shown, StepError> {
        self.expected = "the step to begin".into();
        let stepping = async {
            match step {
                Step::Start => self.start().await,
                Step::Link => self.link().await,
                Step::Expose => self.expose().await,
                Step::Fetch => self.fetch().await,
                Step::Write => self.write().await,
                Step::Race => self.race().await,
                Step::Cut => self.cut().await,
                Step::Suspect => self.suspect().await,
                Step::Heal => self.heal().await,
                Step::Agree => self.agree().await,
            }
        };
        match timeout(STEP_DEADLINE, stepping).await {
            Ok(shown) => shown,
            Err(_elapsed) => {
                Err(StepError::TooLate { expected: self.expected.clone(), after: STEP_DEADLINE })
            }
        }
    }

    /// Where the service can be reached, once the tour has been there.
    pub(in crate::node) fn door(&self) -> Option<SocketAddr> {
        self.door
    }

    /// The admin sockets, with the names of their nodes.
    pub(in crate::node) fn sockets(&self) -> Vec<(&str, &Path)> {
        self.members.iter().map(|member| (member.name.as_str(), member.node.admin_path())).collect()
    }

    /// Stops all nodes.
    pub(in crate::node) async fn end(self) {
        let stopping: Vec<_> =
            self.members.into_iter().map(|member| tokio::spawn(member.node.shutdown())).collect();
        for stopped in stopping {
            if let Err(error) = stopped.await {
                tracing::error!(%error, "a node did not stop");
            }
        }
    }

    async fn start(&mut self) -> Result<Shown, StepError> {
        self.expected = "all nodes to start".into();
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().take(self.nodes) {
            let member = Member::start(&self.directory, name, self.members.first()).await?;
            self.members.push(member);
        }
        let ids = self.members.iter().map(|member| {
            format!("{}: node {}, udp/{}", member.name, member.id().short(), member.node.listen_addr())
        });
        Ok(shown(format!("{} nodes are up, each with a key of its own", self.nodes), ids))
    }

    async fn link(&mut self) -> Result<Shown, StepError> {
        self.expected = "every node to have a link to every other".into();
        self.all_linked().await?;
        Ok(shown("they found each other, by mutual TLS over QUIC", []))
    }

    async fn expose(&mut self) -> Result<Shown, StepError> {
        let last = self.last();
        let text = format!("hello from node {}\n", last.name);
        let target = hello::serve(text).await?.to_string();
        let expose = Expose {
            target: target.clone(),
            attributes: [("kind".into(), "demo".into())].into(),
            health: None,
            weight: 1,
        };
        let path = format!("/v1/tunnels/{TUNNEL}");
        let _exposed: Exposed = last.client.put_json(&path, &expose).await?;
        let title = format!("{} offers the service at {target} as \"{TUNNEL}\"", last.name);
        let holder = last.id();
        self.expected = format!("every node to find \"{TUNNEL}\"");
        let name = || TUNNEL.parse().expect("the name is legal");
        self.everywhere(move |mesh| {
            mesh.lookup(&name()).first().is_some_and(|found| found.holder.node == holder)
        })
        .await?;
        Ok(shown(title, ["every node can find it by that name".into()]))
    }

    async fn fetch(&mut self) -> Result<Shown, StepError> {
        let policy = Policy::default().to_string();
        let bind = Bind { listen: "127.0.0.1:0".into(), tunnel: TUNNEL.into(), policy };
        let bound: Bind = self.first().client.post_json("/v1/binds", &bind).await?;
        let door = bound.listen.parse().ok().ok_or_else(|| otherwise("an address", &bound.listen))?;
        self.door = Some(door);
        self.expected = format!("an answer at http://{door}/");
        let answer = hello::fetch(door).await?;
        let expected = format!("hello from node {}\n", self.last().name);
        if answer != expected {
            return Err(otherwise(&expected, &answer));
        }
        let title = format!("{} lets it in at http://{door}/", self.first().name);
        Ok(shown(title, [format!("answer: {}", answer.trim_end())]))
    }

    async fn write(&mut self) -> Result<Shown, StepError> {
        for member in &self.members {
            let path = format!("/v1/attributes/mesh/from-{}", member.name);
            let _write: Write =
                member.client.put(&path, format!("written at {}", member.name).into()).await?;
        }
        let names: Vec<String> = self.members.iter().map(|member| member.name.clone()).collect();
        self.expected = "every node to read what every node wrote".into();
        self.everywhere(move |mesh| {
            names.iter().all(|name| read(mesh, &format!("mesh/from-{name}")).is_some())
        })
        .await?;
        Ok(shown("each node wrote an attribute, every node reads all of them", []))
    }

    async fn race(&mut self) -> Result<Shown, StepError> {
        self.expected = "every node to agree on one of two values that were written at once".into();
        for attempt in 1..=MAX_RACES {
            let (first, second) = (&self.members[0], &self.members[1]);
            let red = first.node.mesh().set(key(RACED), value(&format!("red {attempt}")));
            let blue = second.node.mesh().set(key(RACED), value(&format!("blue {attempt}")));
            let (red, blue) = tokio::join!(red, blue);
            red?;
            blue?;
            let agreed = self.agreement().await?;
            let found = agreed_attribute(&self.members, RACED).await?;
            // A write that has seen the other one replaces it; only those that were made at once leave a sibling.
            let Some(sibling) = found.siblings.first() else { continue };
            let names = format!("{} and {}", self.members[0].name, self.members[1].name);
            let title = format!("{names} wrote {RACED} at the same moment");
            let details = [
                format!("every node reads \"{}\"", text(&found.value)),
                format!("the other one, \"{}\", is kept until somebody writes again", text(sibling)),
                format!("digest of the state, on every node: {agreed}"),
            ];
            return Ok(shown(title, details));
        }
        Err(otherwise("two writes at once", &format!("one after the other, {MAX_RACES} times")))
    }

    async fn cut(&mut self) -> Result<Shown, StepError> {
        let (first, last) = (self.first(), self.last());
        last.gate.shut();
        let near = format!("written while {} was away", last.name);
        let far = format!("written at {}, alone", last.name);
        first.node.mesh().set(key(SPLIT), value(&near)).await?;
        last.node.mesh().set(key(SPLIT), value(&far)).await?;
        let (others, alone) = (self.names(..self.nodes - 1), last.name.clone());
        self.expected = format!("{others} to read \"{near}\"");
        let (together, expected) = (&self.members[..self.nodes - 1], value(&near));
        everywhere(together, move |mesh| read(mesh, SPLIT).is_some_and(|found| found.value == expected))
            .await?;
        let found = self.last().node.mesh().view(|mesh| read(mesh, SPLIT)).await?;
        if found.as_ref().is_none_or(|found| found.value != value(&far)) {
            return Err(otherwise(&far, &format!("{:?}", found.map(|found| text(&found.value)))));
        }
        let digests = (self.first().digest().await?, self.last().digest().await?);
        if digests.0 == digests.1 {
            return Err(otherwise("two different states", &digests.0));
        }
        let details = [
            format!("{others}: {SPLIT} = \"{near}\""),
            format!("{alone}: {SPLIT} = \"{far}\""),
            format!("digests: {} and {}", &digests.0[..8], &digests.1[..8]),
        ];
        Ok(shown(format!("{alone} is cut off; both sides go on writing"), details))
    }

    async fn suspect(&mut self) -> Result<Shown, StepError> {
        let last = self.last();
        let (others, alone) = (self.names(..self.nodes - 1), last.name.clone());
        let missing = last.id();
        self.expected = format!("{others} to miss {alone}, and {alone} to miss them");
        everywhere(&self.members[..self.nodes - 1], move |mesh| {
            mesh.members().any(|member| member.node == missing && is_missed(member.state))
        })
        .await?;
        everywhere(&self.members[self.nodes - 1..], |mesh| {
            mesh.members().all(|member| is_missed(member.state))
        })
        .await?;
        let details = ["nobody decided anything: both sides still read and write".to_owned()];
        Ok(shown(format!("{others} miss {alone}, and {alone} misses them"), details))
    }

    async fn heal(&mut self) -> Result<Shown, StepError> {
        self.last().gate.open();
        self.expected = format!("{} to be linked with every other node again", self.last().name);
        self.all_linked().await?;
        Ok(shown(format!("{} is back on the network, and linked again", self.last().name), []))
    }

    async fn agree(&mut self) -> Result<Shown, StepError> {
        self.expected = "the digests of all nodes to be equal".into();
        let digest = self.agreement().await?;
        let found = agreed_attribute(&self.members, SPLIT).await?;
        let Some(sibling) = found.siblings.first() else {
            return Err(otherwise("the value that lost as a sibling", "none"));
        };
        let details = [
            format!("{SPLIT} = \"{}\" on every node", text(&found.value)),
            format!("not lost: \"{}\"", text(sibling)),
            format!("digest of the state, on every node: {digest}"),
        ];
        Ok(shown("all nodes hold the same state again, byte for byte", details))
    }

    fn first(&self) -> &Member {
        self.members.first().expect("a tour begins with starting nodes")
    }

    /// The one that holds the service and is cut off.
    fn last(&self) -> &Member {
        self.members.last().expect("a tour begins with starting nodes")
    }

    fn names(&self, range: std::ops::RangeTo<usize>) -> String {
        let names: Vec<&str> = self.members[range].iter().map(|member| member.name.as_str()).collect();
        match names.as_slice() {
            [names @ .., last] if !names.is_empty() => format!("{} and {last}", names.join(", ")),
            names => names.join(", "),
        }
    }

    /// Waits until every node has a link to every other and believes that it lives.
    async fn all_linked(&self) -> Result<(), StepError> {
        let all: BTreeSet<NodeId> = self.members.iter().map(Member::id).collect();
        self.everywhere(move |mesh| {
            let mut reached: BTreeSet<NodeId> = mesh.linked().collect();
            reached.insert(mesh.actor().node);
            let alive = mesh.members().filter(|member| member.state == MemberState::Alive).count();
            reached == all && alive + 1 == all.len()
        })
        .await
    }

    /// Waits until all nodes hold the same state, and says which.
    async fn agreement(&self) -> Result<String, StepError> {
        loop {
            let mut digests = BTreeSet::new();
            for member in &self.members {
                digests.insert(member.digest().await?);
            }
            if digests.len() == 1 {
                return Ok(digests.pop_first().unwrap_or_default());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    async fn everywhere(
        &self,
        holds: impl Fn(&Mesh) -> bool + Clone + Send + 'static,
    ) -> Result<(), StepError> {
        everywhere(&self.members, holds).await
    }
}

impl Member {
    async fn digest(&self) -> Result<String, StepError> {
        Ok(HEXLOWER.encode(&self.node.mesh().view(Mesh::digest).await?))
    }
}

/// Waits until something holds on each of some nodes.
async fn everywhere(
    members: &[Member],
    holds: impl Fn(&Mesh) -> bool + Clone + Send + 'static,
) -> Result<(), StepError> {
    for member in members {
        while !member.node.mesh().view(holds.clone()).await? {
            sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(())
}

/// An attribute as every node reads it.
async fn agreed_attribute(members: &[Member], name: &'static str) -> Result<Attribute, StepError> {
    let mut agreed: Option<Attribute> = None;
    for member in members {
        let found = member.node.mesh().view(|mesh| read(mesh, name)).await?;
        let found = found.ok_or_else(|| otherwise(name, "nothing"))?;
        let agreed = agreed.get_or_insert_with(|| found.clone());
        if *agreed != found {
            return Err(otherwise(&format!("{agreed:?}"), &format!("{found:?}")));
        }
    }
    agreed.ok_or_else(|| otherwise("a mesh", "no nodes"))
}

fn is_missed(state: MemberState) -> bool {
    matches!(state, MemberState::Suspect | MemberState::Down)
}

fn read(mesh: &Mesh, name: &str) -> Option<Attribute> {
    mesh.replica().attribute(&key(name))
}

fn key(text: &str) -> AttributeKey {
    text.parse().expect("the keys of the tour are legal")
}

fn value(text: &str) -> Value {
    text.as_bytes().try_into().expect("the values of the tour are short")
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn shown(title: impl Into<String>, details: impl IntoIterator<Item = String>) -> Shown {
    Shown { title: title.into(), details: details.into_iter().collect() }
}

fn otherwise(expected: &str, found: &str) -> StepError {
    StepError::Otherwise { expected: expected.trim_end().into(), found: found.trim_end().into() }
}
