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
    "lagged-subscriber",
    "slow-peer",
    "mass-join",
    "concurrent-writers",
    "collection-during-partition",
    "delete-during-partition",
    "bit-flip-after-decrypt",
    "frozen-node",
    "clock-far-ahead",
    "swarm",
    "calm",
    "restart-in-memory",
}

/// The scenario of that name.
pub(crate) fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}
