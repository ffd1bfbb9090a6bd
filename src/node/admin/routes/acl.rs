//! Who may expose and connect what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::get;

use super::trust::find;
use super::tunnel::tunnel_name;
use super::{Answer, Body, json};
use crate::auth::{Act, Judgement, Pattern, Policy, PolicyError, Rule, SignedPolicy, Who};
use crate::id::NodeId;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, Acl, AclAct, AclDefault, AclPolicy, AclRule, AclVerdict, Problem, SetAcl,
};

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new().route("/v1/acl", get(show).put(set)).route("/v1/acl/check", get(check))
}

async fn show(State(agent): State<Arc<Agent>>) -> Json<Acl> {
    Json(holding(agent.mesh.access().policy().as_ref()))
}

async fn set(State(agent): State<Arc<Agent>>, body: Body) -> Answer<Acl> {
    let SetAcl { policy, expected, dry_run } = json(body)?;
    let policy = read(&agent, &policy).await?;
    policy.check().map_err(|error| illegal(&error))?;
    if dry_run {
        let holds = holding(agent.mesh.access().policy().as_ref());
        return Ok(Json(Acl { policy: told(&policy), ..holds }));
    }
    let signed = agent.keys.set_policy(&agent.mesh, policy, expected).await?;
    Ok(Json(holding(Some(&signed))))
}

async fn check(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<AclVerdict> {
    let asked =
        |name: &str| query.get(name).ok_or_else(|| Problem::invalid(format!("the query has no `{name}`")));
    let may = match asked("may")?.as_str() {
        "expose" => AclAct::Expose,
        "connect" => AclAct::Connect,
        _ => return Err(Problem::invalid("may is expose or connect")),
    };
    let name = tunnel_name(asked("what")?)?;
    let (node, _) = find(&agent, asked("node")?).await?;
    let signed = agent.mesh.access().policy();
    let (permitted, reason) = match signed.as_ref().map(|signed| signed.policy.judge(node, may.into(), &name))
    {
        None => (true, "no policy was ever set: everybody may".to_owned()),
        Some(Judgement::Given(index)) => (true, format!("rule {} gives it", index + 1)),
        Some(Judgement::Open) => (true, "no rule speaks of it, and the default is allow".to_owned()),
        Some(Judgement::Withheld) => (false, "rules speak of it, and none of them names the node".to_owned()),
        Some(Judgement::Closed) => (false, "no rule speaks of it, and the default is deny".to_owned()),
    };
    let (api_version, node, what) = (API_VERSION.into(), node.to_string(), name.to_string());
    Ok(Json(AclVerdict { api_version, node, may, what, permitted, reason }))
}

impl From<AclAct> for Act {
    fn from(act: AclAct) -> Self {
        match act {
            AclAct::Expose => Self::Expose,
            AclAct::Connect => Self::Connect,
        }
    }
}

impl From<Act> for AclAct {
    fn from(act: Act) -> Self {
        match act {
            Act::Expose => Self::Expose,
            Act::Connect => Self::Connect,
        }
    }
}

fn illegal(error: &PolicyError) -> Problem {
    Problem::invalid(error.to_string())
}

fn holding(signed: Option<&SignedPolicy>) -> Acl {
    let open = Policy { open: true, ..Policy::default() };
    Acl {
        api_version: API_VERSION.into(),
        serial: signed.map_or(0, |signed| signed.serial),
        signed_at: signed.map(|signed| signed.at.0),
        policy: told(signed.map_or(&open, |signed| &signed.policy)),
    }
}

fn told(policy: &Policy) -> AclPolicy {
    let texts = |nodes: &BTreeSet<NodeId>| nodes.iter().map(ToString::to_string).collect();
    AclPolicy {
        default: if policy.open { AclDefault::Allow } else { AclDefault::Deny },
        groups: policy.groups.iter().map(|(name, nodes)| (name.to_string(), texts(nodes))).collect(),
        rules: policy
            .rules
            .iter()
            .map(|rule| AclRule {
                who: rule.who.iter().map(ToString::to_string).collect(),
                may: rule.may.iter().map(|act| (*act).into()).collect(),
                what: rule.what.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

/// What a policy means; names of nodes are exchanged for their ids here, where whoever sets it can be asked.
async fn read(agent: &Agent, policy: &AclPolicy) -> Result<Policy, Problem> {
    let mut read = Policy { open: policy.default == AclDefault::Allow, ..Policy::default() };
    for (group, nodes) in &policy.groups {
        let group = group.parse().map_err(|error| illegal(&error))?;
        let mut ids = BTreeSet::new();
        for node in nodes {
            ids.insert(find(agent, node).await?.0);
        }
        read.groups.insert(group, ids);
    }
    for rule in &policy.rules {
        let mut who = Vec::new();
        for text in &rule.who {
            who.push(match text.as_str() {
                group if group == "*" || group.starts_with('@') => {
                    group.parse().map_err(|error| illegal(&error))?
                }
                node => Who::Node(find(agent, node).await?.0),
            });
        }
        let what: Result<Vec<Pattern>, _> = rule.what.iter().map(|text| text.parse()).collect();
        let may = rule.may.iter().map(|act| (*act).into()).collect();
        read.rules.push(Rule { who, may, what: what.map_err(|error| illegal(&error))? });
    }
    Ok(read)
}
