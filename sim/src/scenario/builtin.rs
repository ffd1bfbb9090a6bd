//! The scenarios that come with the program.

/// A scenario that comes with the program.
#[derive(Debug)]
pub(crate) struct Builtin {
    /// How it is called.
    pub(crate) name: &'static str,
    /// The file.
    pub(crate) text: &'static str,
}

macro_rules! builtin {
    ($($name:literal,)+) => {
        /// All of them, in the order of `sim list`.
        pub(crate) const BUILTIN: &[Builtin] = &[
            $(Builtin { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) },)+
        ];
    };
}

builtin! {
    "three-node-partition",
    "one-way-partition",
    "flapping-link",
    "crash-restart",
    "lost-disk",
    "turned-back",
    "cloned-disk",
    "lagged-subscriber",
    "slow-peer",
    "mass-join",
    "concurrent-writers",
    "collection-during-partition",
    "delete-during-partition",
    "bit-flip-after-decrypt",
    "frozen-node",
    "clock-far-ahead",
    "subscriber-panic",
    "rewrite-everything",
    "handshakes-fail",
    "hostile-bytes",
    "values-of-every-size",
    "clocks-years-off",
    "restart-storm",
    "join-and-die",
    "capacity-one",
    "made-and-removed",
    "no-route-at-start",
    "saturated-link",
    "burst-then-silence",
    "ring-of-neighbours",
    "forging-relay",
    "sealed-disks",
    "swizzled-links",
    "far-regions",
    "starved-node",
    "seed-outage",
    "resets-everywhere",
    "many-subscribers",
    "swarm",
    "chaos",
    "chaos-of-daemons",
    "counter-flood",
    "churn-by-crashes",
    "differing-states",
    "counters-and-sets",
    "plain-gossip",
    "calm",
    "restart-in-memory",
    "evicted-returns",
    "generations-come-and-go",
}

/// The scenario of that name.
pub(crate) fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}
