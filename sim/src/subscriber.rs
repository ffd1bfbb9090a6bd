//! Subscribers: each rebuilds what it is told into a view of its own, at its own pace.
//!
//! A subscriber knows how many events its node has published and how many the ring holds, so that it can tell
//! for itself how many it must have missed. After a `Lagged` it takes the replica as it is and goes on from the
//! ring's end, as an application would.

use std::collections::BTreeMap;
use std::time::Duration;

use snomesh::crdt::{Dot, Value};
use snomesh::event::{Cursor, Ring};
use snomesh::gossip::{Event, Mesh};
use snomesh::id::{TunnelId, TunnelName};
use snomesh::replica::{AttributeKey, ElementId, Registration};

use crate::random::{self, Generator};

/// What a subscriber believes that the mesh's state is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    /// The winning value of each attribute that is set.
    pub(crate) attributes: BTreeMap<AttributeKey, Value>,
    /// The registrations, each with the write that made it.
    pub(crate) registrations: BTreeMap<(TunnelName, TunnelId), Dot>,
    /// The counters, with their values.
    pub(crate) counters: BTreeMap<AttributeKey, i128>,
    /// The elements of sets.
    pub(crate) elements: BTreeMap<(AttributeKey, ElementId), Value>,
}

impl View {
    /// What the replica says.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let attributes = mesh.replica().attributes("").map(|found| (found.key, found.value)).collect();
        let registrations = mesh.replica().registrations();
        let registrations = registrations.map(|Registration { name, tunnel, dot, .. }| ((name, tunnel), dot));
        let counters = mesh.replica().counters("");
        let sets = mesh.replica().sets("").into_keys();
        let members = |set: AttributeKey| {
            let members = mesh.replica().members(&set).into_iter();
            members.map(move |element| ((set.clone(), ElementId::of(&element)), element))
        };
        let elements = sets.flat_map(members).collect();
        Self { attributes, registrations: registrations.collect(), counters, elements }
    }

    /// Follows one event.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Attribute { key, value: Some(value), .. } => {
                self.attributes.insert(key.clone(), value.clone());
            }
            Event::Attribute { key, value: None, .. } => {
                self.attributes.remove(key);
            }
            Event::Registered(Registration { name, tunnel, dot, .. }) => {
                self.registrations.insert((name.clone(), *tunnel), dot.clone());
            }
            Event::Deregistered { name, tunnel } => {
                self.registrations.remove(&(name.clone(), *tunnel));
            }
            Event::Counter { key, value } => match value {
                Some(value) => drop(self.counters.insert(key.clone(), *value)),
                None => drop(self.counters.remove(key)),
            },
            Event::Element { key, id, element } => match element {
                Some(element) => drop(self.elements.insert((key.clone(), *id), element.clone())),
                None => drop(self.elements.remove(&(key.clone(), *id))),
            },
            _ => {}
        }
    }

    /// The first thing in which two views differ, for people.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<String> {
        let keys = self.attributes.keys().chain(other.attributes.keys());
        let mut keys = keys.filter(|key| self.attributes.get(*key) != other.attributes.get(*key));
        if let Some(key) = keys.next() {
            let text = |view: &Self| view.attributes.get(key).map_or_else(|| "nothing".to_owned(), printable);
            return Some(format!("{key} is {} here and {} there", text(self), text(other)));
        }
        if self.counters != other.counters {
            return Some(format!("counters are {:?} here and {:?} there", self.counters, other.counters));
        }
        let mut elements = self.elements.keys().chain(other.elements.keys());
        if let Some((set, element)) =
            elements.find(|element| self.elements.get(*element) != other.elements.get(*element))
        {
            return Some(format!("element {element:?} of {set} is in one and not in the other"));
        }
        let names = self.registrations.keys().chain(other.registrations.keys());
        let mut names = names.filter(|name| self.registrations.get(*name) != other.registrations.get(*name));
        let (name, tunnel) = names.next()?;
        let found = |view: &Self| view.registrations.get(&(name.clone(), *tunnel)).map(ToString::to_string);
        Some(format!("tunnel {name}/{tunnel} is {:?} here and {:?} there", found(self), found(other)))
    }
}

fn printable(value: &Value) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split('.').next().unwrap_or_default().escape_default().to_string()
}

/// One who follows a node's events.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) name: String,
    pace: Duration,
    /// So that its looks do not fall into step with anything.
    jitter: Generator,
    pub(crate) batch: u64,
    cursor: Cursor,
    /// How many events it has been given or told that it missed, since the ring began.
    expects: u64,
    view: View,
    lags: u64,
    /// Whether it has caught up since it lagged.
    caught_up: bool,
    /// Whether it does nothing until the next event is published.
    pub(crate) waits: bool,
}

/// What one look at the ring brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// How many events it was given.
    pub(crate) taken: u64,
    /// Whether it lagged.
    pub(crate) lagged: bool,
    /// Whether it had lagged before and caught up since.
    pub(crate) lagged_again: bool,
    /// What was not as it must be.
    pub(crate) broken: Option<String>,
}

impl Subscriber {
    /// Begins to follow a node that has just been started.
    pub(crate) fn new(
        name: String,
        pace: Duration,
        batch: u64,
        jitter: Generator,
        ring: &Ring<Event>,
        view: View,
    ) -> Self {
        let expects = ring.end().0;
        let cursor = ring.subscribe();
        Self { name, pace, batch, jitter, cursor, expects, view, lags: 0, caught_up: true, waits: false }
    }

    /// Forgets everything and begins anew, with the state as it is.
    pub(crate) fn restart(&mut self, ring: &Ring<Event>, view: View) {
        self.cursor = ring.subscribe();
        self.expects = ring.end().0;
        self.view = view;
        self.caught_up = true;
    }

    /// How long until its next look.
    pub(crate) fn pace(&mut self) -> Duration {
        self.pace + random::duration(&mut self.jitter, Duration::ZERO, self.pace / 4)
    }

    /// Whether it has taken all of so many events.
    pub(crate) fn is_up_to_date(&self, published: u64) -> bool {
        self.expects == published
    }

    /// What it believes.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Looks at the ring, which holds `capacity` events and was given `published`, and takes at most `limit`.
    pub(crate) fn look(
        &mut self,
        ring: &Ring<Event>,
        capacity: u64,
        published: u64,
        limit: u64,
        current: impl FnOnce() -> View,
    ) -> Look {
        let mut look = Look::default();
        let oldest = published.saturating_sub(capacity);
        while look.taken < limit {
            match ring.poll(&mut self.cursor) {
                Ok(Some((sequence, event))) => {
                    if sequence.0 != self.expects || self.expects < oldest {
                        look.broken = Some(format!(
                            "{} was given event {} and expected {}, the ring must begin at {oldest}",
                            self.name, sequence.0, self.expects
                        ));
                        return look;
                    }
                    self.view.apply(event);
                    self.expects += 1;
                    look.taken += 1;
                }
                Ok(None) => {
                    self.caught_up = true;
                    if self.expects != published {
                        look.broken = Some(format!(
                            "{} was told that event {} is the last, but {published} were published",
                            self.name, self.expects
                        ));
                    }
                    return look;
                }
                Err(lagged) => {
                    look.lagged = true;
                    look.lagged_again = self.lags > 0 && self.caught_up;
                    self.lags += 1;
                    self.caught_up = false;
                    if self.expects + lagged.missed != oldest {
                        look.broken = Some(format!(
                            "{} was told that it missed {} events after {}, but the ring begins at {oldest}",
                            self.name, lagged.missed, self.expects
                        ));
                    }
                    self.view = current();
                    self.cursor = ring.subscribe();
                    self.expects = published;
                    return look;
                }
            }
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn event(value: &str) -> Event {
        let value = Value::try_from(value.as_bytes()).unwrap();
        Event::Attribute { key: "mesh/x".parse().unwrap(), value: Some(value), siblings: 0, origin: None }
    }

    fn setting(published: u64) -> (Ring<Event>, Subscriber) {
        let mut ring = Ring::new(NonZeroUsize::new(4).unwrap());
        let jitter = random::Seed(1).generator("test", &[]);
        let subscriber =
            Subscriber::new("test".to_owned(), Duration::ZERO, 100, jitter, &ring, View::default());
        for number in 0..published {
            ring.publish(event(&number.to_string()));
        }
        (ring, subscriber)
    }

    #[test]
    fn a_subscriber_that_keeps_up_has_the_view() {
        let (ring, mut subscriber) = setting(4);
        let look = subscriber.look(&ring, 4, 4, 100, View::default);
        assert_eq!(look, Look { taken: 4, ..Look::default() });
        assert_eq!(subscriber.view().attributes.values().next().unwrap().as_bytes(), b"3");
    }

    #[test]
    fn a_lag_is_exact_or_reported() {
        let (ring, mut subscriber) = setting(7);
        let look = subscriber.look(&ring, 4, 7, 100, View::default);
        assert!(look.lagged && look.broken.is_none());
        let (ring, mut subscriber) = setting(7);
        let look = subscriber.look(&ring, 4, 8, 100, View::default);
        assert!(look.broken.unwrap().contains("missed 3 events after 0, but the ring begins at 4"));
    }

    #[test]
    fn an_event_too_few_is_reported() {
        let (ring, mut subscriber) = setting(3);
        let look = subscriber.look(&ring, 4, 4, 100, View::default);
        assert!(look.broken.unwrap().contains("3 is the last, but 4"));
    }
}
