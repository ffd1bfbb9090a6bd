//! What was asked for and does not hold, for a reason that may pass: a port that another program has, say.

use std::fmt;

use super::saved::{SavedBind, SavedExposure};
use super::{ForwardError, Forwards, Keeper, State};
use crate::id::TunnelName;
use crate::service::Listen;

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) enum Wish {
    /// To offer a tunnel, by its name.
    Tunnel(String),
    /// To listen, and where.
    Bind(String),
}

impl Wish {
    pub(super) fn tunnel(name: &TunnelName) -> Self {
        Self::Tunnel(name.to_string())
    }

    pub(super) fn bind(listen: &Listen) -> Self {
        Self::Bind(listen.to_string())
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(name) => write!(f, "tunnel {name}"),
            Self::Bind(listen) => write!(f, "bind {listen}"),
        }
    }
}

/// Why it does not hold, and what was saved of it; what the configuration wants stands there.
#[derive(Debug)]
pub(super) struct Unmet {
    pub(super) why: String,
    pub(super) saved: Option<Saved>,
}

#[derive(Debug, Clone)]
pub(super) enum Saved {
    Exposure(SavedExposure),
    Bind(SavedBind),
}

impl Saved {
    fn wish(&self) -> Wish {
        match self {
            Self::Exposure(exposure) => Wish::Tunnel(exposure.name.clone()),
            Self::Bind(bind) => Wish::Bind(bind.listen.clone()),
        }
    }
}

impl State {
    /// Nobody asks for that any more, or it holds. Says whether it was asked for at the admin API and did not hold.
    pub(super) fn withdraw_wish(&mut self, wish: &Wish) -> bool {
        let was_saved = self.unmet.remove(wish).is_some_and(|unmet| unmet.saved.is_some());
        self.changes += u64::from(was_saved);
        was_saved
    }
}

impl Forwards {
    /// What does not hold, and why.
    pub(in crate::node) async fn unmet(&self) -> Vec<(Wish, String)> {
        let state = self.state.lock().await;
        state.unmet.iter().map(|(wish, unmet)| (wish.clone(), unmet.why.clone())).collect()
    }

    /// Takes up what was saved. If it does not hold now, it stays saved.
    pub(super) async fn take_up(&self, state: &mut State, saved: Saved) -> Result<(), String> {
        let wish = saved.wish();
        let outcome = match &saved {
            Saved::Exposure(exposure) => match exposure.read() {
                Some((name, offer)) => self.offer(state, name, offer, Keeper::Forwards).await.map(drop),
                None => Err(ForwardError::Illegal),
            },
            Saved::Bind(bind) => match bind.read() {
                Some((listen, route)) => self.listen(state, listen, route, Keeper::Forwards).await.map(drop),
                None => Err(ForwardError::Illegal),
            },
        };
        match outcome {
            Ok(()) => state.unmet.remove(&wish),
            Err(error) => {
                let why = error.to_string();
                state.unmet.insert(wish, Unmet { why: why.clone(), saved: Some(saved) });
                return Err(why);
            }
        };
        Ok(())
    }
}
