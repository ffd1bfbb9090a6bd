//! How many writes a second a program gets through the library: in memory, and durable.
//!
//! `cargo bench --bench writes`. A mesh of one node, its driver in a runtime of two threads, values of 32 bytes under keys of 17,
//! half of them new. In memory beside a question to the driver that does nothing, which is what the way there costs; durable
//! beside `fsync` of a page, which is what the disk costs. About half a minute.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run may say so in any way")]

use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use snomesh::clock::WallClock;
use snomesh::crdt::Value;
use snomesh::gossip::Config;
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::mesh::{ConnectError, Connector, Driver, DriverConfig, MeshHandle, Written, journal};
use snomesh::replica::Address;
use snomesh::store::StateFile;
use snomesh::tunnel::ArcTunnel;
use tokio_util::sync::CancellationToken;

/// How many tasks write at a time.
const WRITERS: [usize; 3] = [1, 64, 1_024];
const IN_MEMORY: usize = 200_000;
const DURABLE: usize = 40_000;
const SYNCS: u32 = 200;

/// A mesh of one node calls nobody.
struct Nobody;

impl Connector for Nobody {
    async fn connect(&self, _: &Address, _: Option<NodeId>) -> Result<(ArcTunnel, NodeId), ConnectError> {
        Err(ConnectError::NoIdentity)
    }
}

fn config() -> DriverConfig {
    DriverConfig {
        gossip: Config::default(),
        actor: Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) },
        seed: 1,
        event_capacity: NonZeroUsize::new(1_024).unwrap(),
        clock: WallClock::system(),
    }
}

fn run(driver: Driver) -> MeshHandle {
    let mesh = driver.handle();
    tokio::spawn(driver.run(Nobody, CancellationToken::new()));
    mesh
}

fn durable(directory: &Path) -> MeshHandle {
    let file = StateFile::open(&directory.join("state.redb")).unwrap();
    let (journal, tail) = journal();
    let mesh = run(Driver::durable(config(), journal).unwrap());
    let disk = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    std::thread::spawn(move || disk.block_on(file.keep(tail)));
    mesh
}

/// Each writer does its share, one write after the other; returns how many there are a second.
async fn rate<F: Future<Output = ()> + Send>(
    count: usize,
    writers: usize,
    write: impl Fn(usize) -> F + Clone + Send + 'static,
) -> f64 {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let write = write.clone();
            tokio::spawn(async move {
                for number in (writer..count).step_by(writers) {
                    write(number).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn writes(mesh: &MeshHandle, count: usize, writers: usize) -> f64 {
    let mesh = mesh.clone();
    rate(count, writers, move |number| {
        let mesh = mesh.clone();
        async move {
            // Each key is written twice, with two values.
            let key = format!("mesh/load/{:07}", number / 2).parse().unwrap();
            let value = format!("{:032}", number * 1_031 + writers);
            let value = Value::try_from(value.as_bytes()).unwrap();
            assert_eq!(mesh.set(key, value).await.unwrap(), Written::Yes);
        }
    })
    .await
}

async fn questions(mesh: &MeshHandle, count: usize, writers: usize) -> f64 {
    let mesh = mesh.clone();
    rate(count, writers, move |_| {
        let mesh = mesh.clone();
        async move { mesh.view(|_| ()).await.unwrap() }
    })
    .await
}

/// What the disk takes for a page that has to be there.
fn sync_time(directory: &Path) -> Duration {
    let file = std::fs::File::create(directory.join("page")).unwrap();
    let begun = Instant::now();
    for number in 0..SYNCS {
        file.write_all_at(&[7; 4_096], u64::from(number) * 4_096).unwrap();
        file.sync_data().unwrap();
    }
    begun.elapsed() / SYNCS
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    runtime.block_on(async {
        println!("| writers | in memory, writes/s | a question/s | durable, writes/s |");
        println!("|---|---|---|---|");
        for writers in WRITERS {
            let mesh = run(Driver::new(config()).unwrap());
            let asked = questions(&mesh, IN_MEMORY, writers).await;
            let in_memory = writes(&mesh, IN_MEMORY, writers).await;
            let place = directory.path().join(writers.to_string());
            std::fs::create_dir(&place).unwrap();
            let count = if writers == 1 { DURABLE / 100 } else { DURABLE };
            let lasting = writes(&durable(&place), count, writers).await;
            println!("| {writers} | {in_memory:.0} | {asked:.0} | {lasting:.0} |");
        }
    });
    println!("\na page written and synced: {:?}", sync_time(directory.path()));
}
