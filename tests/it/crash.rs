//! What survives when a process is killed, its file is damaged, or its disk is full.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use snomesh::node::Client;
use snomesh::node::api::{AttributeList, Write};

use crate::program::{Agent, DEADLINE, snomesh, until};

/// How often the node is killed; more by `SNOMESH_KILLS=200`.
const KILLS: usize = 20;
/// How many writers wait for their acknowledgements at a time.
const WRITERS: usize = 8;

/// What was acknowledged: per key the last value.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

/// Writes until the node is gone: each writer over its own ten keys in turn, values only grow.
async fn write(client: Client, writer: usize, acknowledged: Acknowledged) {
    for round in 0_u64.. {
        let key = format!("mesh/w{writer}/{}", round % 10);
        let next = acknowledged.lock().unwrap().get(&key).map_or(1, |last| last + 1);
        let path = format!("/v1/attributes/{key}");
        if client.put::<Write>(&path, next.to_string().into()).await.is_err() {
            return;
        }
        acknowledged.lock().unwrap().insert(key, next);
    }
}

/// Compares what is there with what was acknowledged, and goes on from what is there: a write may have been made
/// durable without anybody having been told.
fn check(list: &AttributeList, acknowledged: &Acknowledged, cycle: usize) {
    let mut acknowledged = acknowledged.lock().unwrap();
    let found: BTreeMap<String, u64> = list
        .attributes
        .iter()
        .filter(|attribute| attribute.key.starts_with("mesh/w"))
        .map(|attribute| {
            let value = String::from_utf8(attribute.value.decode().unwrap()).unwrap();
            (attribute.key.clone(), value.parse().unwrap())
        })
        .collect();
    for (key, last) in acknowledged.iter() {
        let there = found.get(key).copied().unwrap_or(0);
        assert!(there >= *last, "cycle {cycle}: {key} was acknowledged as {last} and is {there}");
        assert!(there <= *last + 1, "cycle {cycle}: {key} is {there}, at most {} was written", *last + 1);
    }
    *acknowledged = found;
}

/// FEATURES P12, B6.
#[test]
fn no_acknowledged_write_is_lost_when_the_node_is_killed_again_and_again() {
    let kills = std::env::var("SNOMESH_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let witness = Agent::start(directory.path(), "witness", &[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let acknowledged = Acknowledged::default();
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(7);
    let (mut writes, mut slowest) = (0, Duration::ZERO);
    let mut generations = Vec::new();
    for cycle in 0..kills {
        let begun = Instant::now();
        let agent = Agent::join(directory.path(), "victim", &witness);
        slowest = slowest.max(begun.elapsed());
        generations.push(agent.status()["generation"].as_u64().unwrap());
        let client = Client::new(&agent.admin, DEADLINE);
        let list = runtime.block_on(client.get("/v1/attributes")).unwrap();
        check(&list, &acknowledged, cycle);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| runtime.spawn(write(client.clone(), writer, Arc::clone(&acknowledged))))
            .collect();
        std::thread::sleep(Duration::from_millis(generator.random_range(1..300)));
        agent.kill();
        for writer in writers {
            runtime.block_on(writer).unwrap();
        }
        writes = acknowledged.lock().unwrap().values().sum::<u64>();
    }
    assert!(writes > kills as u64, "{writes} acknowledged writes in {kills} cycles");
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");
    let agent = Agent::join(directory.path(), "victim", &witness);
    let list = runtime.block_on(Client::new(&agent.admin, DEADLINE).get("/v1/attributes")).unwrap();
    check(&list, &acknowledged, kills);
    let begun = Instant::now();
    until("both hold the same", || agent.digest() == witness.digest());
    println!(
        "{kills} kills, {writes} acknowledged writes, none lost; slowest start {slowest:?}, digests equal after {:?}",
        begun.elapsed()
    );
}

/// FEATURES P10.
#[test]
fn a_node_that_was_stopped_knows_everything_again_without_any_peer() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    a.ok(&["attr", "set", "color", "blue"]);
    a.ok(&["attr", "set", "gone", "1"]);
    a.ok(&["attr", "rm", "gone"]);
    assert_eq!(a.status()["storage"], "durable");
    let generation = a.status()["generation"].as_u64().unwrap();
    a.stop();
    let a = Agent::start(directory.path(), "a", &[]);
    assert_eq!(a.ok(&["attr", "get", "color"]).text(), "blue");
    assert_eq!(a.run(&["attr", "get", "gone"]).code, Some(4));
    assert!(a.status()["generation"].as_u64().unwrap() > generation);
    a.stop();
    let a = Agent::start(directory.path(), "a", &["--store", "memory"]);
    assert_eq!(a.status()["storage"], "memory");
    assert_eq!(a.run(&["attr", "get", "color"]).code, Some(4));
}

fn up(data_dir: &Path, args: &[&str]) -> crate::program::Run {
    let data_dir = data_dir.to_str().unwrap();
    snomesh(&[&["up", "--listen", "127.0.0.1:0", "--data-dir", data_dir], args].concat())
}

/// FEATURES B6, P10.
#[test]
fn a_damaged_state_file_is_refused_and_the_peers_give_the_state_back() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let b = Agent::join(directory.path(), "b", &a);
    for number in 0..50 {
        b.ok(&["attr", "set", &format!("k{number}"), "v"]);
    }
    until("both hold the same", || a.digest() == b.digest());
    let (data, generation) = (b.data_dir.clone(), b.status()["generation"].as_u64().unwrap());
    b.stop();
    let file = data.join("state.redb");
    let whole = std::fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], &[], &vec![0; whole.len()]] {
        std::fs::write(&file, damaged).unwrap();
        let refused = up(&data, &[]);
        assert_eq!(refused.code, Some(74), "{refused:?}");
        assert!(refused.stderr.contains("state.redb is damaged"), "{refused:?}");
        assert!(refused.stderr.contains("--rebuild-from-mesh"), "{refused:?}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "a file that was refused is as it was");
    }
    let (ca, join) = (a.file("ca.crt"), a.listen.to_string());
    let b = Agent::start(directory.path(), "b", &["--rebuild-from-mesh", "--join", &join, "--ca", &ca]);
    until("it has everything back", || a.digest() == b.digest());
    assert!(b.status()["generation"].as_u64().unwrap() > generation);
    assert_eq!(b.ok(&["attr", "get", "k49"]).text(), "v");
    assert!(data.join("state.damaged-1").exists());
}
