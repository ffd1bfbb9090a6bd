//! Every setting there is: one table, from which files, flags, the environment, help, checks and the schema come.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Kind {
    /// A text.
    Text,
    /// Several texts.
    List,
    /// A whole number above zero.
    Number,
    /// A duration: `500ms`, `10s`, `2m`.
    Time,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One setting.
#[derive(Debug)]
pub(in crate::node) struct Setting {
    /// `SECTION.NAME`.
    pub(in crate::node) key: &'static str,
    pub(in crate::node) kind: Kind,
    /// The variable of the environment that sets it; several values are separated by commas.
    pub(in crate::node) env: &'static str,
    /// The flag of `snomesh up` that sets it, as clap knows it.
    pub(in crate::node) flag: Option<&'static str>,
    /// What holds if nobody sets it; empty: that depends, or nothing.
    pub(in crate::node) default: &'static str,
    /// Whether a reload makes it hold, without a restart.
    pub(in crate::node) live: bool,
    pub(in crate::node) help: &'static str,
}

const fn setting(key: &'static str, kind: Kind, env: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, env, flag: None, default: "", live: false, help }
}

impl Setting {
    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    const fn live(self) -> Self {
        Self { live: true, ..self }
    }

    pub(in crate::node) fn section(&self) -> &'static str {
        self.key.split_once('.').expect("every key has a section").0
    }

    pub(in crate::node) fn name(&self) -> &'static str {
        self.key.split_once('.').expect("every key has a section").1
    }
}

/// How logs look.
pub(in crate::node) const LOG_FORMATS: &[&str] = &["auto", "pretty", "text", "json"];

pub(in crate::node) const SETTINGS: &[Setting] = &[
    setting(
        "node.name",
        Kind::Text,
        "SNOMESH_NAME",
        "What people call this node; the machine's name by default",
    )
    .flag("name"),
    setting("node.data_dir", Kind::Text, "SNOMESH_DATA_DIR", "Its directory: keys, state, admin socket")
        .flag("data_dir"),
    setting("mesh.seeds", Kind::List, "SNOMESH_JOIN", "Nodes of the mesh to join, HOST:PORT; tried for ever")
        .flag("join"),
    setting(
        "mesh.evict_after",
        Kind::Text,
        "SNOMESH_EVICT_AFTER",
        "How long a node may be down before nobody waits for it any more, at least 10m; off: for ever",
    )
    .or("72h"),
    setting("quic.listen", Kind::Text, "SNOMESH_LISTEN", "The UDP address to listen on: IP:PORT or PORT")
        .flag("listen")
        .or("127.0.0.1:7667"),
    setting("quic.advertise", Kind::List, "SNOMESH_ADVERTISE", "Where others reach this node, HOST:PORT")
        .flag("advertise"),
    setting("identity.ca", Kind::Text, "SNOMESH_CA", "The certificate of the mesh's authority")
        .flag("ca")
        .live(),
    setting(
        "identity.ca_key",
        Kind::Text,
        "SNOMESH_CA_KEY",
        "Its private key, to make this node's certificate with and to invite others",
    )
    .flag("ca_key")
    .live(),
    setting(
        "identity.cert_ttl",
        Kind::Time,
        "SNOMESH_CERT_TTL",
        "How long the certificates hold that this node signs, if it has the authority's key",
    )
    .or("8760h")
    .live(),
    setting(
        "registry.store",
        Kind::Word(&["disk", "memory"]),
        "SNOMESH_STORE",
        "Where the state is kept: on disk, or in memory to learn it from the peers after every start",
    )
    .flag("store")
    .or("disk"),
    setting(
        "registry.trust",
        Kind::Word(&["transport", "signed"]),
        "SNOMESH_TRUST",
        "Who is believed that an entry is its author's: every node, or its author's signature; the same at all nodes",
    )
    .or("transport"),
    setting(
        "admin.unix",
        Kind::Text,
        "SNOMESH_ADMIN",
        "The admin socket; admin.sock in the data directory by default",
    )
    .flag("admin"),
    setting(
        "admin.http",
        Kind::Text,
        "SNOMESH_ADMIN_HTTP",
        "An address of loopback for the admin API; needs a token",
    )
    .flag("http"),
    setting(
        "admin.token_file",
        Kind::Text,
        "SNOMESH_ADMIN_TOKEN_FILE",
        "The file of that token; made if it is missing",
    ),
    setting(
        "compat.listen",
        Kind::Text,
        "SNOMESH_COMPAT_LISTEN",
        "The UDP address to listen on for snocat's clients: IP:PORT or PORT; none come without it",
    ),
    setting(
        "compat.cert",
        Kind::Text,
        "SNOMESH_COMPAT_CERT",
        "The certificate that they are shown, PEM or DER: snomesh cert makes one",
    ),
    setting("compat.key", Kind::Text, "SNOMESH_COMPAT_KEY", "Its private key"),
    setting(
        "compat.public",
        Kind::Text,
        "SNOMESH_COMPAT_PUBLIC",
        "The TCP ports that they are granted, lowest first: IP:FIRST-LAST or IP:PORT",
    ),
    setting("log.level", Kind::Text, "SNOMESH_LOG", "What is logged: a level, or TARGET=LEVEL with commas")
        .or("warn,snomesh=info")
        .live(),
    setting(
        "log.format",
        Kind::Word(LOG_FORMATS),
        "SNOMESH_LOG_FORMAT",
        "How: auto is pretty on a terminal, json else",
    )
    .or("auto"),
    setting("limits.max_tunnels", Kind::Number, "SNOMESH_MAX_TUNNELS", "Connections at a time")
        .or("1024")
        .live(),
    setting("limits.max_tunnels_per_node", Kind::Number, "SNOMESH_MAX_TUNNELS_PER_NODE", "Of one other node")
        .or("4")
        .live(),
    setting("limits.max_streams", Kind::Number, "SNOMESH_MAX_STREAMS", "Streams of one connection at a time")
        .or("8192")
        .live(),
    setting(
        "limits.drain_timeout",
        Kind::Time,
        "SNOMESH_DRAIN_TIMEOUT",
        "How long streams may go on at the end",
    )
    .or("10s")
    .live(),
];

/// What an entry of `[[tunnel]]` has.
pub(in crate::node) const TUNNEL_KEYS: &[&str] = &["name", "target", "attrs", "health", "weight"];
/// What the table `health` of such an entry has.
pub(in crate::node) const HEALTH_KEYS: &[&str] =
    &["kind", "path", "command", "interval", "timeout", "rise", "fall"];
/// What an entry of `[[bind]]` has.
pub(in crate::node) const BIND_KEYS: &[&str] = &["listen", "tunnel", "policy"];
/// What an entry may be without.
pub(in crate::node) const OPTIONAL_KEYS: &[&str] = &["attrs", "health", "policy", "weight"];

/// The setting with that key.
pub(in crate::node) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The names of sections.
pub(in crate::node) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    SETTINGS
        .iter()
        .map(Setting::section)
        .filter(move |section| std::mem::replace(&mut last, section) != *section)
}
