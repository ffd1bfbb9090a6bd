//! Operations written down one by one: what each node does when, with nothing left to draw.
//!
//! People describe a workload by rates; a failure that is being reduced needs the very operations, so that one
//! can be taken away and all others stay as they were.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snomesh::crdt::Value;
use snomesh::id::{TunnelId, TunnelName};
use snomesh::replica::AttributeKey;

use super::value::Quantity;
use super::{Drawn, Time};

/// What is done besides the workload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    /// In any order; those of one moment in the order of the list.
    pub(crate) operations: Vec<Operation>,
}

/// One node does one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Operation {
    /// When, after the beginning.
    pub(crate) at: Duration,
    /// Which node.
    pub(crate) node: usize,
    /// What.
    pub(crate) action: Action,
}

/// The value that a text, filled up to a length, is.
pub(crate) fn value_of(text: &str, len: usize) -> Value {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(Value::MAX_LEN);
    bytes.resize(bytes.len().max(len.min(Value::MAX_LEN)), b'.');
    Value::try_from(&bytes[..]).expect("the length was cut to the limit")
}

/// What a node can be told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Sets an attribute to a text, filled up to a length.
    Set {
        /// Which.
        key: AttributeKey,
        /// The value's beginning.
        text: String,
        /// How long the value is at least.
        len: usize,
    },
    /// Sets an attribute to what it is already.
    Repeat(AttributeKey),
    /// Removes an attribute.
    Unset(AttributeKey),
    /// Registers a tunnel.
    Register(TunnelName, TunnelId),
    /// Takes a tunnel back.
    Deregister(TunnelName, TunnelId),
    /// Adds to a counter, or takes away.
    Count(AttributeKey, i64),
    /// Adds a text to a set.
    Add(AttributeKey, String),
    /// Removes a text from a set.
    Discard(AttributeKey, String),
}

/// An operation as it stands in a file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    at: Option<Time>,
    node: Option<usize>,
    set: Option<String>,
    value: Option<String>,
    len: Option<usize>,
    repeat: Option<String>,
    unset: Option<String>,
    register: Option<String>,
    deregister: Option<String>,
    tunnel: Option<String>,
    count: Option<String>,
    by: Option<i64>,
    add: Option<String>,
    discard: Option<String>,
    element: Option<String>,
}

impl TryFrom<Written> for Operation {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { at, node, set, value, len, repeat, unset, register, deregister, tunnel, .. } = written;
        let Written { count, by, add, discard, element, .. } = written;
        let at = at.ok_or("an operation needs `at`, such as at = \"5s\"")?;
        if !at.is_fixed() {
            return Err("the `at` of an operation is one time, not a range".to_owned());
        }
        let node = node.ok_or("an operation needs `node`, such as node = 0")?;
        let kinds = [&set, &repeat, &unset, &register, &deregister, &count, &add, &discard];
        if kinds.into_iter().flatten().count() != 1 {
            return Err("an operation has one of `set`, `repeat`, `unset`, `register`, `deregister`, `count`, `add` and \
                        `discard`"
                .to_owned());
        }
        if count.is_some() != by.is_some() {
            return Err("`count` has `by`, such as by = 3, and nothing else has".to_owned());
        }
        if add.as_ref().or(discard.as_ref()).is_some() != element.is_some() {
            return Err("`add` and `discard` have `element`, and nothing else has".to_owned());
        }
        if set.is_none() && (value.is_some() || len.is_some()) {
            return Err("only `set` has `value` and `len`".to_owned());
        }
        if register.as_ref().or(deregister.as_ref()).is_some() != tunnel.is_some() {
            return Err(
                "`register` and `deregister` have `tunnel`, 16 hexadecimal digits, and nothing else has"
                    .to_owned(),
            );
        }
        let key = |text: &str| text.parse::<AttributeKey>().map_err(|error| format!("{text}: {error}"));
        let name = |text: &str| text.parse::<TunnelName>().map_err(|error| format!("{text}: {error}"));
        let tunnel = tunnel
            .map(|text| text.parse::<TunnelId>().map_err(|error| format!("{text}: {error}")))
            .transpose()?;
        let tunnel = tunnel.unwrap_or(TunnelId(0));
        let element = element.unwrap_or_default();
        let action = match (set, repeat, unset, register, deregister, count, add, discard) {
            (Some(set), ..) => {
                Action::Set { key: key(&set)?, text: value.unwrap_or_default(), len: len.unwrap_or(0) }
            }
            (_, Some(repeat), ..) => Action::Repeat(key(&repeat)?),
            (_, _, Some(unset), ..) => Action::Unset(key(&unset)?),
            (_, _, _, Some(register), ..) => Action::Register(name(&register)?, tunnel),
            (_, _, _, _, Some(deregister), ..) => Action::Deregister(name(&deregister)?, tunnel),
            (.., Some(count), _, _) => Action::Count(key(&count)?, by.unwrap_or(0)),
            (.., Some(add), _) => Action::Add(key(&add)?, element),
            (.., Some(discard)) => Action::Discard(key(&discard)?, element),
            (None, None, None, None, None, None, None, None) => {
                return Err("an operation does something".to_owned());
            }
        };
        Ok(Self { at: at.low(), node, action })
    }
}

impl From<Operation> for Written {
    fn from(operation: Operation) -> Self {
        let mut written =
            Self { at: Some(Drawn::fixed(operation.at)), node: Some(operation.node), ..Self::default() };
        match operation.action {
            Action::Set { key, text, len } => {
                written.set = Some(key.to_string());
                written.value = Some(text);
                written.len = Some(len);
            }
            Action::Repeat(key) => written.repeat = Some(key.to_string()),
            Action::Unset(key) => written.unset = Some(key.to_string()),
            Action::Register(name, tunnel) => {
                written.register = Some(name.to_string());
                written.tunnel = Some(tunnel.to_string());
            }
            Action::Deregister(name, tunnel) => {
                written.deregister = Some(name.to_string());
                written.tunnel = Some(tunnel.to_string());
            }
            Action::Count(key, by) => (written.count, written.by) = (Some(key.to_string()), Some(by)),
            Action::Add(key, element) => {
                (written.add, written.element) = (Some(key.to_string()), Some(element));
            }
            Action::Discard(key, element) => {
                (written.discard, written.element) = (Some(key.to_string()), Some(element));
            }
        }
        written
    }
}

impl Schedule {
    /// Writes it as a table with one operation on a line.
    pub(super) fn text(&self) -> String {
        let mut text = "\n[schedule]\noperations = [\n".to_owned();
        for Operation { at, node, action } in &self.operations {
            let rest = match action {
                Action::Set { key, text, len } => format!("set = \"{key}\", value = {text:?}, len = {len}"),
                Action::Repeat(key) => format!("repeat = \"{key}\""),
                Action::Unset(key) => format!("unset = \"{key}\""),
                Action::Register(name, tunnel) => format!("register = \"{name}\", tunnel = \"{tunnel}\""),
                Action::Deregister(name, tunnel) => format!("deregister = \"{name}\", tunnel = \"{tunnel}\""),
                Action::Count(key, by) => format!("count = \"{key}\", by = {by}"),
                Action::Add(key, element) => format!("add = \"{key}\", element = {element:?}"),
                Action::Discard(key, element) => format!("discard = \"{key}\", element = {element:?}"),
            };
            // A string takes everything.
            writeln!(text, "    {{ at = \"{}\", node = {node}, {rest} }},", at.text()).ok();
        }
        text.push_str("]\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_they_are_written() {
        let tunnel = TunnelId(0xfedc_ba98_7654_3210);
        let key: AttributeKey = "mesh/k1".parse().unwrap();
        let name: TunnelName = "web".parse().unwrap();
        let actions = [
            Action::Set { key: key.clone(), text: "a\"b".to_owned(), len: 40 },
            Action::Repeat(key.clone()),
            Action::Unset(key.clone()),
            Action::Register(name.clone(), tunnel),
            Action::Deregister(name, tunnel),
            Action::Count(key.clone(), -3),
            Action::Add(key.clone(), "a\"b".to_owned()),
            Action::Discard(key, "b".to_owned()),
        ];
        let operation = |action| Operation { at: Duration::from_nanos(1_234_567_891), node: 2, action };
        let schedule = Schedule { operations: actions.into_iter().map(operation).collect() };
        let table: toml::Table = toml::from_str(&schedule.text()).unwrap();
        let read: Schedule = table["schedule"].clone().try_into().unwrap();
        assert_eq!(read.operations, schedule.operations);
    }

    #[test]
    fn an_operation_that_does_nothing_or_two_things_is_an_error() {
        let error = |text: &str| {
            toml::from_str::<Schedule>(&format!("operations = [{{ {text} }}]")).unwrap_err().to_string()
        };
        assert!(error("at = \"1s\", node = 0").contains("one of `set`"));
        assert!(
            error("at = \"1s\", node = 0, set = \"mesh/a\", unset = \"mesh/a\"").contains("one of `set`")
        );
        assert!(error("at = \"1s..2s\", node = 0, unset = \"mesh/a\"").contains("not a range"));
        assert!(error("at = \"1s\", node = 0, register = \"web\"").contains("16 hexadecimal digits"));
        assert!(error("at = \"1s\", node = 0, count = \"mesh/c\"").contains("`by`"));
        assert!(error("at = \"1s\", node = 0, add = \"mesh/s\"").contains("`element`"));
    }
}
