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

/// Why it does not hold, and what was saved of it; what only the configuration wants stands there.
#[derive(Debug)]
pub(super) struct Unmet {
    why: String,
    pub(super) saved: Option<Kept>,
}

/// What was saved of one wish.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Exposure(SavedExposure),
    Bind(SavedBind),
}

impl Kept {
    pub(super) fn wish(&self) -> Wish {
        match self {
            Self::Exposure(exposure) => Wish::Tunnel(exposure.name.clone()),
            Self::Bind(bind) => Wish::Bind(bind.listen.clone()),
        }
    }
}

impl State {
    /// It holds, whoever asked for it.
    pub(super) fn fulfil_wish(&mut self, wish: &Wish) {
        let met = self.unmet.remove(wish);
        self.changes += u64::from(met.is_some_and(|unmet| unmet.saved.is_some()));
    }

    /// Nobody asks for that at the admin API any more. Says whether somebody did and it did not hold.
    pub(super) fn withdraw_wish(&mut self, wish: &Wish) -> bool {
        let was_saved = self.unmet.get(wish).is_some_and(|unmet| unmet.saved.is_some());
        if was_saved {
            self.fulfil_wish(wish);
        }
        was_saved
    }

    /// What was saved and does not hold.
    pub(super) fn saved_and_unmet(&self) -> impl Iterator<Item = &Kept> {
        self.unmet.values().filter_map(|unmet| unmet.saved.as_ref())
    }

    /// What was saved waits to be [taken up](Forwards::take_up).
    pub(super) fn await_taking_up(&mut self, saved: Kept) {
        let why = "it was not tried yet".to_owned();
        self.unmet.insert(saved.wish(), Unmet { why, saved: Some(saved) });
    }

    /// Remembers of a wish whether it holds, and why not. What was saved of one that does not stays saved.
    pub(super) fn keep_in_mind<T>(
        &mut self,
        wish: Wish,
        outcome: Result<T, ForwardError>,
    ) -> Result<(), String> {
        match outcome {
            Ok(_) => {
                self.fulfil_wish(&wish);
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                let unmet = self.unmet.entry(wish).or_insert(Unmet { why: String::new(), saved: None });
                unmet.why.clone_from(&why);
                Err(why)
            }
        }
    }
}

impl Forwards {
    /// What does not hold, and why.
    pub(in crate::node) async fn unmet(&self) -> Vec<(Wish, String)> {
        let state = self.state.lock().await;
        state.unmet.iter().map(|(wish, unmet)| (wish.clone(), unmet.why.clone())).collect()
    }

    /// Tries to make hold what was saved and does not. If it cannot hold now, it stays saved.
    pub(super) async fn take_up(&self, state: &mut State, saved: &Kept) -> Result<(), String> {
        let outcome = match saved {
            Kept::Exposure(exposure) => match exposure.read() {
                Some((name, offer)) => self.offer(state, name, offer, Keeper::Forwards).await.map(drop),
                None => Err(ForwardError::Illegal),
            },
            Kept::Bind(bind) => match bind.read() {
                Some((listen, route)) => self.listen(state, listen, route, Keeper::Forwards).await.map(drop),
                None => Err(ForwardError::Illegal),
            },
        };
        state.keep_in_mind(saved.wish(), outcome)
    }
}
