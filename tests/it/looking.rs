//! Looking a node over: long lists, and what is behind its tunnels.

use std::net::UdpSocket;
use std::os::unix::net::UnixListener;

use crate::http::over_unix;
use crate::program::Agent;

/// FEATURES P7: a list is read page by page, and the command line reads all of them.
#[test]
fn long_lists_come_in_pages_and_the_command_line_joins_them() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    for name in ["db", "web", "web2"] {
        a.ok(&["expose", name, "9"]);
        a.ok(&["attr", "set", name, "1"]);
    }
    let page = |path: &str| {
        let answer = over_unix(&a.admin, &format!("GET {path} HTTP/1.1"), b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let names = |page: &serde_json::Value| -> Vec<String> {
        let tunnels = page["tunnels"].as_array().unwrap().iter();
        tunnels.map(|tunnel| tunnel["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = page("/v1/tunnels?limit=2");
    assert_eq!(names(&first), ["db", "web"]);
    let next = first["next"].as_str().unwrap();
    assert!(next.starts_with("web/"), "{next}");
    let second = page(&format!("/v1/tunnels?limit=2&after={next}"));
    assert_eq!((names(&second), second.get("next")), (vec!["web2".to_owned()], None));
    assert!(second["tunnels"][0]["chosen"].as_bool().unwrap());
    assert_eq!(names(&page("/v1/tunnels?name=web")), ["web"]);
    assert_eq!(names(&page("/v1/tunnels?prefix=web")), ["web", "web2"]);
    assert_eq!(page("/v1/attributes?limit=1&after=mesh/db")["attributes"][0]["key"], "mesh/web");
    for refused in [
        "tunnels?limit=0",
        "tunnels?limit=x",
        "tunnels?after=a%20b",
        "tunnels?name=A%20b",
        "attributes?limit=-1",
    ] {
        let answer = over_unix(&a.admin, &format!("GET /v1/{refused} HTTP/1.1"), b"");
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("invalid")),
            "{refused}: {answer:?}"
        );
    }
    for key in ["hits", "hits/today", "misses"] {
        a.ok(&["attr", "incr", key]);
        a.ok(&["attr", "add", key, "x"]);
    }
    for (path, list) in [("/v1/counters", "counters"), ("/v1/sets", "sets")] {
        let (mut keys, mut next) = (Vec::new(), String::new());
        loop {
            let found = page(&format!("{path}?limit=1{next}"));
            let items = found[list].as_array().unwrap();
            assert_eq!(items.len(), 1, "{found}");
            keys.push(items[0]["key"].as_str().unwrap().to_owned());
            let Some(after) = found["next"].as_str() else { break };
            next = format!("&after={after}");
        }
        keys.sort();
        assert_eq!(keys, ["mesh/hits", "mesh/hits/today", "mesh/misses"], "{path}");
        assert_eq!(page(&format!("{path}?prefix=mesh/m"))[list][0]["key"], "mesh/misses");
        assert_eq!(a.ok(&["attr", list, "-o", "name"]).text().lines().count(), 3);
    }
    assert_eq!(a.ok(&["tunnel", "ls", "-o", "name"]).text(), "db\nweb\nweb2\n");
    // More than a page: written through one connection at a time, so not many more.
    let body = vec![b'x'; 60 * 1024];
    for number in 0..80 {
        let path = format!("PUT /v1/attributes/mesh/large/{number:02}?durability=memory HTTP/1.1");
        assert_eq!(over_unix(&a.admin, &path, &body).status, 200);
    }
    assert!(page("/v1/attributes?prefix=mesh/large/")["next"].is_string());
    assert_eq!(a.ok(&["attr", "ls", "mesh/large/", "-o", "name"]).text().lines().count(), 80);
}

/// FEATURES P7: of nodes too, this one first and each once.
#[test]
fn nodes_come_in_pages_this_one_first() {
    let directory = tempfile::tempdir().unwrap();
    let agents = Agent::three(directory.path());
    for agent in &agents {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let answer =
                over_unix(&agent.admin, &format!("GET /v1/nodes?limit=1{next} HTTP/1.1"), b"").json();
            let nodes = answer["nodes"].as_array().unwrap();
            assert_eq!(nodes.len(), 1, "{answer}");
            found.push(nodes[0]["node"].as_str().unwrap().to_owned());
            let Some(after) = answer["next"].as_str() else { break };
            next = format!("&after={after}");
        }
        assert_eq!(found[0], agent.id);
        let whole = agent.ok(&["node", "ls", "-o", "name"]).text();
        assert_eq!(found, whole.lines().collect::<Vec<_>>());
        found.sort();
        let mut all = agents.each_ref().map(|agent| agent.id.clone());
        all.sort();
        assert_eq!(found, all);
    }
}

/// FEATURES P7: what is well is said to be well, whatever kind of target it is.
#[test]
fn the_doctor_knows_each_kind_of_target() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let path = directory.path().join("service.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    a.ok(&["expose", "socket", &format!("unix:{}", path.display())]);
    a.ok(&["expose", "datagrams", &format!("udp:{}", datagrams.local_addr().unwrap())]);
    a.ok(&["expose", "program", "stdio:/bin/cat"]);
    a.ok(&["bind", "0", "socket@a"]);
    let verdicts = || -> std::collections::BTreeMap<String, String> {
        let run = a.run(&["doctor", "-o", "json"]).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        run["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|check| (text(&check["name"]), text(&check["verdict"])))
            .collect()
    };
    let found = verdicts();
    for name in ["tunnel socket", "tunnel datagrams", "tunnel program"] {
        assert_eq!(found[name], "ok", "{found:?}");
    }
    let (bind, verdict) = found.iter().find(|(name, _)| name.starts_with("bind ")).unwrap();
    assert_eq!(verdict, "ok", "{bind}");

    drop(socket);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(directory.path().join("text"), "no program").unwrap();
    a.ok(&["expose", "program", &format!("stdio:{}", directory.path().join("text").display())]);
    a.ok(&["expose", "datagrams", "udp:nowhere.invalid:53"]);
    let found = verdicts();
    for name in ["tunnel socket", "tunnel datagrams", "tunnel program"] {
        assert_eq!(found[name], "fail", "{found:?}");
    }
    assert_eq!(a.run(&["doctor"]).code, Some(8));
}

/// FEATURES P7: one line and a code of monitoring, whatever is the matter.
#[test]
fn a_check_is_one_line_and_one_of_four_codes() {
    let directory = tempfile::tempdir().unwrap();
    let a = Agent::start(directory.path(), "a", &[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    a.ok(&["expose", "web", &listener.local_addr().unwrap().to_string()]);
    a.ok(&["expose", "dead", &crate::route::nowhere().to_string()]);
    let check = |args: &[&str]| {
        let run = a.run(&[&["check"], args].concat());
        assert_eq!((run.text().lines().count(), run.stderr.as_str()), (1, ""), "{run:?}");
        (run.code, run.text())
    };
    for (args, code, said) in [
        (&["node"][..], 0, "SNOMESH OK - a is ready | linked=0 tunnels=2"),
        (&["mesh"], 0, "SNOMESH OK - 1 nodes are alive | alive=1 suspect=0 down=0"),
        (&["tunnel", "web"], 0, "SNOMESH OK - web answers after "),
        (&["tunnel", "web", "-w", "1h", "-c", "2h"], 0, "SNOMESH OK - "),
        (&["tunnel", "nobody"], 2, "SNOMESH CRITICAL - "),
        (&["tunnel", "dead"], 2, "SNOMESH CRITICAL - "),
    ] {
        let (found, told) = check(args);
        assert_eq!(found, Some(code), "{args:?}: {told}");
        assert!(told.starts_with(said), "{args:?}: {told}");
    }
    let gone = crate::program::snomesh(&["check", "node", "--agent", "/nowhere/admin.sock"]);
    assert_eq!(gone.code, Some(2), "{gone:?}");
    assert!(gone.text().starts_with("SNOMESH CRITICAL - no node answers"), "{gone:?}");
    // A node that joins nobody it could reach does not serve as it should.
    let alone = Agent::start(directory.path(), "b", &["--join", "127.0.0.1:1"]);
    let run = alone.run(&["check", "node"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.text().contains("none of the addresses to join could be reached"), "{run:?}");
}
