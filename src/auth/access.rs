//! The policy that holds at this moment, for everybody who has to ask it.

use tokio::sync::watch;

use super::{Act, SignedPolicy};
use crate::id::{NodeId, TunnelName};

/// Who may do what, now. Clones are the same. Where the authority has said nothing, everybody may do everything.
#[derive(Debug, Clone)]
pub struct Access {
    current: watch::Sender<Option<SignedPolicy>>,
}

impl Default for Access {
    fn default() -> Self {
        Self { current: watch::Sender::new(None) }
    }
}

impl Access {
    /// Lets a policy hold, if none holds that is later. Says whether that changed anything. That it is the
    /// authority's is for the caller to know.
    pub fn adopt(&self, policy: &SignedPolicy) -> bool {
        self.current.send_if_modified(|current| {
            let later = current.as_ref().is_none_or(|current| current.cmp_rank(policy).is_lt());
            if later {
                *current = Some(policy.clone());
            }
            later
        })
    }

    /// The policy that holds.
    pub fn policy(&self) -> Option<SignedPolicy> {
        self.current.borrow().clone()
    }

    /// Whether a node may do something with tunnels of a name.
    pub fn permits(&self, node: NodeId, act: Act, name: &TunnelName) -> bool {
        self.current.borrow().as_ref().is_none_or(|signed| signed.policy.permits(node, act, name))
    }

    /// Waits until something is not permitted any more.
    pub async fn until_refused(&self, still: impl Fn(&Self) -> bool) {
        let mut changes = self.current.subscribe();
        while still(self) {
            // The sender is ours: it does not end before us.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Policy;
    use crate::auth::policy::tests::rule;
    use crate::auth::test_mesh::TestMesh;
    use crate::time::UnixMillis;

    #[tokio::test]
    async fn a_later_policy_replaces_an_earlier_one_and_never_the_other_way_round() {
        let (mesh, access) = (TestMesh::new(), Access::default());
        let node = NodeId::from_bytes([1; 32]);
        let (web, db): (TunnelName, TunnelName) = ("web".parse().unwrap(), "db".parse().unwrap());
        let connects = move |access: &Access, name: &TunnelName| access.permits(node, Act::Connect, name);
        assert!(connects(&access, &web), "nothing is said, everything is permitted");
        let sign = |serial, what: &str| {
            let policy = Policy { rules: vec![rule("*", &[Act::Connect], what)], ..Policy::default() };
            SignedPolicy::sign(&mesh.ca, serial, UnixMillis(1), policy).unwrap()
        };
        assert!(access.adopt(&sign(2, "web")));
        assert!(connects(&access, &web) && !connects(&access, &db));
        assert!(!access.adopt(&sign(1, "db")) && !access.adopt(&sign(2, "web")));
        let (waiting, allowed) = (access.clone(), web.clone());
        let cut = tokio::spawn(async move { waiting.until_refused(|now| connects(now, &allowed)).await });
        tokio::task::yield_now().await;
        assert!(!cut.is_finished());
        assert!(access.adopt(&sign(3, "db")));
        cut.await.unwrap();
        assert!(!connects(&access, &web) && connects(&access, &db));
    }
}
