//! Server-sent events: what happens from now on, and the attributes as they are and as they change.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

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
use crate::mesh::{MeshHandle, Stopped};
use crate::node::api::Event;

/// Events on their way to one client. When they are full the client is slow, and its subscription lags.
const QUEUE: usize = 64;
/// How often a silent stream shows that it lives, and finds out whether its reader does.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams what happens from now on.
pub(super) fn events(mesh: &MeshHandle) -> Response {
    let mut subscription = mesh.subscribe();
    respond(move |client| async move {
        loop {
            match next(&mut subscription, &client).await? {
                Next::Event(sequence, event) => client.send(Some(sequence), &(&event).into()).await?,
                Next::Lagged(missed) => client.send(None, &Event::Lagged { missed }).await?,
            }
        }
    })
}

/// Streams the attributes that begin with `prefix`, then their changes; after a lag, all of it again.
pub(super) async fn watch_attributes(mesh: MeshHandle, prefix: String) -> Result<Response, Stopped> {
    let mut start = snapshot(&mesh, prefix.clone()).await?;
    Ok(respond(move |client| async move {
        loop {
            for event in &start.events {
                client.send(None, event).await?;
            }
            client.send(None, &Event::Synced).await?;
            let missed = changes(&mut start.subscription, &prefix, &client).await?;
            client.send(None, &Event::Lagged { missed }).await?;
            start = snapshot(&mesh, prefix.clone()).await.ok()?;
        }
    }))
}

/// A state and the stream that continues it without a gap.
struct Snapshot {
    events: Vec<Event>,
    subscription: Subscription<gossip::Event>,
}

async fn snapshot(mesh: &MeshHandle, prefix: String) -> Result<Snapshot, Stopped> {
    let subscriber = mesh.clone();
    let view = mesh.view(move |mesh| Snapshot {
        events: mesh.replica().attributes(&prefix).map(|attribute| (&attribute).into()).collect(),
        subscription: subscriber.subscribe(),
    });
    view.await
}

/// Passes changes on until some were missed; returns how many.
async fn changes(
    subscription: &mut Subscription<gossip::Event>,
    prefix: &str,
    client: &Client,
) -> Option<u64> {
    loop {
        match next(subscription, client).await? {
            Next::Event(sequence, event) => match &event {
                gossip::Event::Attribute { key, .. } if key.to_string().starts_with(prefix) => {
                    client.send(Some(sequence), &(&event).into()).await?;
                }
                _ => {}
            },
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
    #[serde(flatten)]
    event: &'a Event,
}

/// The near end of a streamed answer.
struct Client {
    frames: mpsc::Sender<Bytes>,
}

impl Client {
    async fn send(&self, sequence: Option<Sequence>, event: &Event) -> Option<()> {
        let streamed = Streamed { sequence: sequence.map(|sequence| sequence.0), event };
        let data = serde_json::to_string(&streamed).expect("texts and numbers are JSON");
        let id = sequence.map(|sequence| format!("id: {}\n", sequence.0)).unwrap_or_default();
        self.push(format!("{id}data: {data}\n\n").into()).await
    }

    async fn push(&self, frame: Bytes) -> Option<()> {
        self.frames.send(frame).await.ok()
    }
}

/// Answers with a stream that `produce` writes, in a task that ends with either end.
fn respond<F>(produce: impl FnOnce(Client) -> F) -> Response
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let (frames, waiting) = mpsc::channel(QUEUE);
    tokio::spawn(produce(Client { frames }));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(Frames { waiting })).into_response()
}

/// A body that comes piece by piece.
struct Frames {
    waiting: mpsc::Receiver<Bytes>,
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
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::gossip::Config;
    use crate::id::{Actor, Generation, NodeId};
    use crate::mesh::{ConnectError, Connector, Driver, DriverConfig};
    use crate::replica::Address;
    use crate::tunnel::ArcTunnel;

    /// A mesh of one node.
    fn alone(event_capacity: usize) -> MeshHandle {
        struct Nobody;
        impl Connector for Nobody {
            async fn connect(
                &self,
                _: &Address,
                _: Option<NodeId>,
            ) -> Result<(ArcTunnel, NodeId), ConnectError> {
                Err(ConnectError::NoIdentity)
            }
        }
        let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
        let event_capacity = event_capacity.try_into().unwrap();
        let clock = crate::clock::WallClock::system();
        let config = DriverConfig { gossip: Config::default(), actor, seed: 1, event_capacity, clock };
        let driver = Driver::new(config).unwrap();
        let mesh = driver.handle();
        tokio::spawn(driver.run(Nobody, CancellationToken::new()));
        mesh
    }

    async fn set(mesh: &MeshHandle, number: usize) {
        let key = format!("mesh/{number:04}").parse().unwrap();
        mesh.set(key, b"x".as_slice().try_into().unwrap()).await.unwrap();
    }

    async fn next_event(body: &mut Body) -> Event {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(data).unwrap()
    }

    fn is_attribute(event: &Event, expected: &str) -> bool {
        matches!(event, Event::Attribute { key, .. } if key == expected)
    }

    #[tokio::test]
    async fn a_watch_begins_with_what_there_is_and_goes_on_with_what_changes() {
        let mesh = alone(16);
        set(&mesh, 1).await;
        let mut body = watch_attributes(mesh.clone(), "mesh/".into()).await.unwrap().into_body();
        set(&mesh, 2).await;
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0001"));
        assert_eq!(next_event(&mut body).await, Event::Synced);
        assert!(is_attribute(&next_event(&mut body).await, "mesh/0002"));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_lagged_and_gets_all_of_it_again() {
        let (mesh, written) = (alone(4), 3 * QUEUE);
        let mut body = watch_attributes(mesh.clone(), String::new()).await.unwrap().into_body();
        for number in 0..written {
            set(&mesh, number).await;
        }
        let missed = loop {
            if let Event::Lagged { missed } = next_event(&mut body).await {
                break missed;
            }
        };
        assert!(missed > 0);
        for number in 0..written {
            assert!(is_attribute(&next_event(&mut body).await, &format!("mesh/{number:04}")));
        }
        assert_eq!(next_event(&mut body).await, Event::Synced);
    }

    #[tokio::test]
    async fn a_slow_reader_of_plain_events_goes_on_with_the_oldest_still_held() {
        let (mesh, written) = (alone(4), 3 * QUEUE);
        let mut body = events(&mesh).into_body();
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
