//! The description of the API for programs: OpenAPI 3.0, from one table of operations and the types themselves.

use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::node::api;

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    /// A document of that name.
    Json(&'static str),
    /// Anything.
    Bytes,
    /// For people, or in a format of its own.
    Text(&'static str),
    /// Documents of that name, a line each.
    Lines(&'static str),
    /// Server-sent events.
    Events,
}

/// One method of one path.
#[derive(Clone, Copy)]
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
    body: Content,
    status: &'static str,
    answer: Content,
}

const fn get(path: &'static str, summary: &'static str, answer: Content) -> Operation {
    Operation { method: "get", path, summary, query: &[], body: Content::Nothing, status: "200", answer }
}

const fn change(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Content,
    status: &'static str,
    answer: Content,
) -> Operation {
    Operation { method, path, summary, query: &[], body, status, answer }
}

const fn with(operation: Operation, query: &'static [(&'static str, &'static str)]) -> Operation {
    Operation { query, ..operation }
}

const PREFIX: (&str, &str) = ("prefix", "The beginning of the full names");
const LIMIT: (&str, &str) =
    ("limit", "The most that are listed, and never more than 5,000; `next` then says where the rest begins");
const AFTER: (&str, &str) = ("after", "Only what comes after this, which is the `next` of another page");
const DURABILITY: (&str, &str) =
    ("durability", "disk, the default, or memory: when the write is acknowledged");
const FROM: (&str, &str) =
    ("from", "The id of the last event that was seen; the header Last-Event-ID does the same");

const TO: (&str, &str) = ("to", "NAME, NAME@NODE or a selector");
const POLICY: (&str, &str) = (
    "policy",
    "Which holder comes first: last, first, round-robin, nearest, least-conn, random, weighted or hash:src",
);

const OPERATIONS: &[Operation] = &[
    get("/healthz", "The process lives", Content::Text("text/plain")),
    get("/readyz", "It serves as it should; 503 with reasons if not", Content::Text("text/plain")),
    get("/metrics", "Metrics for Prometheus", Content::Text("application/openmetrics-text")),
    get("/openapi.json", "This description", Content::Text("application/json")),
    get("/v1/status", "The node, and what it is doing", Content::Json("Status")),
    with(
        get(
            "/v1/state",
            "What the mesh keeps, a line of JSON each: a StateLine; the last one says that it is whole",
            Content::Lines("StateLine"),
        ),
        &[("prefix", "Only attributes, counters and sets whose full names begin so")],
    ),
    change(
        "post",
        "/v1/state",
        "Put lines of a copy back; nothing is written if one of them is no line",
        Content::Json("ImportState"),
        "200",
        Content::Json("ImportedState"),
    ),
    get("/v1/digest", "The digest of the replicated state", Content::Json("Digest")),
    get("/v1/doctor", "Everything an operator would look at, check by check", Content::Json("Doctor")),
    change(
        "post",
        "/v1/ping",
        "Ask a node or a tunnel whether it answers",
        Content::Json("Ping"),
        "200",
        Content::Json("Pong"),
    ),
    change("post", "/v1/shutdown", "End the node in good order", Content::Nothing, "202", Content::Nothing),
    change(
        "post",
        "/v1/drain",
        "Say to all nodes that this one's tunnels are to be passed over; streams that live go on",
        Content::Nothing,
        "200",
        Content::Json("Drain"),
    ),
    change(
        "post",
        "/v1/resume",
        "Say that they may be picked again",
        Content::Nothing,
        "200",
        Content::Json("Drain"),
    ),
    get("/v1/convergence", "How far the state has come everywhere", Content::Json("Convergence")),
    with(get("/v1/nodes", "The nodes, this one first", Content::Json("NodeList")), &[LIMIT, AFTER]),
    with(
        get("/v1/tunnels", "Registrations, by name and tunnel", Content::Json("TunnelList")),
        &[
            ("name", "Only those of this name"),
            ("healthy", "true: only those that may be picked; false: only those whose targets do not serve"),
            PREFIX,
            LIMIT,
            AFTER,
        ],
    ),
    change(
        "put",
        "/v1/tunnels/{name}",
        "Offer a local service",
        Content::Json("Expose"),
        "200",
        Content::Json("Exposed"),
    ),
    change("delete", "/v1/tunnels/{name}", "Take the offer back", Content::Nothing, "204", Content::Nothing),
    get("/v1/binds", "The local addresses that lead into tunnels", Content::Json("BindList")),
    change(
        "post",
        "/v1/binds",
        "Bind a local address; port 0 takes a free one",
        Content::Json("Bind"),
        "201",
        Content::Json("Bind"),
    ),
    with(
        get(
            "/v1/resolve",
            "Which tunnels are meant, in the order in which they are tried",
            Content::Json("Resolution"),
        ),
        &[TO, POLICY, ("explain", "true: also those that are not meant, and why")],
    ),
    with(
        change(
            "post",
            "/v1/connect",
            "Turn the connection into a stream to a tunnel, framed as `snomesh-stream/1`",
            Content::Nothing,
            "101",
            Content::Nothing,
        ),
        &[TO, POLICY],
    ),
    change("delete", "/v1/binds/{listen}", "Take the bind back", Content::Nothing, "204", Content::Nothing),
    with(
        get("/v1/attributes", "Attributes, by key", Content::Json("AttributeList")),
        &[PREFIX, LIMIT, AFTER],
    ),
    with(
        get("/v1/attributes/{key}", "The bytes of a value", Content::Bytes),
        &[("format", "json: an Attribute, with siblings")],
    ),
    with(
        change(
            "put",
            "/v1/attributes/{key}",
            "Set it to the bytes of the body",
            Content::Bytes,
            "200",
            Content::Json("Write"),
        ),
        &[DURABILITY],
    ),
    with(
        change(
            "delete",
            "/v1/attributes/{key}",
            "Remove it",
            Content::Nothing,
            "200",
            Content::Json("Write"),
        ),
        &[DURABILITY],
    ),
    with(get("/v1/counters", "Counters, by key", Content::Json("CounterList")), &[PREFIX, LIMIT, AFTER]),
    get("/v1/counters/{key}", "What has been counted", Content::Json("Counter")),
    change(
        "post",
        "/v1/counters/{key}",
        "Count on from anywhere; a counter is there as soon as somebody counts",
        Content::Json("Increment"),
        "200",
        Content::Json("Counter"),
    ),
    with(get("/v1/sets", "Sets, by key", Content::Json("SetList")), &[PREFIX, LIMIT, AFTER]),
    with(get("/v1/sets/{key}", "The elements of a set", Content::Json("Members")), &[LIMIT, AFTER]),
    change(
        "post",
        "/v1/sets/{key}",
        "Add or remove an element; who adds wins over who removes at the same time",
        Content::Json("SetChange"),
        "200",
        Content::Json("Write"),
    ),
    with(get("/v1/events", "What happens, as it happens", Content::Events), &[FROM]),
    with(get("/v1/watch/attributes", "Attributes, synced, then changes", Content::Events), &[PREFIX, FROM]),
    with(get("/v1/watch/tunnels", "Tunnels, synced, then changes", Content::Events), &[PREFIX, FROM]),
    change(
        "post",
        "/v1/invites",
        "Make a token that lets another machine join",
        Content::Json("Invite"),
        "200",
        Content::Json("Invited"),
    ),
    change(
        "post",
        "/v1/revocations",
        "Cut a node off for ever, on all nodes",
        Content::Json("Revoke"),
        "200",
        Content::Json("Revoked"),
    ),
    change(
        "post",
        "/v1/nodes/{node}/forget",
        "Wait no more for a node that is not there; what it wrote stays",
        Content::Json("Forget"),
        "200",
        Content::Json("Forgotten"),
    ),
    get("/v1/acl", "The policy that holds: who may expose and connect what", Content::Json("Acl")),
    change(
        "put",
        "/v1/acl",
        "Make a policy hold on all nodes; needs the key of the mesh's authority",
        Content::Json("SetAcl"),
        "200",
        Content::Json("Acl"),
    ),
    with(
        get("/v1/acl/check", "Whether a node may do something, and why", Content::Json("AclVerdict")),
        &[
            ("node", "Its name, its id, or the beginning of its id"),
            ("may", "expose or connect"),
            ("what", "The name of a tunnel"),
        ],
    ),
    change(
        "post",
        "/v1/certificates/reload",
        "Read the node's certificate again",
        Content::Nothing,
        "200",
        Content::Json("Reloaded"),
    ),
    change(
        "post",
        "/v1/reload",
        "Read the configuration again",
        Content::Nothing,
        "200",
        Content::Json("Reload"),
    ),
    get("/v1/debug/log", "What is logged", Content::Json("LogState")),
    change(
        "put",
        "/v1/debug/log",
        "Log something else, for a while",
        Content::Json("LogLevel"),
        "200",
        Content::Json("LogState"),
    ),
    change(
        "post",
        "/v1/ui/links",
        "A link to the dashboard that works once",
        Content::Nothing,
        "201",
        Content::Json("UiLink"),
    ),
    change(
        "post",
        "/v1/ui/sessions",
        "Exchange the link's code",
        Content::Json("UiCode"),
        "201",
        Content::Json("UiSession"),
    ),
];

/// The document, as it is served and as it stands in `docs/openapi.json`.
pub(super) fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{:#}\n", document()))
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "snomesh admin API",
            "version": api::API_VERSION,
            "description": "HTTP and JSON on the node's unix socket, and on a port of loopback with a token. \
                Fields are added, never renamed or removed; clients ignore those that they do not know.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let segments =
        operation.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let text = json!({ "type": "string" });
    let in_path =
        segments.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }));
    let in_query = operation.query.iter().map(|(name, description)| {
        json!({ "name": name, "in": "query", "description": description, "schema": text })
    });
    let mut described = json!({
        "summary": operation.summary,
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": {
            operation.status: answered(operation.summary, operation.answer),
            "default": {
                "description": "A problem: RFC 9457",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            },
        },
    });
    if operation.body != Content::Nothing {
        described["requestBody"] = json!({ "required": true, "content": content(operation.body) });
    }
    described
}

fn answered(summary: &str, answer: Content) -> Value {
    match answer {
        Content::Nothing => json!({ "description": summary }),
        answer => json!({ "description": summary, "content": content(answer) }),
    }
}

fn content(content: Content) -> Value {
    let text = json!({ "type": "string" });
    match content {
        Content::Nothing => json!({}),
        Content::Json(name) => json!({ "application/json": { "schema": reference(name) } }),
        Content::Bytes => {
            json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } })
        }
        Content::Text(kind) => json!({ kind: { "schema": text } }),
        Content::Lines(name) => json!({ "application/x-ndjson": { "schema": reference(name) } }),
        Content::Events => json!({ "text/event-stream": { "schema": reference("Event") } }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn schemas() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
    macro_rules! include {
        ($($name:ident),*) => { $( generator.subschema_for::<api::$name>(); )* };
    }
    include!(
        Acl,
        AclVerdict,
        AttributeList,
        Attribute,
        Bind,
        BindList,
        Convergence,
        Counter,
        CounterList,
        Digest,
        Doctor,
        Drain,
        Event,
        Expose,
        Exposed,
        Forget,
        Forgotten,
        ImportState,
        ImportedState,
        Increment,
        Invite,
        Invited,
        LogLevel,
        LogState,
        Members,
        NodeList,
        Ping,
        Pong,
        Problem,
        Reload,
        Reloaded,
        Resolution,
        Revoke,
        Revoked,
        SetAcl,
        SetChange,
        SetList,
        StateLine,
        Status,
        TunnelList,
        UiCode,
        UiLink,
        UiSession,
        Write
    );
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COMMITTED: &str = "docs/openapi.json";

    fn root() -> std::path::PathBuf {
        env!("CARGO_MANIFEST_DIR").into()
    }

    /// The routes as they stand in the sources: path and method.
    fn routes() -> BTreeSet<(String, String)> {
        let directory = root().join("src/node/admin/routes");
        let mut routes = BTreeSet::new();
        for file in std::fs::read_dir(directory).unwrap() {
            let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // Routes of tests are served to nobody.
            let source = source.split("#[cfg(test)]").next().unwrap();
            for rest in source.split(".route(\"").skip(1) {
                let (path, rest) = rest.split_once('"').unwrap();
                let handlers = [".route(", ".merge(", "\n}"]
                    .into_iter()
                    .fold(rest, |rest, end| rest.split(end).next().unwrap());
                for method in ["get", "put", "post", "delete", "patch"] {
                    if handlers.contains(&format!("{method}(")) {
                        routes.insert((path.replace("{*", "{"), method.to_owned()));
                    }
                }
            }
        }
        assert!(routes.len() > 20, "{routes:?}");
        routes
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let described: BTreeSet<_> = OPERATIONS
            .iter()
            .map(|operation| (operation.path.to_owned(), operation.method.to_owned()))
            .collect();
        let routes = routes();
        let missing: Vec<_> = routes.difference(&described).collect();
        assert!(missing.is_empty(), "add to OPERATIONS in src/node/admin/openapi.rs: {missing:?}");
        let invented: Vec<_> = described.difference(&routes).collect();
        assert!(invented.is_empty(), "no route: {invented:?}");
    }

    #[test]
    fn the_committed_file_is_what_is_served() {
        let path = root().join(COMMITTED);
        if std::env::var_os("SNOMESH_BLESS").is_some() {
            std::fs::write(&path, text()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text(), "run this test with SNOMESH_BLESS=1 to write {COMMITTED} anew");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        for reference in text().split("\"$ref\": \"#/").skip(1) {
            let pointer = format!("/{}", reference.split('"').next().unwrap());
            assert!(document.pointer(&pointer).is_some(), "{pointer}");
        }
    }
}
