//! Peer: what an engineer writes in Rust. axum, tokio, a broadcast channel per job, one PSUBSCRIBE. No login, no
//! heartbeat, no resume. Usage: peer PORT REDIS_URL

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, RwLock};

use axum::extract::ws::{Message, Utf8Bytes, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::sse::{Event, Sse};
use axum::response::Response;
use axum::routing::get;
use axum::Router;
use futures::{Stream, StreamExt};
use tokio::sync::broadcast::{self, Receiver, Sender};

#[derive(Clone, Default)]
struct Rooms(Arc<RwLock<HashMap<String, Sender<Utf8Bytes>>>>);

impl Rooms {
    fn enter(&self, job: String) -> Receiver<Utf8Bytes> {
        let mut rooms = self.0.write().unwrap();
        rooms.entry(job).or_insert_with(|| broadcast::channel(1024).0).subscribe()
    }

    fn publish(&self, job: &str, event: &str) {
        if let Some(room) = self.0.read().unwrap().get(job) {
            let _ = room.send(event.into());
        }
    }
}

fn events(receiver: Receiver<Utf8Bytes>) -> impl Stream<Item = Utf8Bytes> {
    futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.ok().map(|event| (event, receiver))
    })
}

async fn sse(
    Path(job): Path<String>,
    State(rooms): State<Rooms>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let welcome = futures::stream::once(async { Ok(Event::default().comment("welcome")) });
    let rest = events(rooms.enter(job)).map(|event| Ok(Event::default().data(event.as_str())));
    Sse::new(welcome.chain(rest))
}

async fn websocket(
    upgrade: WebSocketUpgrade,
    Path(job): Path<String>,
    State(rooms): State<Rooms>,
) -> Response {
    upgrade.on_upgrade(move |mut socket| async move {
        let mut receiver = rooms.enter(job);
        loop {
            tokio::select! {
                event = receiver.recv() => match event {
                    Ok(event) => if socket.send(Message::Text(event)).await.is_err() { return },
                    Err(_) => return,
                },
                said = socket.recv() => if !matches!(said, Some(Ok(_))) { return },
            }
        }
    })
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rooms = Rooms::default();
    let client = redis::Client::open(arguments[2].as_str()).unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.psubscribe("job:*:events").await.unwrap();
    let reader = rooms.clone();
    tokio::spawn(async move {
        let mut messages = subscription.into_on_message();
        while let Some(message) = messages.next().await {
            let job = message.get_channel_name().strip_prefix("job:").and_then(|rest| rest.strip_suffix(":events"));
            if let (Some(job), Ok(event)) = (job, std::str::from_utf8(message.get_payload_bytes())) {
                reader.publish(job, event);
            }
        }
    });
    let app = Router::new().route("/sse/{job}", get(sse)).route("/ws/{job}", get(websocket)).with_state(rooms);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", arguments[1])).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
