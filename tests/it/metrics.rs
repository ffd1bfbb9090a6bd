//! What is measured, and the page that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::http::{over_tcp, over_unix};
use crate::program::{Agent, DEADLINE, until};

/// The names in the tables of the page, each with its labels; those that exist, and those that do not.
fn documented() -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) {
    let page = include_str!("../../docs/METRICS.md");
    let (told, not_told) = page.split_once("## What is not told").unwrap();
    let cells = |text: &str| -> Vec<String> {
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        rows.flat_map(|cell| cell.split('`'))
            .filter(|word| word.starts_with("snomesh_"))
            .map(str::to_owned)
            .collect()
    };
    let series = cells(told).into_iter().map(|cell| {
        let (name, labels) = cell.split_once('{').unwrap_or((&cell, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    });
    (series.collect(), cells(not_told).into_iter().collect())
}

/// The families of a scrape, each with the labels of its series.
fn scraped(agent: &Agent) -> BTreeMap<String, BTreeSet<String>> {
    let text = over_unix(&agent.admin, "GET /metrics HTTP/1.1", b"").body;
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            family = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            families.entry(family.clone()).or_default();
        } else if !line.starts_with('#') {
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.rsplit_once('}'))
                .map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
            families.get_mut(&family).unwrap().extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// Sends back what it gets, from its end on.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for visitor in listener.incoming() {
            let (mut visitor, mut told) = (visitor.unwrap(), Vec::new());
            thread::spawn(move || {
                visitor.read_to_end(&mut told).ok();
                visitor.write_all(&told).ok();
            });
        }
    });
    address
}

/// Whether the page tells of what is told, and of nothing else.
fn the_page_is_true(mut told: BTreeMap<String, BTreeSet<String>>, more: BTreeMap<String, BTreeSet<String>>) {
    let (documented, absent) = documented();
    assert!(documented.len() > 50 && absent.len() > 4);
    for (family, labels) in more {
        told.entry(family).or_default().extend(labels);
    }
    let names =
        |families: &BTreeMap<String, BTreeSet<String>>| families.keys().cloned().collect::<BTreeSet<_>>();
    let (page, node) = (names(&documented), names(&told));
    assert_eq!(page.difference(&node).collect::<Vec<_>>(), Vec::<&String>::new(), "on the page and not told");
    assert_eq!(node.difference(&page).collect::<Vec<_>>(), Vec::<&String>::new(), "told and not on the page");
    assert_eq!(node.intersection(&absent).collect::<Vec<_>>(), Vec::<&String>::new(), "said to be absent");
    for (family, labels) in told {
        // What has not happened has no series, and so no labels.
        assert!(labels.is_empty() || labels == documented[&family], "{family}: {labels:?}");
    }
}

/// FEATURES P7: the page and the node say the same, and streams are measured at both of their ends.
#[test]
fn the_page_of_metrics_is_true_and_streams_are_measured_at_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &["--http", "127.0.0.1:0"]);
    let b = Agent::join(directory.path(), "b", &a);
    until("both are linked", || a.linked() == 1 && b.linked() == 1);
    a.ok(&["expose", "web", &echo().to_string(), "--health", "tcp"]);
    until("b has it", || b.digest() == a.digest());
    let bound = b.ok(&["bind", "0", "web", "-o", "name"]).text().trim().to_owned();
    let mut visitor = TcpStream::connect(&bound).unwrap();
    visitor.set_read_timeout(Some(DEADLINE)).unwrap();
    visitor.write_all(&[7; 1_000]).unwrap();
    let (there, here) = ("tunnel=\"web\",dir=\"opened\"", "tunnel=\"web\",dir=\"served\"");
    until("the stream lives", || {
        crate::admin::metrics(&b).get(&format!("snomesh_streams_active{{{there}}}")) == Some(&1.0)
            && crate::admin::metrics(&a).get(&format!("snomesh_streams_active{{{here}}}")) == Some(&1.0)
    });
    visitor.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    visitor.read_to_end(&mut back).unwrap();
    assert_eq!(back.len(), 1_000);
    let nowhere = b.ok(&["bind", "0", "nowhere", "-o", "name"]).text().trim().to_owned();
    TcpStream::connect(&nowhere).unwrap().read_to_end(&mut back).ok();
    until("it has ended at both ends", || {
        let ended = |agent: &Agent, labels: &str| {
            crate::admin::metrics(agent).get(&format!("snomesh_stream_duration_seconds_count{{{labels}}}"))
                == Some(&1.0)
        };
        ended(&a, here) && ended(&b, there)
    });
    let (opening, serving) = (crate::admin::metrics(&b), crate::admin::metrics(&a));
    for (metrics, labels) in [(&opening, there), (&serving, here)] {
        assert_eq!(metrics[&format!("snomesh_streams_active{{{labels}}}")], 0.0);
        for direction in ["sent", "received"] {
            let bytes = format!("snomesh_stream_bytes_total{{tunnel=\"web\",dir=\"{direction}\"}}");
            assert_eq!(metrics[&bytes], 1_000.0, "{bytes}");
        }
    }
    assert_eq!(opening["snomesh_streams_total{tunnel=\"web\",result=\"ok\"}"], 1.0);
    assert_eq!(opening["snomesh_stream_open_duration_seconds_count{tunnel=\"web\"}"], 1.0);
    assert_eq!(opening[&format!("snomesh_bind_accepts_total{{bind=\"{bound}\"}}")], 1.0);
    assert_eq!(
        opening[&format!("snomesh_bind_errors_total{{bind=\"{nowhere}\",reason=\"not_found\"}}")],
        1.0
    );
    assert_eq!(opening["snomesh_resolve_total{result=\"hit\"}"], 1.0);
    assert_eq!(opening["snomesh_resolve_total{result=\"miss\"}"], 1.0);
    assert_eq!(opening["snomesh_resolve_duration_seconds_count"], 2.0);
    assert_eq!(serving["snomesh_target_connect_duration_seconds_count{tunnel=\"web\"}"], 1.0);
    assert_eq!(serving["snomesh_peer_connects_total{dir=\"in\"}"], 1.0);
    assert_eq!(opening["snomesh_peer_connects_total{dir=\"out\"}"], 1.0);
    // What b had to learn of a, and the other way round.
    assert!(opening["snomesh_registry_merge_duration_seconds_count"] >= 1.0);
    assert!(serving["snomesh_registry_bytes"] > 100.0);
    assert_eq!(serving["snomesh_registry_bytes"], opening["snomesh_registry_bytes"]);

    let more = scraped(&b);
    // A bind that is gone has no series.
    b.ok(&["unbind", &nowhere]);
    let without = crate::admin::metrics(&b);
    assert!(!without.keys().any(|series| series.contains(&nowhere)), "{without:?}");

    // What is only told when it has happened.
    let address: SocketAddr = a.status()["http"].as_str().unwrap().parse().unwrap();
    assert_eq!(over_tcp(address, &format!("GET /metrics HTTP/1.1\r\nhost: {address}"), b"").status, 401);
    b.stop();
    let ended = "snomesh_peer_disconnects_total{reason=\"shutting_down\"}";
    until("the connection has ended", || crate::admin::metrics(&a).get(ended) == Some(&1.0));
    the_page_is_true(scraped(&a), more);
}
