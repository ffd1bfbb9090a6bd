//! Server-sent events: what happens, and parts of the state as they are and as they change.
//!
//! Every event bears an id, `GENERATION-NUMBER`: the life of the node, and the number of the event that comes next.
//! A client that lost its connection sends the last one as `Last-Event-ID` (or `?from=`) and goes on where it was,
//! as long as the node holds what it missed; else it is told by `lagged`, and a watch sends its snapshot again.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::daemon::{RecvError, Subscription};
use crate::event::Sequence;
use crate::gossip;
use crate::id::Generation;
use crate::mesh::{MeshHandle, Stopped};
use crate::node::api::Event;
use crate::node::metrics::{Consumer, Metrics};

/// Events on their way to one client. When they are full the client is slow, and its subscription lags.
const QUEUE: usize = 64;
/// How often a silent stream shows that it lives, and finds out whether its reader does.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a client's stream comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) mesh: MeshHandle,
    pub(super) metrics: Arc<Metrics>,
    /// The life that the numbers of events belong to.
    pub(super) generation: Generation,
}

/// The id of the last event that a client has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastSeen {
    generation: Generation,
    next: Sequence,
}

/// The part of the state that a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// The attributes whose full names begin so.
    Attributes(String),
    /// The registrations of tunnels whose names begin so.
    Tunnels(String),
}

impl std::str::FromStr for LastSeen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (generation, next) = text.split_once('-').ok_or(())?;
        let number = |text: &str| text.parse::<u64>().map_err(|_no_number| ());
        Ok(Self { generation: Generation(number(generation)?), next: Sequence(number(next)?) })
    }
}

impl Source {
    /// Streams what happens from now on, or from where the client was. After a restart of the node that is all that
    /// happened since, as far as it is still held.
    pub(super) fn events(self, last: Option<LastSeen>) -> Response {
        let mut subscription = match last {
            None => self.mesh.subscribe(),
            Some(last) if last.generation == self.generation => self.mesh.subscribe_from(last.next),
            Some(_of_another_life) => self.mesh.subscribe_from(Sequence(0)),
        };
        self.respond(async move |source, client| {
            loop {
                match next(&mut subscription, &client).await? {
                    Next::Event(sequence, event) => client.send(Some(sequence), &(&event).into()).await?,
                    Next::Lagged(missed) => {
                        source.metrics.lagged(Consumer::Events);
                        client.send(None, &Event::Lagged { missed }).await?;
                    }
                }
            }
        })
    }

    /// Streams a part of the state, then its changes; after a lag, all of it again. Of a client that was here before
    /// only the changes, if they are all still held.
    pub(super) async fn watch(self, topic: Topic, last: Option<LastSeen>) -> Result<Response, Stopped> {
        let known = last.filter(|last| last.generation == self.generation);
        let mut start = match known {
            Some(last) => Start::Resumed(self.mesh.subscribe_from(last.next)),
            None => self.snapshot(topic.clone()).await?,
        };
        Ok(self.respond(async move |source, client| {
            loop {
                let mut subscription = match start {
                    Start::Resumed(subscription) => subscription,
                    Start::Snapshot { events, end, subscription } => {
                        for event in &events {
                            client.send(None, event).await?;
                        }
                        client.synced(end).await?;
                        subscription
                    }
                };
                let missed = changes(&mut subscription, &topic, &client).await?;
                source.metrics.lagged(Consumer::Watch);
                client.send(None, &Event::Lagged { missed }).await?;
                start = source.snapshot(topic.clone()).await.ok()?;
            }
        }))
    }

    async fn snapshot(&self, topic: Topic) -> Result<Start, Stopped> {
        let subscriber = self.mesh.clone();
        let view = self.mesh.view(move |mesh| {
            let subscription = subscriber.subscribe();
            let replica = mesh.replica();
            let events = match topic {
                Topic::Attributes(prefix) => {
                    replica.attributes(&prefix).map(|attribute| (&attribute).into()).collect()
                }
                Topic::Tunnels(prefix) => {
                    let all = replica.registrations();
                    let wanted = all.filter(|found| found.name.as_str().starts_with(&prefix));
                    wanted.map(|found| (&gossip::Event::Registered(found)).into()).collect()
                }
            };
            Start::Snapshot { events, end: subscription.next(), subscription }
        });
        view.await
    }

    /// Answers with a stream that `produce` writes, in a task that ends with either end.
    fn respond<F>(self, produce: impl FnOnce(Self, Client) -> F) -> Response
    where
        F: Future<Output = Option<()>> + Send + 'static,
    {
        let (frames, waiting) = mpsc::channel(QUEUE);
        let (reader, client) = (self.metrics.reader(), Client { frames, generation: self.generation });
        let producing = produce(self, client);
        tokio::spawn(async move {
            producing.await;
            drop(reader);
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::new(Frames::new(waiting))).into_response()
    }
}

/// How a watch begins.
enum Start {
    /// Where the client was.
    Resumed(Subscription<gossip::Event>),
    /// With a state and the stream that continues it without a gap.
    Snapshot { events: Vec<Event>, end: Sequence, subscription: Subscription<gossip::Event> },
}

impl Topic {
    fn covers(&self, event: &gossip::Event) -> bool {
        match (self, event) {
            (Self::Attributes(prefix), gossip::Event::Attribute { key, .. }) => {
                key.to_string().starts_with(prefix)
            }
            (Self::Tunnels(prefix), gossip::Event::Registered(registration)) => {
                registration.name.as_str().starts_with(prefix)
            }
            (Self::Tunnels(prefix), gossip::Event::Deregistered { name, .. }) => {
                name.as_str().starts_with(prefix)
            }
            _ => false,
        }
    }
}

/// Passes changes on until some were missed; returns how many.
async fn changes(
    subscription: &mut Subscription<gossip::Event>,
    topic: &Topic,
    client: &Client,
) -> Option<u64> {
    loop {
        match next(subscription, client).await? {
            Next::Event(sequence, event) if topic.covers(&event) => {
                client.send(Some(sequence), &(&event).into()).await?;
            }
            Next::Event(..) => {}
            Next::Lagged(missed) => return Some(missed),
        }
    }
}

enum Next {
    Event(Sequence, gossip::Event),
    Lagged(u64),
}

/// Waits for an event, keeping the client alive meanwhile. `None` when either end has gone.
async fn next(subscription: &mut Subscription<gossip::Event>, client: &Client) -> Option<Next> {
    loop {
        let received = tokio::select! {
            received = timeout(KEEP_ALIVE, subscription.recv()) => received,
            () = client.frames.closed() => return None,
        };
        match received {
            Ok(Ok((sequence, event))) => return Some(Next::Event(sequence, event)),
            Ok(Err(RecvError::Lagged(lagged))) => return Some(Next::Lagged(lagged.missed)),
            Ok(Err(RecvError::Closed)) => return None,
            Err(_silent) => client.push(Bytes::from_static(b":\n\n")).await?,
        }
    }
}

/// An event with its number, if it has one: those of a snapshot do not.
#[derive(Serialize)]
struct Streamed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// When it was passed on: the lag of a value is this less its `writtenAt`.
    at: u64,
    #[serde(flatten)]
    event: &'a Event,
}

/// The near end of a streamed answer.
struct Client {
    frames: mpsc::Sender<Bytes>,
    generation: Generation,
}

impl Client {
    async fn send(&self, sequence: Option<Sequence>, event: &Event) -> Option<()> {
        self.write(sequence.map(|sequence| Sequence(sequence.0 + 1)), sequence, event).await
    }

    /// The snapshot is complete, and whoever comes back with this id need not have it again.
    async fn synced(&self, end: Sequence) -> Option<()> {
        self.write(Some(end), None, &Event::Synced).await
    }

    async fn write(&self, next: Option<Sequence>, sequence: Option<Sequence>, event: &Event) -> Option<()> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let streamed = Streamed { sequence: sequence.map(|sequence| sequence.0), at, event };
        let data = serde_json::to_string(&streamed).expect("texts and numbers are JSON");
        let generation = self.generation.0;
        let id = next.map(|next| format!("id: {generation}-{}\n", next.0)).unwrap_or_default();
        self.push(format!("{id}data: {data}\n\n").into()).await
    }

    async fn push(&self, frame: Bytes) -> Option<()> {
        self.frames.send(frame).await.ok()
    }
}

/// A body that comes piece by piece.
pub(super) struct Frames {
    waiting: mpsc::Receiver<Bytes>,
}

impl Frames {
    pub(super) fn new(waiting: mpsc::Receiver<Bytes>) -> Self {
        Self { waiting }
    }
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waiting.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::node::admin::testing::alone;

    fn source(mesh: &MeshHandle) -> Source {
        Source { mesh: mesh.clone(), metrics: Arc::default(), generation: Generation(1) }
    }

    async fn set(mesh: &MeshHandle, number: usize) {
        let key = format!("mesh/{number:04}").parse().unwrap();
        mesh.set(key, b"x".as_slice().try_into().unwrap()).await.unwrap();
    }

    async fn watch(mesh: &MeshHandle, prefix: &str, last: Option<&str>) -> Body {
        let last = last.map(|last| last.parse().unwrap());
        source(mesh).watch(Topic::Attributes(prefix.into()), last).await.unwrap().into_body()
    }

    /// The next event and its id.
    async fn next_with_id(body: &mut Body) -> (Event, Option<String>) {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let event = serde_json::from_str(field("data: ").unwrap()).unwrap();
        (event, field("id: ").map(str::to_owned))
    }

    async fn next_event(body: &mut Body) -> Event {
        next_with_id(body).await.0
    }

    fn is_attribute(event: &Event, expected: &str) -> bool {
        matches!(event, Event::Attribute { key, .. } if key == expected)
    }

    #[tokio::test]
    async fn a_watch_begins_with_what_there_is_and_goes_on_with_what_changes() {
        let mesh = alone(16);
        set(&mesh, 1).await;
        let mut body = watch(&mesh, "mesh/", None).await;
        set(&mesh, 2).await;
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0001"));
        assert_eq!(next_event(&mut body).await, Event::Synced);
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0002"));
    }

    /// FEATURES B2: a client that comes back misses nothing and gets nothing twice.
    #[tokio::test]
    async fn a_watch_goes_on_where_its_client_was() {
        let mesh = alone(16);
        set(&mesh, 1).await;
        let mut body = watch(&mesh, "mesh/", None).await;
        next_event(&mut body).await;
        let (synced, id) = next_with_id(&mut body).await;
        assert_eq!(synced, Event::Synced);
        drop(body);
        set(&mesh, 2).await;
        set(&mesh, 3).await;
        let mut body = watch(&mesh, "mesh/", id.as_deref()).await;
        let (second, id) = next_with_id(&mut body).await;
        assert!(is_attribute(&second, "mesh/0002"));
        drop(body);
        let mut body = watch(&mesh, "mesh/", id.as_deref()).await;
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0003"));
    }

    /// FEATURES B2.
    #[tokio::test]
    async fn a_client_that_was_away_for_too_long_is_told_and_gets_all_of_it_again() {
        let mesh = alone(4);
        let mut body = watch(&mesh, "mesh/", None).await;
        let (_, id) = next_with_id(&mut body).await;
        drop(body);
        for number in 0..10 {
            set(&mesh, number).await;
        }
        let mut body = watch(&mesh, "mesh/", id.as_deref()).await;
        assert!(matches!(next_event(&mut body).await, Event::Lagged { missed } if missed >= 6));
        for number in 0..10 {
            assert!(is_attribute(&next_event(&mut body).await, &format!("mesh/{number:04}")));
        }
        assert_eq!(next_event(&mut body).await, Event::Synced);
    }

    /// FEATURES B2: numbers of an earlier life mean nothing in this one.
    #[tokio::test]
    async fn a_client_of_an_earlier_life_begins_anew() {
        let mesh = alone(16);
        set(&mesh, 1).await;
        let mut body = watch(&mesh, "mesh/", Some("0-1")).await;
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0001"));
        assert_eq!(next_event(&mut body).await, Event::Synced);
        let mut events = source(&mesh).events(Some("0-99".parse().unwrap())).into_body();
        loop {
            if is_attribute(&next_event(&mut events).await, "mesh/0001") {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_lagged_and_gets_all_of_it_again() {
        let (mesh, written) = (alone(4), 3 * QUEUE);
        let source = source(&mesh);
        let metrics = Arc::clone(&source.metrics);
        let mut body = source.watch(Topic::Attributes(String::new()), None).await.unwrap().into_body();
        for number in 0..written {
            set(&mesh, number).await;
        }
        let missed = loop {
            if let Event::Lagged { missed } = next_event(&mut body).await {
                break missed;
            }
        };
        assert!(missed > 0);
        assert_eq!(metrics.times_lagged(Consumer::Watch), 1);
        for number in 0..written {
            assert!(is_attribute(&next_event(&mut body).await, &format!("mesh/{number:04}")));
        }
        assert_eq!(next_event(&mut body).await, Event::Synced);
    }

    #[tokio::test]
    async fn a_slow_reader_of_plain_events_goes_on_with_the_oldest_still_held() {
        let (mesh, written) = (alone(4), 3 * QUEUE);
        let mut body = source(&mesh).events(None).into_body();
        for number in 0..written {
            set(&mesh, number).await;
        }
        let mut seen = 0;
        while seen < written {
            match next_event(&mut body).await {
                Event::Attribute { .. } => seen += 1,
                Event::Lagged { missed } => seen += usize::try_from(missed).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, written);
    }
}
